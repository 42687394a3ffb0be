"""How fast packages are on this host: ``python -m algorithms.compression.latency SPEC.json``, a process with onnxruntime alone.

The packages take turns in short rounds, so that what else the machine does hits all of them alike; speedups are medians over rounds in which
both sides ran. The spec: ``packages`` ({name: folder}, the reference first), ``inputs`` (an .npz with the graph's inputs, some samples),
``batch_sizes``, ``threads``, ``limit_s`` and ``output`` (the file to write).
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from algorithms.package import Package
from infra.processor import processor_name

_TURN_S = 0.012
_MOST_ROUNDS = 25
_LEAST_ROUNDS = 5
_LEAST_RUNS = 3
_MOST_RUNS = 60

Feeds = dict[str, NDArray[Any]]
Times = dict[str, list[list[float]]]


def read_inputs(path: Path) -> Feeds:
    """Texts are kept without pickle, and are objects for onnxruntime."""
    with np.load(path, allow_pickle=False) as found:
        return {name: found[name].astype(object) if found[name].dtype.kind == "U" else found[name] for name in found.files}


def batch_of(feeds: Feeds, size: int) -> Feeds:
    """The first ``size`` samples, repeated if there are fewer."""
    return {name: np.concatenate([values] * -(-size // len(values)))[:size] for name, values in feeds.items()}


def measure(packages: dict[str, Package], feeds: Feeds, limit_s: float) -> Times:
    """Seconds of every run of every package, by round; one package's turn is 12 ms or three runs."""
    runs = {name: _warm_up(package, feeds) for name, package in packages.items()}
    times: Times = {name: [] for name in packages}
    names = list(packages)
    begin = time.monotonic()
    for number in range(_MOST_ROUNDS):
        if number >= _LEAST_ROUNDS and time.monotonic() - begin > limit_s:
            break
        start = number % len(names)
        for name in [*names[start:], *names[:start]]:  # nobody is always first
            times[name].append([_once(packages[name], feeds) for _ in range(runs[name])])
    return times


def _once(package: Package, feeds: Feeds) -> float:
    begin = time.perf_counter()
    package.session.run([package.output], feeds)
    return time.perf_counter() - begin


def _warm_up(package: Package, feeds: Feeds) -> int:
    """Run until it is warm; returns how many runs fill a turn."""
    first = min(_once(package, feeds) for _ in range(3))
    return int(min(max(_TURN_S / max(first, 1e-6), _LEAST_RUNS), _MOST_RUNS))


def summarize(times: Times, reference: str, batch_size: int) -> dict[str, dict[str, float]]:
    """Per package ``p50_ms``, ``p95_ms``, ``speedup`` over the reference and ``samples_per_s``."""
    base = [statistics.median(turn) for turn in times[reference]]
    found = {}
    for name, rounds in times.items():
        every = np.concatenate([np.asarray(turn) for turn in rounds])
        middle = float(np.median(every))
        ratios = [one / statistics.median(turn) for one, turn in zip(base, rounds, strict=True)]
        found[name] = {
            "p50_ms": middle * 1e3,
            "p95_ms": float(np.percentile(every, 95)) * 1e3,
            "speedup": statistics.median(ratios),
            "samples_per_s": batch_size / middle,
        }
    return found


def describe_host(threads: int, providers: list[str]) -> dict[str, Any]:
    """What was measured on."""
    return {
        "name": platform.node(),
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "threads": threads,
        "providers": providers,
        "onnxruntime": ort.__version__,
        "load": list(os.getloadavg()),
    }


def main(path: str) -> int:
    """Measure as ``SPEC.json`` says."""
    spec = json.loads(Path(path).read_text())
    packages = {name: Package.load(folder, threads=spec["threads"], verify=False) for name, folder in spec["packages"].items()}
    inputs = read_inputs(Path(spec["inputs"]))
    reference = next(iter(packages))
    found: dict[str, Any] = {name: {} for name in packages}
    for size in spec["batch_sizes"]:
        summary = summarize(measure(packages, batch_of(inputs, size), spec["limit_s"]), reference, size)
        for name, speed in summary.items():
            found[name][str(size)] = speed
    host = describe_host(spec["threads"], packages[reference].session.get_providers())
    Path(spec["output"]).write_text(json.dumps({"host": host, "speed": found}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
