"""Names of data set versions. Each name has a history: one small file for every import, numbered, never changed.

datasets/<digest>/...                 the versions
datasets/names/<name>/<number>.json   the history of a name; the highest number is what the name means now
datasets/index/<fingerprint>.json     which version an unchanged source became
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict

from infra import events
from infra.artifacts import MANIFEST, find
from infra.datasets.card import Card, DatasetRef, Kind
from infra.datasets.dataset import read_card
from infra.errors import DatasetNotFoundError, InvalidOptionError
from infra.store import Store

NAMES = "datasets/names"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_DIGEST = re.compile(r"[0-9a-f]{8,64}")
_MANIFEST_KEY = re.compile(rf"datasets/([0-9a-f]{{64}})/{re.escape(MANIFEST)}")


class NameEntry(BaseModel):
    """A name was given to a version."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    digest: str
    kind: Kind
    source: str
    at: str


def check_name(name: str) -> str:
    """The name, if it may be one.

    Raises:
        InvalidOptionError
    """
    if not _NAME.fullmatch(name):
        raise InvalidOptionError(
            f"the data set's name {name!r}", ["allowed are up to 100 letters, digits, '.', '_' and '-', the first a letter or digit"]
        )
    return name


def record(store: Store, ref: DatasetRef, source: str) -> None:
    """Let ``ref.name`` mean this version from now on; nothing is written if it does already. Safe for several writers at once."""
    check_name(ref.name)
    history = _numbers(store, ref.name)
    if history and _entry(store, history[-1]).digest == ref.digest:
        return
    at = datetime.now(UTC).isoformat(timespec="seconds")
    entry = NameEntry(name=ref.name, digest=ref.digest, kind=ref.kind, source=source, at=at)
    payload = {"data": ref.digest, "name": ref.name, "kind": ref.kind, "source": source}
    events.emit(events.DATASET_CREATED, f"dataset:{ref.name}", payload, store=store)  # first, so that a kill in between loses no event
    number = int(history[-1].rpartition("/")[2].removesuffix(".json")) + 1 if history else 1
    while not store.create(f"{NAMES}/{ref.name}/{number:06d}.json", entry.model_dump_json().encode()):
        number += 1


def history(store: Store, name: str) -> list[NameEntry]:
    """What a name has meant, oldest first."""
    return [_entry(store, key) for key in _numbers(store, name)]


def _numbers(store: Store, name: str) -> list[str]:
    return list(store.list(f"{NAMES}/{name}/"))


def _entry(store: Store, key: str) -> NameEntry:
    return NameEntry.model_validate_json(store.read_bytes(key))


def current(store: Store) -> dict[str, NameEntry]:
    """Every name and what it means now."""
    newest: dict[str, str] = {}
    for key in store.list(f"{NAMES}/"):
        newest[key.removeprefix(f"{NAMES}/").rpartition("/")[0]] = key
    return {name: _entry(store, key) for name, key in sorted(newest.items())}


def digests(store: Store, prefix: str = "") -> list[str]:
    """Digests of all versions that begin with ``prefix``, sorted."""
    matches = (_MANIFEST_KEY.fullmatch(key) for key in store.list(f"datasets/{prefix}"))
    return [match[1] for match in matches if match]


def resolve(store: Store, name_or_digest: str) -> DatasetRef:
    """The version of a name, of a digest, or of a digest's first 8 or more letters.

    Raises:
        DatasetNotFoundError: unknown, or a beginning that several versions share.
    """
    if _NAME.fullmatch(name_or_digest):
        entries = _numbers(store, name_or_digest)
        if entries:
            entry = _entry(store, entries[-1])
            return DatasetRef(digest=entry.digest, name=entry.name, kind=entry.kind)
    found = digests(store, name_or_digest) if _DIGEST.fullmatch(name_or_digest) else []
    if len(found) != 1:
        raise DatasetNotFoundError(name_or_digest, [digest[:16] for digest in found] or list(current(store)))
    card = _card(store, found[0])
    return card.ref


def list_versions(store: Store) -> list[Card]:
    """Cards of all versions, the oldest first; each under the name that means it now, if one does."""
    names: dict[str, list[str]] = defaultdict(list)
    for name, entry in current(store).items():
        names[entry.digest].append(name)
    cards = [_card(store, digest) for digest in digests(store)]
    cards = [card.model_copy(update={"name": (names.get(card.digest) or [card.name])[0]}) for card in cards]
    return sorted(cards, key=lambda card: (card.source.imported_at, card.digest))


def _card(store: Store, digest: str) -> Card:
    artifact = find(store, f"datasets/{digest}")
    if artifact is None:
        raise DatasetNotFoundError(digest, [])
    return read_card(store, artifact)


def remember(store: Store, fingerprint: str, ref: DatasetRef) -> None:
    """An unchanged source need not be read again."""
    store.write_bytes(f"datasets/index/{fingerprint}.json", json.dumps({"digest": ref.digest, "kind": ref.kind}).encode())


def recall(store: Store, fingerprint: str, name: str) -> DatasetRef | None:
    """The version that this source became, if it is still there."""
    key = f"datasets/index/{fingerprint}.json"
    if not store.exists(key):
        return None
    value = json.loads(store.read_bytes(key))
    ref = DatasetRef(digest=value["digest"], name=name, kind=value["kind"])
    return ref if find(store, ref.key) is not None else None
