"""What every stage needs of the outside world, made once per run and handed to the stages; it is never part of a cache key."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any

from infra.settings import Settings, load_settings
from infra.store import Store, open_store

if TYPE_CHECKING:
    from distributed import Client
    from pydantic import BaseModel


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
        backend: how ranks talk: auto, horovod or torch.
    """

    settings: Settings
    store: Store
    report: Callable[[dict[str, Any]], None] = _ignore
    workers: int = 1
    backend: str = "auto"
    _stack: ExitStack = field(default_factory=ExitStack)
    _client: Client | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def open(
        cls,
        settings: Settings | None = None,
        report: Callable[[dict[str, Any]], None] = _ignore,
        *,
        workers: int = 1,
        backend: str | None = None,
    ) -> StageContext:
        settings = settings or load_settings()
        return cls(settings, open_store(settings.workspace_uri), report, workers, backend or settings.backend)

    def client(self) -> Client:
        """The Dask cluster's client; started on the first call, the same one afterwards."""
        from infra.cluster import open_cluster

        with self._lock:
            if self._client is None:
                self._client = self._stack.enter_context(open_cluster(self.settings))
            return self._client

    def also_report(self, listener: Callable[[dict[str, Any]], None]) -> None:
        """Send the events that follow to ``listener`` too."""
        first = self.report

        def both(event: dict[str, Any]) -> None:
            first(event)
            listener(event)

        self.report = both

    def start_cluster(self) -> None:
        """Begin to start the cluster in the background; an error appears when ``client`` is called."""
        threading.Thread(target=self._start_quietly, name="start-cluster", daemon=True).start()

    def _start_quietly(self) -> None:
        try:
            self.client()
        except Exception as error:
            self.report({"kind": "log", "message": f"The cluster did not start at once ({error}); it is tried again when it is needed."})

    def launch_ranks(self, spec: BaseModel, *, num_ranks: int, on_event: Callable[[dict[str, Any]], None]) -> None:
        """Run ``python -m algorithms '<spec>'`` on the cluster, one process a rank; see ``infra.launch.launch``.

        A rank gets its share of its host's threads; one rank alone gets all of them.
        """
        from infra.launch import launch

        threads = max(1, self.settings.slots // num_ranks)
        launch(
            spec.model_copy(update={"threads": threads}).model_dump_json(),
            client=self.client(),
            num_ranks=num_ranks,
            backend=self.backend,
            threads_per_rank=threads,
            deadline_s=self.settings.deadline_s,
            on_event=on_event,
        )

    def __enter__(self) -> StageContext:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._lock:
            self._client = None
            self._stack.close()
