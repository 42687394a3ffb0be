"""Which version answers a request: pure functions of a route and the client's key."""

from __future__ import annotations

import hashlib
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class Route(BaseModel):
    """How the requests for one model are shared out, besides its live version. Kept in the store; every server and worker follows it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    canary: int | None = Field(default=None, description="Version that gets a part of the requests; none: no canary.")
    weight: Annotated[float, Field(ge=0, le=100)] = Field(default=0.0, description="Share of the canary, per cent.")
    shadow: int | None = Field(default=None, description="Version that gets a copy of every request; its answers are compared, never sent.")
    reason: str = Field(default="", max_length=2000, description="Why it is so.")


def share_of(key: str, salt: str) -> float:
    """Where a key stands between 0 and 100, evenly over all keys and always the same for one key."""
    digest = hashlib.blake2b(key.encode(), digest_size=8, key=salt.encode()[:64]).digest()
    return int.from_bytes(digest, "big") / 2**64 * 100


def choose_version(name: str, live: int, route: Route, key: str) -> int:
    """The version that answers: the canary for keys below its weight, so a key that the canary has keeps it while the weight grows.

    Args:
        name: of the model; with the canary's number the salt, so that not always the same keys go first.
        live: the version of the model's alias.
        key: of the client.
    """
    if route.canary is None or route.canary == live or route.weight <= 0:
        return live
    if route.weight >= 100:
        return route.canary
    return route.canary if share_of(key, f"{name}/{route.canary}") < route.weight else live
