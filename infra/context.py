"""What every stage needs of the outside world, made once per run and handed to the stages; it is never part of a cache key."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from infra.settings import Settings, load_settings
from infra.store import Store, open_store

if TYPE_CHECKING:
    from distributed import Client
    from pydantic import BaseModel

    from infra.warm import WarmJobs

Backend = Literal["auto", "horovod", "torch"]


def _ignore(event: dict[str, Any]) -> None:
    """Nobody listens."""


@dataclass
class StageContext:
    """Settings, store, progress and, from the first time that somebody asks, a Dask cluster; leaving it closes what was opened.

    Attributes:
        settings: of this process.
        store: the workspace.
        report: gets every event (a JSON value with a ``kind``, see ``algorithms.run.Run``).
        workers: ranks of a distributed training.
        fresh: do everything again, also what lies in the store already.
        backend: how ranks talk: auto, horovod or torch.
    """

    settings: Settings
    store: Store
    report: Callable[[dict[str, Any]], None] = _ignore
    workers: int = 1
    backend: Backend = "auto"
    fresh: bool = False
    _stack: ExitStack = field(default_factory=ExitStack)
    _starter: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="start-cluster"))
    _starting: Future[Client] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _pools: dict[tuple[str, ...], WarmJobs] = field(default_factory=dict)

    @classmethod
    def open(
        cls,
        settings: Settings | None = None,
        report: Callable[[dict[str, Any]], None] = _ignore,
        *,
        workers: int = 1,
        backend: Backend | None = None,
        fresh: bool = False,
    ) -> StageContext:
        settings = settings or load_settings()
        return cls(settings, open_store(settings.workspace_uri), report, workers, backend or settings.backend, fresh)

    def client(self) -> Client:
        """The Dask cluster's client; started on the first call, the same one afterwards.

        Raises:
            ServiceError: the cluster did not start, or does not answer.
        """
        self.start_cluster()
        assert self._starting is not None
        return self._starting.result()

    def also_report(self, listener: Callable[[dict[str, Any]], None]) -> None:
        """Send the events that follow to ``listener`` too."""
        first = self.report

        def both(event: dict[str, Any]) -> None:
            first(event)
            listener(event)

        self.report = both

    def start_cluster(self) -> None:
        """Begin to start the cluster in the background; if that fails, ``client`` says so."""
        with self._lock:
            if self._starting is None:
                self._starting = self._starter.submit(self._open_cluster)

    def use_cluster(self, client: Client) -> None:
        """Take a cluster that somebody else started and will close."""
        with self._lock:
            self._starting = Future()
            self._starting.set_result(client)

    def _open_cluster(self) -> Client:
        from infra.cluster import open_cluster

        return self._stack.enter_context(open_cluster(self.settings))

    def launch_ranks(
        self, spec: BaseModel, *, num_ranks: int, on_event: Callable[[dict[str, Any]], None], preload: Sequence[str] = ()
    ) -> None:
        """Run ``python -m algorithms '<spec>'`` on the cluster, one process a rank; see ``infra.launch.launch``.

        A rank gets its share of its host's threads; one rank alone gets all of them. On a cluster elsewhere its hosts' cores count, not ours.

        Args:
            preload: modules that the program will load. One rank alone on the local cluster is then a fork of a process that has loaded them
                and waits for the next (``infra.warm``), which saves seconds each time.
        """
        if num_ranks == 1 and preload and self.settings.cluster == "local":
            self._warm(tuple(preload)).run(spec.model_dump_json(), lambda event: on_event({**event, "rank": 0}))
            return
        from infra.cluster import asking_for_slots
        from infra.launch import launch

        threads = max(1, self.settings.slots // num_ranks) if self.settings.cluster == "local" else None
        with asking_for_slots(self.client(), num_ranks, self.settings.deadline_s):
            launch(
                spec.model_dump_json(),
                client=self.client(),
                num_ranks=num_ranks,
                backend=self.backend,
                threads_per_rank=threads,
                deadline_s=self.settings.deadline_s,
                on_event=on_event,
            )

    def _warm(self, preload: tuple[str, ...]) -> WarmJobs:
        """The warm processes that have loaded these modules; they end with the context."""
        if preload not in self._pools:
            from infra.launch import new_log_folder
            from infra.warm import WarmJobs

            jobs = WarmJobs(
                client=self.client(),
                module="algorithms.__main__",
                preload=preload,
                threads=self.settings.slots,
                deadline_s=self.settings.deadline_s,
                log_dir=new_log_folder(self.settings.state_dir / "logs" / "ranks"),
                what="The run",
            )
            self._pools[preload] = self._stack.enter_context(jobs)
        return self._pools[preload]

    def __enter__(self) -> StageContext:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._starter.shutdown(wait=True, cancel_futures=True)  # what is just being started has to be closed, too
        self._stack.close()
