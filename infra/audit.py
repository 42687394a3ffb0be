"""The audit log: who did what in a workspace, when. One object an entry, written only if nothing is there, so entries are never replaced.

    audit/<date>/<time>-<id>.json

What happens to models stands in the registry's log, which has the same properties, and what an administrator did to a running inference server
in ``serving/audit.jsonl`` of the state folder of its machine; ``read`` gives all of it, in order of time.
"""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from infra._registry_log import EventLog, whoami
from infra._registry_version import iso, now
from infra.store import Store

FOLDER = "audit"


class Entry(BaseModel):
    """One deed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    at: str = Field(description="ISO 8601, UTC, microseconds.")
    who: str
    action: str = Field(description="Such as keys.create, deploy, clean-up, models.promote.")
    what: str = Field(default="", description="To what: a name, never a secret.")
    details: dict[str, Any] = Field(default_factory=dict)


def write_down(store: Store, action: str, what: str = "", *, who: str | None = None, **details: Any) -> Entry:
    """Append an entry."""
    moment = now()
    entry = Entry(at=iso(moment), who=who or whoami(), action=action, what=what, details=details)
    created = store.create(f"{FOLDER}/{moment:%Y-%m-%d}/{moment:%H%M%S.%f}-{uuid.uuid4().hex[:8]}.json", entry.model_dump_json().encode())
    assert created, "nobody else has this name"
    return entry


def read(store: Store, since: datetime | None = None, state_dir: Path | None = None) -> list[Entry]:
    """All entries since a moment, oldest first; those of the registry's log among them, and of this machine's servers if their folder is given."""
    log = EventLog(store)
    found = [Entry.model_validate_json(store.read_bytes(key)) for key in store.list(f"{FOLDER}/")]
    found += [] if state_dir is None else _of_servers(state_dir / "serving" / "audit.jsonl")
    for name in log.names():
        for event in log.read(name):
            details: dict[str, Any] = {"reason": event.reason} if event.reason else {}
            if event.alias:
                details |= {"alias": event.alias, "before": event.before, "after": event.after}
            found.append(
                Entry(at=event.at, who=event.who, action=f"models.{event.operation}", what=f"{name}/{event.version}", details=details)
            )
    if since is not None:
        since = since if since.tzinfo else since.replace(tzinfo=UTC)
        found = [entry for entry in found if datetime.fromisoformat(entry.at) >= since]
    return sorted(found, key=lambda entry: entry.at)


def _of_servers(path: Path) -> list[Entry]:
    if not path.is_file():
        return []
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        told = json.loads(line)
        at, who, action, what = (str(told.pop(name, "")) for name in ("at", "who", "action", "model"))
        found.append(Entry(at=at, who=who, action=f"serve.{action}", what=what, details=told))
    return found
