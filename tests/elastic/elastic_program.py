"""What a rank of the fault tests does: the real training loop on a small network and made-up samples, and a fault where the document asks for one.

The document (JSON): ``workspace``, ``epochs``, ``samples``, ``batch``, ``sleep`` (seconds of each step, until there is a flag ``hurry``),
``options`` (of the config), ``bad_worker`` (process id of a Dask worker on which every rank is killed as it begins), ``fault`` and ``rank`` and
``at`` (epoch and step) of it, ``flags``: a folder, in which a file lights a fault or ends a pause, so that tests decide by events.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from algorithms.engines.loop import Training
from algorithms.engines.torch_config import TorchConfig
from algorithms.engines.torch_engine import TorchData
from algorithms.run import Run, RunSpec, attempt
from infra.collectives import Collectives, open_collectives
from infra.datasets.card import DatasetRef
from infra.store import open_store

Event = dict[str, Any]


class Samples:
    """Points on two sides of a plane, with noise."""

    def __init__(self, count: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.inputs = rng.normal(size=(count, 8)).astype(np.float32)
        self.labels = (self.inputs[:, :4].sum(1) + 0.3 * rng.normal(size=count) > 0).astype(np.int64)

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.inputs[indices], self.labels[indices]

    def ids(self) -> list[str]:
        return [str(number) for number in range(len(self))]


class Watched(Training):
    """Tells every step, with the samples that this rank took, and has the faults."""

    document: dict[str, Any]
    tell: Callable[[Event], None]

    def _step(self, step: int, parts: Any) -> Any:
        fault, at = self.document.get("fault", ""), self.at
        where = {"epoch": at.epoch, "step": step, "size": self.collectives.size}
        membership = self.collectives.membership
        where["generation"] = membership.generation if membership is not None else 0
        if fault and [at.epoch, step] == self.document.get("at", [0, 7]) and self._strikes():
            _fail(fault)
        if not (Path(self.document["flags"]) / "hurry").exists():
            time.sleep(
                self.document.get("sleep", 0.0) * (1 if step < 50 else 15)
            )  # what a test waits for comes, however busy the machine is
        loss = super()._step(step, parts)
        first, last = self.pace.bounds(at.epoch, step)
        if self.collectives.rank == 0:
            word = {"kind": "step", "bounds": [first, last], "pid": os.getpid(), **where}
            with Path(f"{self.document['workspace']}-steps").open("a") as steps:
                steps.write(json.dumps(word) + "\n")
            self.tell(word)
        return loss

    def _strikes(self) -> bool:
        """On one rank, once: who takes the file has the fault; where the file is named ``always``, each time."""
        flags = Path(self.document["flags"])
        wanted = self.document.get("rank", 0)
        if self.collectives.rank != wanted or (self.collectives.size < 2 and wanted > 0):
            return False
        if (flags / "always").exists():
            return True
        try:
            (flags / "once").unlink()
        except FileNotFoundError:
            return False
        return True


def _die_on(worker: int | None, flags: Path) -> None:
    """A machine on which nothing runs: each rank that it kills leaves a file."""
    if worker in [parent.pid for parent in psutil.Process().parents()]:
        (flags / f"died-{os.getpid()}").touch()
        os.kill(os.getpid(), signal.SIGKILL)


def _fail(fault: str) -> None:
    match fault:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "hang":
            _hang_here()
        case "memory":
            _take_too_much()
        case "raise":
            raise ValueError("the user's code is wrong here")
        case "exit":
            print("a library ended the process", file=sys.stderr, flush=True)
            os._exit(3)


def _take_too_much() -> None:
    """Ask torch for more than this process may have."""
    import resource

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, used + 2**28))
    torch.ones(2**30)


def _fill_disk() -> None:
    """From now on nothing can be written into a store."""
    import errno

    import infra._folder

    def refuse(*args: Any, **rest: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "disk")

    infra._folder.write_synced = refuse
    infra._folder.FolderStore.stage_file = refuse  # type: ignore[method-assign]


def _hang_here() -> None:
    time.sleep(3600)


def train(document: dict[str, Any], collectives: Collectives, report: Callable[[Event], None]) -> None:
    torch.manual_seed(3)
    model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2))
    options = {"epochs": document["epochs"], "batch_size": document["batch"], "precision": "fp32", "learning_rate": 0.01}
    config = TorchConfig(**{**options, **document.get("options", {})})
    samples = {"train": Samples(document["samples"], 1), "valid": Samples(256, 2)}
    data = TorchData("class", ["left", "right"], (8,), samples, {})
    spec = RunSpec(
        verb="train",
        algorithm="test",
        dataset=DatasetRef(digest="0" * 64, kind="table"),
        workspace=document["workspace"],
        output="output",
        checkpoints="checkpoints",
    )
    _die_on(document.get("bad_worker"), Path(document["flags"]))
    with tempfile.TemporaryDirectory() as scratch:
        if document.get("fault") == "full":
            _fill_disk()
        run = Run(spec, open_store(document["workspace"]), collectives, Path(scratch), Path(scratch), report=report)
        training = Watched(config, data, model, lambda inputs, _: inputs, run, torch.device("cpu"), "fp32")
        training.document, training.tell = document, report
        report({"kind": "ready", "pid": os.getpid()})
        trained = training.fit()
        if trained.weights is not None:
            digest = float(sum(weight.double().abs().sum() for weight in trained.weights.values()))
            report({"kind": "trained", "history": trained.history, "digest": digest})


def run(argument: str, report: Callable[[Event], None]) -> int:
    def work() -> None:
        with open_collectives(1) as collectives:
            train(json.loads(argument), collectives, report)

    return attempt(work, report)
