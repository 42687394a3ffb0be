"""New files below a folder or an S3 prefix: what has been seen, and when a change is complete. It remembers over restarts."""

from __future__ import annotations

import hashlib
import json
from pathlib import PurePosixPath

from pydantic import BaseModel, ConfigDict, Field

from infra.errors import ArtifactNotFoundError
from infra.store import Store, open_store

WATCHES = "triggers/watches"
MOST_NAMES = 20
_UNFINISHED = (".part", ".partial", ".tmp", ".crdownload", "~")


class Watch(BaseModel):
    """What is known of a folder.

    Attributes:
        seen: state of each file that was told of, by name.
        found: what the last look found.
        changed_s: since when ``found`` has been as it is.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seen: dict[str, str] = Field(default_factory=dict)
    found: dict[str, str] | None = None
    changed_s: float = 0.0


def counts(name: str) -> bool:
    """Whether a file is data: not hidden, not half-written."""
    return not any(part.startswith(".") for part in PurePosixPath(name).parts) and not name.lower().endswith(_UNFINISHED)


def look(watch: Watch, found: dict[str, str], now_s: float, quiet_s: float) -> tuple[Watch, list[str]]:
    """Take in what a look found.

    Returns:
        The new state; and the names of new and changed files, sorted, once nothing has moved for ``quiet_s``. They are then seen.
    """
    found = {name: state for name, state in found.items() if counts(name)}
    if found != watch.found:
        return watch.model_copy(update={"found": found, "changed_s": now_s}), []
    new = sorted(name for name, state in found.items() if watch.seen.get(name) != state)
    if not new or now_s - watch.changed_s < quiet_s:
        return watch, []
    return watch.model_copy(update={"seen": found}), new


def list_files(uri: str) -> dict[str, str]:
    """Files below a folder or prefix, each with a text that changes when its bytes do; a folder that is not there has none.

    Raises:
        StoreAccessError, StoreUnavailableError
    """
    return dict(open_store(uri).states(""))


def load(store: Store, key: str) -> Watch | None:
    """What was seen up to now; None: it was never looked at."""
    try:
        return Watch(seen=json.loads(store.read_bytes(f"{WATCHES}/{key}.json")))
    except ArtifactNotFoundError:
        return None


def save(store: Store, key: str, watch: Watch) -> None:
    store.write_bytes(f"{WATCHES}/{key}.json", json.dumps(watch.seen, sort_keys=True).encode())


def begin(store: Store, key: str, uri: str) -> None:
    """Take what lies there now as seen, unless it is watched already."""
    if load(store, key) is None:
        save(store, key, Watch(seen={name: state for name, state in list_files(uri).items() if counts(name)}))


def digest(watch: Watch) -> str:
    """Names a state of the folder."""
    return hashlib.sha256(json.dumps(watch.seen, sort_keys=True).encode()).hexdigest()
