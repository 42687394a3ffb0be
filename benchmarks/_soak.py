"""Minutes of load while versions change over: no error, and memory does not grow.

    python -m benchmarks._soak [--minutes 10] [--swap-s 20]

Four kinds of requests from eight connections (JSON, binary, a picture, a broken one, which must be refused), on loopback. Every ``--swap-s`` seconds the
other of two versions is promoted. Memory of the server (RSS) is read every 5 s; what counts is the mean of the last quarter against that of
the second quarter, because caches and arenas fill in the first.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
from PIL import Image

from benchmarks._load import Load, post, run_load
from benchmarks.serving import atelier, free_port, infer_binary, infer_json, make_package, pictures, register, server

MOST_GROWTH_MIB = 16.0


def swap(name: str, every_s: float, stop: threading.Event) -> int:
    """Promote versions 1 and 2 in turns; how often."""
    from infra.registry import Registry
    from infra.settings import load_settings
    from infra.store import open_store

    settings = load_settings()
    registry, number = Registry(settings, open_store(settings.workspace_uri)), 0
    while not stop.wait(every_s):
        number += 1
        registry.promote(name, 1 + number % 2, reason=f"soak {number}")
    return number


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--swap-s", type=float, default=20.0)
    arguments = parser.parse_args()
    seconds = min(arguments.minutes, 30.0) * 60
    with tempfile.TemporaryDirectory(prefix="atelier-soak-") as name:
        folder = Path(name)
        os.environ["ATELIER_WORKSPACE"] = str(folder / "workspace")
        for number in (1, 2):
            register("small", make_package(folder / f"small-{number}", "small-cnn", 28, 1))
        port = free_port()
        command = atelier(port, "small", "--poll-s", "0.5", "--capture", "0.05")
        file = io.BytesIO()
        image = pictures(1, 28)[0]
        Image.fromarray(image[0]).save(file, "PNG")
        asked = [
            post("/v2/models/small/infer", infer_json(image), {"Content-Type": "application/json"}),
            post("/v2/models/small/infer", *infer_binary(image)),
            post("/v2/models/small/predict", file.getvalue(), {"Content-Type": "image/png"}),
            post("/v2/models/small/predict", file.getvalue()[:200], {"Content-Type": "image/png"}),
        ]
        with server(command, f"http://127.0.0.1:{port}/v2/health/ready"):
            process = next(
                one
                for one in psutil.process_iter(["cmdline"])
                if str(port) in (one.info["cmdline"] or []) and "serve" in one.info["cmdline"]
            )
            stop, memory, swaps = threading.Event(), [], []
            swapping = threading.Thread(target=lambda: swaps.append(swap("small", arguments.swap_s, stop)))
            swapping.start()
            total = Load()
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                load = run_load(port, asked * 2, min(5.0, max(0.5, end - time.monotonic())))
                total.latencies_s = [*total.latencies_s[-100_000:], *load.latencies_s]
                for status, count in load.statuses.items():
                    total.statuses[status] = total.statuses.get(status, 0) + count
                memory.append(process.memory_info().rss / 2**20)
            stop.set()
            swapping.join()
    quarter = max(1, len(memory) // 4)
    early, late = statistics.mean(memory[quarter : 2 * quarter] or memory), statistics.mean(memory[-quarter:])
    requests = sum(total.statuses.values())
    print(f"{requests:,} requests in {seconds:.0f} s, by status {total.statuses}; {swaps[0]} swaps")
    shown = ", ".join(f"{one:.0f}" for one in memory[:: max(1, len(memory) // 20)])
    print(f"RSS, MiB: {shown}")
    print(f"memory: {early:.0f} MiB in the second quarter, {late:.0f} MiB in the last: {late - early:+.1f} MiB")
    right = set(total.statuses) == {200, 400} and late - early <= MOST_GROWTH_MIB and swaps[0] >= 1
    print("holds" if right else "DOES NOT HOLD")
    sys.exit(not right)


if __name__ == "__main__":
    main()
