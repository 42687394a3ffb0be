"""Small data sets, and ranks in threads, for what learns."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from algorithms.run import Run, RunSpec
from algorithms.spec import Algorithm
from infra.artifacts import Artifact
from infra.collectives import Collectives, LocalCollectives
from infra.datasets.card import DatasetRef
from infra.datasets.dataset import Dataset, open_dataset
from infra.datasets.importer import import_source
from infra.settings import load_settings
from infra.store import Store, open_store


class _Meeting:
    """Where the ranks of a ``ThreadCollectives`` lay down their values and read those of the others."""

    def __init__(self, size: int) -> None:
        self.barrier = threading.Barrier(size, timeout=60)
        self.values: list[Any] = [None] * size

    def exchange(self, rank: int, value: Any) -> list[Any]:
        self.values[rank] = value
        self.barrier.wait()
        found = list(self.values)
        self.barrier.wait()
        return found


@dataclass
class ThreadCollectives:
    """Ranks as threads of one process: a fake at the seam. Every call is synchronous, an async one too."""

    rank: int
    size: int
    meeting: _Meeting
    sent: list[int] = field(default_factory=list)
    membership = None

    @property
    def local_rank(self) -> int:
        return self.rank

    @property
    def local_size(self) -> int:
        return self.size

    def all_reduce(self, tensor: torch.Tensor, op: str = "mean") -> None:
        assert tensor.is_contiguous()
        stack = torch.stack(self.meeting.exchange(self.rank, tensor.clone()))
        tensor.copy_(stack.amax(0) if op == "max" else stack.sum(0) / (self.size if op == "mean" else 1))

    def all_reduce_async(self, tensor: torch.Tensor, op: str = "mean") -> ThreadCollectives:
        self.sent.append(tensor.numel())
        self.all_reduce(tensor, op)
        return self

    def wait(self) -> None:
        """A reduction is done when ``all_reduce_async`` returns."""

    def broadcast(self, tensor: torch.Tensor, root: int = 0) -> None:
        tensor.copy_(self.meeting.exchange(self.rank, tensor.clone())[root])

    def all_gather_object(self, value: Any) -> list[Any]:
        return self.meeting.exchange(self.rank, value)

    def broadcast_object(self, value: Any, root: int = 0) -> Any:
        return self.meeting.exchange(self.rank, value)[root]

    def barrier(self) -> None:
        self.meeting.barrier.wait()

    def close(self) -> None:
        """Nothing is held."""


def on_ranks(size: int, work: Callable[[Any], Any]) -> list[Any]:
    """What ``work(collectives)`` gives on each of ``size`` ranks; the first error if one fails."""
    meeting = _Meeting(size)

    def guarded(rank: int) -> Any:
        try:
            return work(ThreadCollectives(rank, size, meeting))
        except BaseException:
            meeting.barrier.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(guarded, rank) for rank in range(size)]
    errors = [error for future in futures if (error := future.exception()) is not None]
    if errors:
        raise next((error for error in errors if not isinstance(error, threading.BrokenBarrierError)), errors[0])
    return [future.result() for future in futures]


def write_pictures(folder: Path, per_class: int = 24, classes: int = 3, sizes: tuple[tuple[int, int], ...] = ((20, 16), (33, 40))) -> Path:
    """An image folder whose classes differ by where a bright square stands."""
    random = np.random.default_rng(7)
    for label in range(classes):
        (folder / f"class-{label}").mkdir(parents=True)
        for number in range(per_class):
            height, width = sizes[number % len(sizes)]
            pixels = random.integers(0, 120, (height, width, 3))
            top, left = (label * height) // classes, (label * width) // classes
            pixels[top : top + height // 3, left : left + width // 3] += 120
            Image.fromarray(pixels.astype("uint8")).save(folder / f"class-{label}" / f"{number:03d}.png")
    return folder


@dataclass
class Workplace:
    """A store with a small picture data set, and runs in it."""

    folder: Path
    store: Store
    ref: DatasetRef

    def dataset(self) -> Dataset:
        return open_dataset(self.store, self.ref, load_settings().cache_path)

    def run(self, verb: str, name: str, *, collectives: Collectives | None = None, **more: Any) -> Run:
        """A ``Run`` whose events are in ``extra["events"]``."""
        checkpoints = more.pop("checkpoints", "")
        model_dir = more.pop("model_dir", None)
        rank = collectives.rank if collectives else 0
        output = self.folder / f"{verb}-{name}-{rank}"
        output.mkdir(parents=True, exist_ok=True)
        spec = RunSpec.model_validate(
            {
                "verb": verb,
                "algorithm": more.pop("algorithm", "image-classification/small-cnn"),
                "config": more,
                "dataset": self.ref,
                "workspace": self.store.uri,
                "output": f"runs/{name}/{verb}",
                "checkpoints": checkpoints,
            }
        )
        events: list[dict[str, Any]] = []
        return Run(spec, self.store, collectives or LocalCollectives(), output, output, model_dir, events.append, {"events": events})

    def train(
        self, algorithm: Algorithm, name: str, *, collectives: Collectives | None = None, checkpoints: str = "", **options: Any
    ) -> Run:
        """Train in this thread; the finished run."""
        run = self.run("train", name, collectives=collectives, checkpoints=checkpoints, algorithm=algorithm.name, **options)
        algorithm.engine.train(algorithm.config(options), self.dataset(), run)
        return run

    def artifact(self, key: str) -> Artifact | None:
        from infra.artifacts import find

        return find(self.store, key)


@pytest.fixture(scope="session")
def pictures_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """72 pictures of three classes and two sizes. Not to be changed."""
    return write_pictures(tmp_path_factory.mktemp("pictures") / "squares")


@pytest.fixture
def workplace(workspace: Path, pictures_folder: Path, tmp_path: Path) -> Workplace:
    """A fresh workspace with ``pictures_folder`` imported: 50 pictures to train on, 11 each to validate and test."""
    store = open_store(str(workspace))
    return Workplace(tmp_path / "runs", store, import_source(store, str(pictures_folder), "squares"))
