"""One piece of advice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

Figures = Mapping[str, Any]
"""What ``explain.json`` holds; ``docs/explain.md`` lists it."""


class Advice(BaseModel):
    """One piece of advice: the rule that gave it, how much it matters, and what was seen and what to do about it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rule: str
    severity: Literal["warning", "info"]
    text: str


def list_words(words: list[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
