"""What a large data set costs in memory: peak RSS of every kind of process, for a small and for a large folder of pictures, in one run.

    python benchmarks/memory.py [--gib 2] [--workers 2]

Both sides are ``atelier run image-classification/small-cnn`` for one epoch at 32x32 on JPEG files of 512x512, the small one on 60 of them. What the
libraries take is the same in both, so the difference is what the data takes. Claim: at most 1.5 GiB more in any process.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

MARK = "ATELIER_BENCHMARK_RUN"
KINDS = {
    "_supervisor": "supervisor",
    "algorithms": "rank",
    "_dask_worker": "Dask worker",
    "uvicorn": "Prefect server",
    "deployments.cli": "driver",
}


def write_pictures(folder: Path, num_bytes: int) -> int:
    """Noisy JPEG files in two classes, at least 60, until they take ``num_bytes``; returns how many."""
    generator = np.random.default_rng(0)
    written = number = 0
    while written < num_bytes or number < 60:
        path = folder / f"class-{number % 2}" / f"{number:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (512, 512, 3), dtype=np.uint8)
        pixels[..., number % 2] //= 2
        Image.fromarray(pixels).save(path, quality=85)
        written += path.stat().st_size
        number += 1
    return number


def kind_of(process: psutil.Process) -> str:
    words = " ".join(process.cmdline())
    return next((kind for sign, kind in KINDS.items() if sign in words), "other")


def run_and_watch(data: Path, folder: Path, workers: int) -> tuple[dict[str, int], float]:
    """Peak RSS in bytes by kind of process, and the seconds."""
    mark = uuid.uuid4().hex
    environment = {**os.environ, MARK: mark, "ATELIER_WORKSPACE": str(folder / "workspace"), "ATELIER_CACHE_DIR": str(folder / "cache")}
    command = [sys.executable, "-m", "deployments.cli", "run", "image-classification/small-cnn", "--data", str(data), "--name", "pictures"]
    command += ["--workers", str(workers), "--set", "epochs=1", "--set", "image_size=32", "--set", "channels=3"]
    peaks: dict[str, int] = defaultdict(int)
    begin = time.monotonic()
    with (folder / "output").open("wb") as output:
        driver = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
        while driver.poll() is None:
            for process in psutil.process_iter():
                try:
                    if process.environ().get(MARK) == mark:
                        kind = kind_of(process)
                        peaks[kind] = max(peaks[kind], process.memory_info().rss)
                except (psutil.NoSuchProcess, psutil.AccessDenied):
                    continue
            time.sleep(0.1)
    if driver.returncode != 0:
        sys.exit((folder / "output").read_text())
    return peaks, time.monotonic() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--gib", type=float, default=2.0)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    print(f"torch {version('torch')}, pyarrow {version('pyarrow')}, Python {platform.python_version()}, {os.cpu_count()} cores")
    found = {}
    for side, num_bytes in (("small", 0), ("large", int(arguments.gib * 2**30))):
        folder = Path(tempfile.mkdtemp(prefix="atelier-bench-"))
        try:
            number = write_pictures(folder / "pictures", num_bytes)
            found[side], seconds = run_and_watch(folder / "pictures", folder, arguments.workers)
            print(f"{side}: {number:,} pictures, {seconds:.0f} s")
        finally:
            shutil.rmtree(folder)
    for kind, large in sorted(found["large"].items()):
        small = found["small"].get(kind, 0)
        print(f"{kind:<15} {small / 2**20:7.0f} MiB  {large / 2**20:7.0f} MiB  more: {(large - small) / 2**20:+7.0f} MiB")
    most = max(large - found["small"].get(kind, 0) for kind, large in found["large"].items())
    print(f"largest difference {most / 2**30:.2f} GiB; at most 1.5: {'holds' if most <= 1.5 * 2**30 else 'does not hold'}")


if __name__ == "__main__":
    main()
