"""Keys made from content: the same values give the same key, on every machine."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import BaseModel


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__name__} is not a JSON value and cannot be part of a key")


def content_key(value: Any) -> str:
    """The first 32 hex digits of the SHA-256 of a JSON value (pydantic models are taken by their fields)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
