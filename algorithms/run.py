"""One verb of one algorithm on one data set, described by one JSON document: ``python -m algorithms '<RunSpec>'``.

No scheduler and no server is needed: a rank on a cluster and a debugger on a laptop run the same command. The result is left in the store.
"""

from __future__ import annotations

import errno
import json
import os
import random
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from algorithms.user_code import blame_user
from infra.artifacts import Artifact, fetch, find, publish
from infra.datasets.card import DatasetRef
from infra.errors import AtelierError, OutOfMemoryError, StoreAccessError, to_wire
from infra.settings import load_settings
from infra.store import Store, open_store

if TYPE_CHECKING:
    from algorithms.spec import Algorithm
    from infra.collectives import Collectives
    from infra.datasets.dataset import Dataset

Verb = Literal["train", "evaluate", "export", "compress", "measure", "explain"]
Event = dict[str, Any]
_NO_MEMORY = ("can't allocate memory", "cannot allocate memory", "out of memory", "bad_alloc")


class RunSpec(BaseModel):
    """What one process, or each rank of several, is to do.

    ``output`` is the key under which the resulting folder is published; ``checkpoints`` the key prefix of resumable state, shared by all
    attempts at the same training; ``model`` the trained model that ``evaluate``, ``export`` and ``explain`` start from; ``inputs`` other
    artifacts that a verb reads, by name. A ``train`` with a ``variant`` goes on from ``model``, and ``reference`` is its teacher.
    ``compress``, ``measure`` and ``explain`` are no engine's: they work on packages.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    verb: Verb
    algorithm: str
    config: dict[str, Any] = Field(default_factory=dict)
    dataset: DatasetRef
    workspace: str
    output: str
    checkpoints: str = ""
    model: Artifact | None = None
    reference: Artifact | None = None
    variant: dict[str, Any] = Field(default_factory=dict, description="How a compressed model is made; see algorithms.compression.")
    inputs: dict[str, Artifact] = Field(default_factory=dict)
    threads: int = Field(default=1, ge=1, description="CPU threads this rank may use.")
    lineage: dict[str, Any] = Field(default_factory=dict, description="Goes into the package as it is: model name, run key, data source.")


@dataclass
class Run:
    """What an engine's verb gets besides config and data: where it is, where to write, whom to tell.

    ``report`` sends an event (a JSON value with a ``kind``) to whoever started this run:
        progress  phase, epoch, epochs, step, steps, loss, metric, metric_name, samples_per_s, eta_s (any may be absent)
        metrics   step (int), values ({name: float}): logged to MLflow
        log       message: one line for a person
    Only rank 0 needs to report. ``output_dir`` is a local folder; what rank 0 leaves there is published. ``inputs`` are the folders of ``spec.inputs``.
    """

    spec: RunSpec
    store: Store
    collectives: Collectives
    output_dir: Path
    scratch_dir: Path
    model_dir: Path | None = None
    report: Callable[[Event], None] = lambda event: None
    extra: dict[str, Any] = field(default_factory=dict)
    reference_dir: Path | None = None
    inputs: dict[str, Path] = field(default_factory=dict)

    @property
    def is_main(self) -> bool:
        return self.collectives.rank == 0


def execute(spec: RunSpec, collectives: Collectives, report: Callable[[Event], None] = lambda event: None) -> Artifact | None:
    """Run one verb in this process as one rank of ``collectives``; rank 0 publishes and returns the artifact, others return None."""
    import numpy as np

    from algorithms.catalog import find_algorithm
    from infra.datasets.dataset import open_dataset

    settings = load_settings()
    algorithm = find_algorithm(spec.algorithm)
    config = algorithm.config(spec.config)
    random.seed(config.seed)
    np.random.seed(config.seed)
    store = open_store(spec.workspace)
    data = open_dataset(store, spec.dataset, settings.cache_path)
    with tempfile.TemporaryDirectory(prefix="atelier-") as scratch:
        output_dir = Path(scratch) / "output"
        output_dir.mkdir()
        model_dir = fetch(store, spec.model, settings.cache_path) if spec.model else None
        reference_dir = fetch(store, spec.reference, settings.cache_path) if spec.reference else None
        inputs = {name: fetch(store, artifact, settings.cache_path) for name, artifact in spec.inputs.items()}
        run = Run(spec, store, collectives, output_dir, Path(scratch), model_dir, report, reference_dir=reference_dir, inputs=inputs)
        _verb(algorithm, spec.verb)(config, data, run)
        if collectives.membership is None:  # else the others may go, and be lost, while rank 0 publishes
            collectives.barrier()
        if collectives.rank == 0:
            _seal(output_dir)
            (output_dir / "spec.json").write_text(json.dumps(spec.model_dump(mode="json", exclude={"threads"}), indent=2, sort_keys=True))
            publish(store, output_dir, spec.output, kind=spec.verb)
    return find(store, spec.output) if collectives.rank == 0 else None


def _seal(output_dir: Path) -> None:
    """A package leaves this process sealed, where the settings have a key: its plain model never lies in the store."""
    from algorithms._package_format import DESCRIPTION_FILE
    from algorithms._package_sealing import find_key, seal_in_place

    if (output_dir / DESCRIPTION_FILE).is_file() and (key := find_key()) is not None:
        seal_in_place(output_dir, key)


def _verb(algorithm: Algorithm, verb: Verb) -> Callable[[Any, Dataset, Run], None]:
    """The engine's own verb, or one that works on packages and is the same for all engines."""
    if verb == "explain":
        from algorithms.analysis.explain import explain

        return partial(explain, algorithm)
    if verb in ("compress", "measure"):
        from algorithms.compression import verbs

        return verbs.compress if verb == "compress" else verbs.measure
    found: Callable[[Any, Dataset, Run], None] = getattr(algorithm.engine, verb)
    return found


def known_error(error: Exception) -> AtelierError | None:
    """The error as one of ours, where it says what to do: no room on a disk, no memory; None: nothing is known about it."""
    if isinstance(error, AtelierError):
        return error
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        return StoreAccessError(str(error.filename or "the disk"), str(error.strerror), "Free some room, then run the same command again.")
    # torch raises plain RuntimeErrors on the CPU, and a class of its own on GPUs; C++ libraries pass on what `new` says.
    said = str(error).lower()
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or any(words in said for words in _NO_MEMORY):
        return OutOfMemoryError("A process of this run", (str(error).splitlines() or [type(error).__name__])[0][:300])
    return None


def attempt(work: Callable[[], None], report: Callable[[Event], None]) -> int:
    """Do the work of a process; returns its exit status. A failure is reported as an event before the process ends."""
    try:
        work()
    except Exception as error:  # noqa: BLE001 - the edge of the process: whatever it was reaches whoever started it
        known = known_error(error) or blame_user(error)
        if known is not None:
            report({"kind": "error", "error": to_wire(known)})
        else:
            report({"kind": "error", "traceback": traceback.format_exc(), "message": f"{type(error).__name__}: {error}"})
        traceback.print_exc()  # into the process's log; the user gets the sentence
        return known.exit_status if known is not None else 1
    return 0


def events_to_fd() -> Callable[[Event], None]:
    """A ``report`` that writes one JSON line an event to the file descriptor named by ``ATELIER_EVENTS_FD``; to nowhere without it."""
    fd = os.environ.get("ATELIER_EVENTS_FD")
    if fd is None:
        return lambda event: None
    pipe = os.fdopen(int(fd), "w", buffering=1)
    return lambda event: print(json.dumps(event), file=pipe, flush=True)
