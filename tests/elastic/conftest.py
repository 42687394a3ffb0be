"""Elastic jobs on a Dask cluster of the tests' own, whose workers may be killed."""

from __future__ import annotations

import itertools
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from infra.cluster import open_cluster
from infra.elastic.launch import launch_elastic
from infra.elastic.policy import Limits
from infra.settings import Settings
from tests.processes import marked

if TYPE_CHECKING:
    from distributed import Client

ROOT = Path(__file__).parents[2]
PRELOAD = ("torch", "torch._dynamo", "algorithms.engines.loop", "torch.utils.tensorboard", "infra.elastic.collectives", "horovod.torch?")
MARK = "ELASTIC_MARK"


@pytest.fixture(scope="session")
def own_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Three workers with one slot each; a worker that is killed is replaced."""
    folder = tmp_path_factory.mktemp("elastic-cluster")
    with open_cluster(Settings(workspace=str(folder), cache_dir=folder / "cache", slots=3)) as client:
        yield client


@dataclass
class Ran:
    """What a job did."""

    events: list[dict[str, Any]] = field(default_factory=list)
    steps: list[dict[str, Any]] = field(default_factory=list)  # as rank 0 wrote them down: what a killed worker had to tell may be lost
    outputs: dict[str, str] = field(default_factory=dict)  # what each rank printed
    error: BaseException | None = None
    seconds: float = 0.0

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["kind"] == kind]

    @property
    def trained(self) -> dict[str, Any]:
        assert self.error is None, f"{self.error}\n{[event.get('message') for event in self.of('log')]}"
        return self.of("trained")[-1]

    def coverage(self, epoch: int) -> list[tuple[int, int]]:
        """The batches of an epoch that counted: of steps that were done again, the last time."""
        assert self.trained
        done: list[tuple[int, int]] = []
        for event in self.steps or self.of("step"):
            if event["epoch"] == epoch:
                first, last = event["bounds"]
                done = [bounds for bounds in done if bounds[1] <= first]
                done.append((first, last))
        return done

    def repeated(self) -> int:
        """Steps that were done more than once."""
        keys = [(event["epoch"], *event["bounds"]) for event in self.steps or self.of("step")]
        return len(keys) - len(set(keys))


Start = Callable[..., Ran]


@pytest.fixture
def start(own_cluster: Client, tmp_path: Path) -> Start:
    """Runs ``elastic_program`` to its end; ``on_event(event)`` acts on what it hears. No process of it is left, however it ended."""
    flags = tmp_path / "flags"
    flags.mkdir()
    numbers = itertools.count()

    def run(
        least: int = 2,
        most: int = 2,
        *,
        on_event: Callable[[dict[str, Any]], None] = lambda event: None,
        client: Client | None = None,
        **more: Any,
    ) -> Ran:
        launching = {key: more.pop(key) for key in ("backend", "deadline_s", "discovery", "figures") if key in more}
        limits = Limits(least, most, **{key: more.pop(key) for key in list(more) if key in Limits.__dataclass_fields__})
        if fault := more.get("fault"):
            (flags / ("always" if more.pop("always", False) else "once")).write_text(fault)
        number = next(numbers)
        workspace = tmp_path / f"workspace-{number}"
        document = {
            "epochs": 2,
            "samples": 640,
            "batch": 32,
            "workspace": str(workspace),
            "flags": str(flags),
            **more,
        }
        ran = Ran()

        def hear(event: dict[str, Any]) -> None:
            ran.events.append(event)
            on_event(event)

        began, mark = time.monotonic(), uuid.uuid4().hex
        try:
            launch_elastic(
                json.dumps(document),
                client=client or own_cluster,
                limits=limits,
                threads_per_rank=1,
                preload=PRELOAD,
                on_event=hear,
                on_output=ran.outputs.__setitem__,
                env={"PYTHONPATH": str(ROOT), MARK: mark, "ATELIER_CACHE_DIR": str(tmp_path / "cache")},
                module="tests.elastic.elastic_program",
                log_dir=tmp_path / "logs",
                **{"deadline_s": 400.0, **launching},
            )
        except Exception as error:  # noqa: BLE001 - tests look at it
            ran.error = error
        ran.seconds = time.monotonic() - began
        steps = workspace.with_name(f"{workspace.name}-steps")
        ran.steps = [json.loads(line) for line in steps.read_text().splitlines()] if steps.exists() else []
        limit = time.monotonic() + 10
        while ranks_of(mark):
            assert time.monotonic() < limit, "ranks are left"
            time.sleep(0.02)
        return ran

    return run


def ranks_of(mark: str) -> list[int]:
    """Ranks that run; their parents, the warm processes, stay for the next job."""
    import psutil

    found = []
    for pid in marked(MARK, mark):
        try:
            if "_warm_process" in " ".join((psutil.Process(pid).parent() or psutil.Process(pid)).cmdline()[:5]):
                found.append(pid)
        except psutil.NoSuchProcess:
            continue
    return found


def once(action: Callable[[], Any], when: Callable[[dict[str, Any]], bool]) -> Callable[[dict[str, Any]], None]:
    """Do something at the first event for which ``when`` is true."""
    lock = threading.Lock()
    done: list[bool] = []

    def hear(event: dict[str, Any]) -> None:
        with lock:
            if not done and when(event):
                done.append(True)
                action()

    return hear
