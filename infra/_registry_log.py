"""The registry's append-only log in the store: one immutable object an event, and one note of the event that is being carried out."""

from __future__ import annotations

import getpass
import os
import socket
from datetime import datetime, timedelta

from infra import events
from infra._registry_version import iso, now
from infra.errors import ArtifactNotFoundError
from infra.promotion import CHALLENGER, CHAMPION, LogEvent
from infra.store import Store

_LOG, _PENDING, _NUMBERS = "registry/log", "registry/pending", "registry/numbers"


_TOLD = {
    "register": events.MODEL_REGISTERED,
    "import": events.MODEL_REGISTERED,
    CHAMPION: events.MODEL_PROMOTED,
    CHALLENGER: events.MODEL_CHALLENGED,
}


def whoami() -> str:
    """User and machine, for the log; and the flow run, where a worker of Prefect's started this process for one."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container's user without an entry in the password database
        user = str(os.getuid())
    run = os.environ.get("PREFECT__FLOW_RUN_ID", "")
    return f"{user}@{socket.gethostname()}" + (f" (flow run {run})" if run else "")


class EventLog:
    """Events of each model, in order. ``begin`` and ``finish`` stand around what an event does, so that a kill in between is noticed."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._read: dict[str, LogEvent] = {}  # by key; they never change

    def names(self) -> list[str]:
        return sorted(self.keys())

    def keys(self, name: str | None = None) -> dict[str, list[str]]:
        """The keys of the events of each model, or of this one, in order; a model without events is not among them."""
        found: dict[str, list[str]] = {}
        for key in self._store.list(f"{_LOG}/{name}/" if name else f"{_LOG}/"):
            found.setdefault(key.removeprefix(f"{_LOG}/").split("/")[0], []).append(key)
        return found

    def event(self, key: str) -> LogEvent:
        if key not in self._read:
            self._read[key] = LogEvent.model_validate_json(self._store.read_bytes(key))
        return self._read[key]

    def read(self, name: str) -> list[LogEvent]:
        return [self.event(key) for key in self.keys(name).get(name, [])]

    def next_number(self, name: str, above: int) -> int:
        """A version's number that nobody has or gets again: claimed in the store, so that two machines never take the same."""
        number = 1 + max((event.version for event in self.read(name)), default=0)
        number = max(number, above + 1)
        while not self._store.create(f"{_NUMBERS}/{name}/{number}", whoami().encode()):
            number += 1
        return number

    def stamp(self, name: str) -> str:
        """A time for the next event: now, or just after the last event if this machine's clock is behind it."""
        keys = list(self._store.list(f"{_LOG}/{name}/"))
        moment = now()
        if keys:
            last = datetime.strptime(keys[-1].rsplit("/", 1)[1].split("-")[0] + "+0000", "%Y%m%dT%H%M%S.%fZ%z")
            moment = max(moment, last + timedelta(microseconds=1))
        return iso(moment)

    def append(self, event: LogEvent) -> None:
        """Write the event unless it is there (events are never replaced), and tell the triggers of it."""
        self._tell(event)  # first: what is logged is not looked at again, so a kill in between would lose it
        name = event.moment.strftime("%Y%m%dT%H%M%S.%fZ")
        data = event.model_dump_json(exclude_defaults=True).encode()
        for number in range(1000):
            key = f"{_LOG}/{event.name}/{name}-{number:03d}.json"
            if self._store.create(key, data) or self._store.read_bytes(key) == data:
                return
        raise AssertionError("a thousand events in one microsecond")

    def _tell(self, event: LogEvent) -> None:
        what = _TOLD.get(event.operation if event.operation in ("register", "import") else event.alias or "")
        if what is None or (event.alias is not None and event.after is None):
            return
        payload = {"model": event.name, "version": event.version, "who": event.who, "reason": event.reason}
        events.emit(what, f"model:{event.name}", payload, store=self._store, key=f"{event.operation}:{event.version}", at=event.at)

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
        if self.pending(event.name) == event:  # another machine may have finished it, and begun one of its own
            self._store.delete(f"{_PENDING}/{event.name}.json")
