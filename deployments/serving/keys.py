"""API keys: made here, kept in the store as digests only, checked in a microsecond.

A key is 256 random bits, so its plain SHA-256 tells nothing about it; a slow hash is for passwords, which people choose.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from infra.errors import ArtifactNotFoundError, CorruptArtifactError, InvalidOptionError
from infra.store import Store

Role = Literal["predict", "admin"]
PATH = "serving/keys.json"
_PREFIX = "atl_"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


class ApiKey(BaseModel):
    """What is known of a key; not the key."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="Who has it; stands in the audit log.")
    role: Role
    sha256: str
    created: str = Field(description="ISO 8601, UTC.")


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = 1
    keys: list[ApiKey] = Field(default_factory=list)


def digest(key: str) -> str:
    return hashlib.sha256(key.encode(errors="replace")).hexdigest()


def read_keys(store: Store) -> list[ApiKey]:
    """The keys of a workspace.

    Raises:
        CorruptArtifactError: the file is damaged: better no answer than an open door.
    """
    try:
        data = store.read_bytes(PATH)
    except ArtifactNotFoundError:
        return []
    try:
        return _File.model_validate_json(data).keys
    except ValueError:
        raise CorruptArtifactError(f"{store.uri}/{PATH}", "of a list of keys", hashlib.sha256(data).hexdigest()) from None


def create_key(store: Store, name: str, role: Role) -> str:
    """Make a key; the return value is the only time that it can be seen.

    Raises:
        InvalidOptionError: a name that is none or taken.
    """
    keys = read_keys(store)
    if not _NAME.fullmatch(name):
        raise InvalidOptionError("an API key", [f"the name {name!r}: letters, digits, '.', '_', '@' and '-', at most 64"])
    if any(key.name == name for key in keys):
        raise InvalidOptionError("an API key", [f"there is a key {name!r} already"], "Revoke it first, or take another name.")
    key = _PREFIX + secrets.token_urlsafe(32)
    made = ApiKey(name=name, role=role, sha256=digest(key), created=datetime.now(UTC).isoformat(timespec="seconds"))
    store.write_bytes(PATH, _File(keys=[*keys, made]).model_dump_json(indent=1).encode())
    return key


def revoke_key(store: Store, name: str) -> None:
    """Servers refuse the key from their next look on; the last key's going closes a server that is not on loopback.

    Raises:
        InvalidOptionError: no such key.
    """
    keys = read_keys(store)
    if all(key.name != name for key in keys):
        known = ", ".join(key.name for key in keys) or "none"
        raise InvalidOptionError("an API key", [f"there is no key {name!r}; there are: {known}"])
    store.write_bytes(PATH, _File(keys=[key for key in keys if key.name != name]).model_dump_json(indent=1).encode())


class KeyRing:
    """The keys as a server knows them.

    Args:
        open_without_keys: whether everybody may do everything as long as there is no key (a server on loopback).
    """

    def __init__(self, store: Store, *, open_without_keys: bool) -> None:
        self._store, self._open = store, open_without_keys
        self._by_digest: dict[str, ApiKey] = {}
        self.load()

    def load(self) -> None:
        """Read the keys anew."""
        self._by_digest = {key.sha256: key for key in read_keys(self._store)}

    @property
    def is_open(self) -> bool:
        return self._open and not self._by_digest

    def find(self, key: str) -> ApiKey | None:
        return self._by_digest.get(digest(key))
