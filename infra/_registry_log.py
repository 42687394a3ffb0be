"""The registry's append-only log in the store: one immutable object an event, and one note of the event that is being carried out."""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Iterator
from datetime import datetime, timedelta

from infra._registry_version import iso, now
from infra.errors import ArtifactNotFoundError
from infra.promotion import LogEvent
from infra.store import Store

_LOG, _PENDING = "registry/log", "registry/pending"


def whoami() -> str:
    """User and machine, for the log."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container's user without an entry in the password database
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


class EventLog:
    """Events of each model, in order. ``begin`` and ``finish`` stand around what an event does, so that a kill in between is noticed."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def names(self) -> list[str]:
        return sorted({key.removeprefix(f"{_LOG}/").split("/")[0] for key in self._store.list(f"{_LOG}/")})

    def read(self, name: str) -> list[LogEvent]:
        return list(self._events(name))

    def _events(self, name: str) -> Iterator[LogEvent]:
        for key in self._store.list(f"{_LOG}/{name}/"):
            yield LogEvent.model_validate_json(self._store.read_bytes(key))

    def stamp(self, name: str) -> str:
        """A time for the next event: now, or just after the last event if this machine's clock is behind it."""
        keys = list(self._store.list(f"{_LOG}/{name}/"))
        moment = now()
        if keys:
            last = datetime.strptime(keys[-1].rsplit("/", 1)[1].split("-")[0] + "+0000", "%Y%m%dT%H%M%S.%fZ%z")
            moment = max(moment, last + timedelta(microseconds=1))
        return iso(moment)

    def append(self, event: LogEvent) -> None:
        """Write the event unless it is there; events are never replaced."""
        name = event.moment.strftime("%Y%m%dT%H%M%S.%fZ")
        data = event.model_dump_json(exclude_defaults=True).encode()
        for number in range(1000):
            key = f"{_LOG}/{event.name}/{name}-{number:03d}.json"
            if self._store.create(key, data) or self._store.read_bytes(key) == data:
                return
        raise AssertionError("a thousand events in one microsecond")

    def begin(self, event: LogEvent) -> bool:
        """Note that this event is about to be carried out; False if another one is."""
        return self._store.create(f"{_PENDING}/{event.name}.json", event.model_dump_json(exclude_defaults=True).encode())

    def pending(self, name: str) -> LogEvent | None:
        """The event that was begun and not finished."""
        try:
            return LogEvent.model_validate_json(self._store.read_bytes(f"{_PENDING}/{name}.json"))
        except ArtifactNotFoundError:
            return None

    def finish(self, event: LogEvent) -> None:
        """The event was carried out: it goes into the log, and the note goes away."""
        self.append(event)
        self._store.delete(f"{_PENDING}/{event.name}.json")
