"""What every stage needs of the outside world, made once per run and handed to the stages; it is never part of a cache key."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from infra.access import is_loopback
from infra.rank_logs import keep_output
from infra.settings import Settings, load_settings
from infra.store import Store, open_store
from infra.workers import parse_workers

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
        workers: ranks of a distributed training, at most.
        least_workers: at least; 0: exactly ``workers``.
        fresh: do everything again, also what lies in the store already.
        backend: how ranks talk: auto, horovod or torch.
        timeline: where Horovod writes its timeline, on the machine of rank 0; empty: nowhere.
    """

    settings: Settings
    store: Store
    report: Callable[[dict[str, Any]], None] = _ignore
    workers: int = 1
    backend: Backend = "auto"
    fresh: bool = False
    least_workers: int = 0
    timeline: str = ""
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
        workers: int | str = 1,
        backend: Backend | None = None,
        fresh: bool = False,
        timeline: str = "",
    ) -> StageContext:
        settings = settings or load_settings()
        least, most = parse_workers(workers)
        return cls(
            settings,
            open_store(settings.workspace_uri),
            report,
            most,
            backend or settings.backend,
            fresh,
            least_workers=least,
            timeline=timeline,
        )

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
        self,
        spec: BaseModel,
        *,
        num_ranks: int,
        on_event: Callable[[dict[str, Any]], None],
        preload: Sequence[str] = (),
        rank_preload: Sequence[str] | None = None,
        output: str = "",
    ) -> None:
        """Run ``python -m algorithms '<spec>'`` on the cluster, one process a rank; see ``infra.launch.launch``.

        A rank gets its share of its host's threads; one rank alone gets all of them. On a cluster elsewhere its hosts' cores count, not ours.

        Args:
            preload: modules that the program will load. One rank alone on a cluster of this machine is then a fork of a process that has loaded them
                and waits for the next (``infra.warm``), which saves seconds each time.
            rank_preload: the same of several ranks, of a program that can go on with other ranks than it began with: those that die are replaced,
                and where a range was asked for, their number follows what the cluster has (``infra.elastic``). None: of one that cannot.
            output: where the ranks' work goes in the store; what ranks print is kept beside it (``infra.rank_logs``); "": it is not.
        """
        on_output = keep_output(self.store, output, on_event)
        if rank_preload is not None and num_ranks > 1:
            self._launch_elastic(spec, num_ranks, on_event, on_output, rank_preload)
            return
        if num_ranks == 1 and preload and self._warm_threads:
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
                backend=self._backend_of(num_ranks, on_event),
                threads_per_rank=threads,
                deadline_s=self.settings.deadline_s,
                on_event=on_event,
                on_output=on_output,
                env=self._rank_env(),
            )

    def _backend_of(self, num_ranks: int, on_event: Callable[[dict[str, Any]], None]) -> Backend:
        """Not left to ``auto`` where a timeline is wanted: torch.distributed writes none."""
        if not self.timeline or self.backend != "auto" or num_ranks == 1:
            return self.backend
        on_event({"kind": "log", "message": "The ranks use Horovod: a timeline is wanted, and only Horovod writes one."})
        return "horovod"

    def _rank_env(self) -> dict[str, str] | None:
        return {"HOROVOD_TIMELINE": str(Path(self.timeline).expanduser().absolute())} if self.timeline else None

    def _launch_elastic(
        self,
        spec: BaseModel,
        num_ranks: int,
        on_event: Callable[[dict[str, Any]], None],
        on_output: Callable[[str, str], None],
        preload: Sequence[str],
    ) -> None:
        from infra.cluster import asking_for_slots
        from infra.elastic.launch import launch_elastic
        from infra.elastic.policy import Limits

        settings = self.settings
        least = min(self.least_workers or num_ranks, num_ranks)
        with asking_for_slots(self.client(), num_ranks, settings.deadline_s, enough=least):
            launch_elastic(
                spec.model_dump_json(),
                client=self.client(),
                limits=Limits(least, num_ranks, wait_s=settings.wait_s, hang_s=settings.hang_s),
                backend=self._backend_of(num_ranks, on_event),
                threads_per_rank=max(1, settings.slots // num_ranks) if settings.cluster == "local" else None,
                deadline_s=settings.deadline_s,
                preload=(*preload, "infra.elastic.collectives", "horovod.torch?"),
                on_event=on_event,
                on_output=on_output,
                figures=settings.state_dir / "backends.json",
                env=self._rank_env(),
            )

    @property
    def _warm_threads(self) -> int:
        """CPU threads of a stage in a warm process; 0: the cluster is elsewhere, where each stage may come to another host."""
        if self.settings.cluster == "local":
            return self.settings.slots
        scheduler = urlsplit(self.settings.cluster)
        here = scheduler.scheme in ("tcp", "tls") and is_loopback(scheduler.hostname or "")  # that of `atelier up`, say
        return (os.cpu_count() or 1) if here else 0

    def _warm(self, preload: tuple[str, ...]) -> WarmJobs:
        """The warm processes that have loaded these modules; they end with the context."""
        if preload not in self._pools:
            from infra.launch import new_log_folder
            from infra.warm import WarmJobs

            jobs = WarmJobs(
                client=self.client(),
                module="algorithms.__main__",
                preload=preload,
                threads=self._warm_threads,
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
