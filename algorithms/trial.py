"""One trial of a tuning: train, and where it is asked for measure what a user of the model will feel. Runs in a warm process."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from algorithms.run import Event, RunSpec, attempt, execute
from infra.artifacts import fetch, read_file
from infra.collectives import open_collectives
from infra.settings import load_settings
from infra.store import open_store

Measure = Literal["latency", "size"]
LATENCY_BATCHES, LATENCY_RUNS = 5, 20

# What every training loads before its first step, every trial, and every trial that writes a package; engines name the rest.
_FIRST = ("numpy", "pyarrow.parquet", "algorithms.catalog", "infra.datasets.dataset")
_COMMON = (*_FIRST, "pandas", "algorithms.metrics")
_EXPORT = ("onnx", "onnxruntime", "algorithms.package")
_CLOSER = ("algorithms.compression.verbs", "algorithms.analysis.explain")


class TrialSpec(BaseModel):
    """What one trial is to do: a training, and what to measure of the package that comes of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    train: RunSpec
    measure: tuple[Measure, ...] = ()


def warm_modules(engine: Any, *, measures: bool) -> tuple[str, ...]:
    """Modules that a warm process loads before its first trial; an engine that names none loads its own when it trains.

    Args:
        measures: whether trials write packages, too.
    """
    export = (*_EXPORT, *getattr(engine, "export_modules", ())) if measures else ()
    return (*_COMMON, *export, *getattr(engine, "modules", ()))


def rank_modules(engine: Any, config: Any) -> tuple[str, ...]:
    """Modules that the parent of a rank loads before it forks one that trains: no more than the first step needs, which waits for them."""
    return (*_FIRST, *(engine.first_modules(config) if hasattr(engine, "first_modules") else ()))


def verb_modules(engine: Any) -> tuple[str, ...]:
    """Modules that a warm process loads before it evaluates, exports, compresses or explains."""
    return (*warm_modules(engine, measures=True), *_CLOSER)


def run(argument: str, report: Callable[[Event], None]) -> int:
    """Do what a ``TrialSpec`` says; returns the exit status.

    Events: those of the training, and at the end ``trial`` with ``value`` (the validation metric of the weights that were kept; absent
    without one), ``metric``, and of the package ``latency_ms`` and ``size_mib`` where they are to be measured.
    """
    return attempt(lambda: _trial(TrialSpec.model_validate_json(argument), report), report)


def _trial(spec: TrialSpec, report: Callable[[Event], None]) -> None:
    threads = int(os.environ.get("ATELIER_THREADS", "1"))
    train = spec.train.model_copy(update={"threads": threads})
    with open_collectives(threads) as collectives:
        trained = execute(train, collectives, report)
    assert trained is not None, "a rank alone is the main one"
    store = open_store(train.workspace)
    history = json.loads(read_file(store, trained, "history.json"))
    event: Event = {"kind": "trial", "metric": history["metric"], "value": best_value(history)}
    if spec.measure:
        export = train.model_copy(update={"verb": "export", "output": f"{train.output}-package", "model": trained})
        try:
            with open_collectives(threads) as collectives:
                package = execute(export, collectives)
            assert package is not None, "a rank alone is the main one"
            event |= _measured(fetch(store, package, load_settings().cache_path))
        finally:
            store.delete(export.output)
    report(event)


def best_value(history: dict[str, Any]) -> float | None:
    """The validation metric of the model that a training kept, from its ``history.json``; None without a valid split."""
    name = f"valid_{history['metric']}"
    kept: dict[str, Any] = next((entry for entry in history["epochs"] if entry["epoch"] == history["best_epoch"]), {})
    return float(kept[name]) if name in kept else None


def _measured(folder: Path) -> dict[str, float]:
    """Size of the model's file (MiB), and latency of one sample on one thread (ms): the fastest of several batches' medians, which
    other work on the machine disturbs least."""
    from algorithms._package_sealing import plain_model
    from algorithms.package import Package

    package = Package.load(folder, ["CPUExecutionProvider"], threads=1)
    sample = _sample(package)
    medians = []
    for _ in range(LATENCY_BATCHES):
        times = []
        for _ in range(LATENCY_RUNS):
            begin = time.perf_counter()
            package.predict_arrays(sample)
            times.append(time.perf_counter() - begin)
        medians.append(sorted(times)[LATENCY_RUNS // 2])
    return {"latency_ms": 1000 * min(medians), "size_mib": len(plain_model(folder)) / 2**20}


def _sample(package: Any) -> Any:
    """One input of the right kind; what is in it does not matter for the time."""
    import numpy as np

    if package.is_image:
        side = int(package.description["preprocessing"].get("image_size", 224))
        return [np.zeros((side, side, 3), np.uint8)]
    empty = {"string": np.asarray([""], dtype=object), "int": np.zeros(1, np.int64), "float": np.zeros(1, np.float32)}
    return {name: empty[kind] for name, kind in package.columns}
