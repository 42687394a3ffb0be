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


def _ignore(event: dict[str, Any]) -> None:
    """Nobody listens."""


@dataclass
class StageContext:
    """Settings, store, progress and, from the first time that somebody asks, a Dask cluster; leaving it closes what was opened.

    Attributes:
        settings: of this process.
        store: the workspace.
        report: gets every event (a JSON value with a ``kind``, see ``algorithms.run.Run``).
    """

    settings: Settings
    store: Store
    report: Callable[[dict[str, Any]], None] = _ignore
    _stack: ExitStack = field(default_factory=ExitStack)
    _client: Client | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def open(cls, settings: Settings | None = None, report: Callable[[dict[str, Any]], None] = _ignore) -> StageContext:
        settings = settings or load_settings()
        return cls(settings, open_store(settings.workspace_uri), report)

    def client(self) -> Client:
        """The Dask cluster's client; started on the first call, the same one afterwards."""
        from infra.cluster import open_cluster

        with self._lock:
            if self._client is None:
                self._client = self._stack.enter_context(open_cluster(self.settings))
            return self._client

    def __enter__(self) -> StageContext:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._lock:
            self._client = None
            self._stack.close()
