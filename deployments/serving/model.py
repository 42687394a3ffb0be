"""One version of a model in memory: opened, warmed up, and asked through its queue."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from algorithms._package_format import read_description
from algorithms._package_runtime import num_cores, open_session
from algorithms._package_sealing import model_source
from algorithms.package import Package
from deployments.serving.batching import Batcher, Feeds
from deployments.serving.inputs import Limits, columns_of, picture_tensors, table_rows, table_tensors
from deployments.serving.metrics import VersionMetrics
from deployments.serving.tensors import refuse
from infra.registry import ModelVersion

ONE_THREAD_BELOW_S = 2e-3
_WARM_UP_RUNS = 3
_FEW = 64
_BANDS = 8


class ServedModel:
    """A loaded version with its queue and its metrics.

    Args:
        version: what the registry says of it.
        package: opened by ``open_package``.
    """

    def __init__(
        self,
        version: ModelVersion,
        package: Package,
        metrics: VersionMetrics,
        *,
        limits: Limits,
        max_batch: int,
        max_delay_s: float,
        max_waiting_rows: int,
        executor: Executor,
    ) -> None:
        self.version, self.package, self.metrics, self.limits = version, package, metrics, limits
        self.name, self.number = version.name, version.version
        self.columns = columns_of(package)
        self.labels = package.labels
        self.output = package.output
        self._bands = _bands(package) if self.output == "value" else None
        # Nothing in the queue points back here: a version that goes frees its memory at once, not when the collector comes round.
        self._run = partial(run_model, package, max_batch)
        self.batcher = Batcher(self._run, max_rows=max_batch, max_delay_s=max_delay_s, max_waiting_rows=max_waiting_rows, executor=executor)

    @property
    def is_image(self) -> bool:
        return self.package.is_image

    def warm_up(self) -> None:
        """Run it a few times, so that the first request is not slow, and so that the queue knows what a run takes."""
        feeds = sample(self.package)
        took = []
        for _ in range(_WARM_UP_RUNS):
            begun = time.perf_counter()
            self._run(feeds)
            took.append(time.perf_counter() - begun)
        self.batcher.run_s = min(took)

    def from_tensors(self, inputs: Mapping[str, NDArray[Any]]) -> tuple[dict[str, NDArray[Any]], int]:
        """Feeds and rows of a protocol request; see ``deployments.serving.inputs``."""
        return picture_tensors(inputs, self.limits) if self.is_image else table_tensors(inputs, self.columns, self.limits)

    def from_rows(self, rows: Sequence[Any]) -> dict[str, NDArray[Any]]:
        """Feeds of JSON rows."""
        if self.is_image:
            raise refuse(f"the model {self.name!r} takes pictures, not rows of a table")
        return table_rows(rows, self.package, self.columns, self.limits)

    def check(self, output: NDArray[Any]) -> None:
        """Refuse to answer with what is no finite number: the inputs were out of all range.

        Raises:
            RequestRefusedError: 422.
        """
        # Of a few numbers Python's own sum is faster than numpy's; what is not finite makes the sum not finite.
        total = sum(output.ravel().tolist()) if output.size <= _FEW else output.sum()
        if not math.isfinite(total) and not np.isfinite(output).all():
            row = int(np.argmax(~np.isfinite(output).reshape(len(output), -1).all(axis=1)))
            raise refuse(
                f"the model's answer to row {row} is not a finite number: its inputs are out of the range that the model knows", 422
            )

    def count(self, output: NDArray[Any]) -> list[str]:
        """Count the predictions by class, or by band of the value; their labels or bands, row by row."""
        if self._bands is not None:
            told = [self._bands[1][int(place)] for place in np.searchsorted(self._bands[0], output)]
        elif len(output) == 1 and output.size <= _FEW:
            (scores,) = output.tolist()
            told = [self.labels[scores.index(max(scores))]]
        else:
            told = [self.labels[int(place)] for place in output.argmax(axis=1)]
        for label in told:
            self.metrics.predicted(label)
        return told


def run_model(package: Package, max_rows: int, feeds: Feeds) -> NDArray[Any]:
    """The model's output for feeds, in runs of at most ``max_rows``."""
    rows = len(next(iter(feeds.values())))
    if rows <= max_rows:
        (output,) = package.session.run([package.output], dict(feeds))
    else:
        parts = [
            package.session.run([package.output], {name: value[at : at + max_rows] for name, value in feeds.items()})[0]
            for at in range(0, rows, max_rows)
        ]
        output = np.concatenate(parts)
    return output.reshape(-1) if package.output == "value" else output


def _bands(package: Package) -> tuple[NDArray[Any], list[str]] | None:
    """Bounds and names of bands of the value, by the mean and the standard deviation that the target had in training."""
    target = package.description.get("preprocessing", {}).get("target", {})
    mean, std = target.get("mean"), target.get("std")
    if not isinstance(mean, (int, float)) or not isinstance(std, (int, float)) or not std > 0:
        return np.zeros(0), ["all"]
    bounds = mean + std * np.linspace(-1.5, 1.5, _BANDS - 1)
    names = [f"below {bounds[0]:.6g}", *(f"from {low:.6g}" for low in bounds)]
    return bounds, names


def sample(package: Package) -> dict[str, NDArray[Any]]:
    """An input of one row that any such model takes: a grey picture, or a row of missing values."""
    if package.is_image:
        size = int(package.description.get("preprocessing", {}).get("image_size", 32))
        return {"image": np.full((1, size, size, 3), 127, dtype=np.uint8)}
    missing: dict[str, Any] = {"float": [np.nan], "int": [0], "string": [""]}
    return {name: package.as_column(name, missing[kind]) for name, kind in package.columns}


def threads_for(run_s: float, cores: int) -> int:
    """Threads within an operator: one where a run is short, because handing parts to others costs more than it brings."""
    return 1 if run_s < ONE_THREAD_BELOW_S else max(1, cores)


def open_package(folder: Path, *, cores: int | None = None) -> Package:
    """Open a package whose files were verified, with as many threads as suit it.

    Args:
        cores: that it may use at most; None: those of this process.
    """
    description = read_description(folder)
    model = model_source(folder, description)
    cores = cores or num_cores()
    package = Package(folder, description, open_session(model, threads=1))
    feeds = sample(package)
    took = []
    for _ in range(_WARM_UP_RUNS):
        begun = time.perf_counter()
        package.session.run([package.output], feeds)
        took.append(time.perf_counter() - begun)
    threads = threads_for(min(took), cores)
    return package if threads == 1 else Package(folder, description, open_session(model, threads=threads, spinning=False))
