"""How many ranks a training may have: ``4``, or ``2:8`` for at least 2 and at most 8."""

from __future__ import annotations

import re
from typing import NamedTuple

MOST = 4096


class Workers(NamedTuple):
    """At least and at most so many; equal: always so many."""

    least: int
    most: int

    def __str__(self) -> str:
        return str(self.most) if self.least == self.most else f"{self.least}:{self.most}"


def parse_workers(value: int | str) -> Workers:
    """What was asked for.

    Raises:
        ValueError: in words, what is wrong and what is allowed.
    """
    allowed = "give a number, such as 4, or MIN:MAX, such as 2:8"
    match = re.fullmatch(r"\s*(\d{1,9})\s*(?::\s*(\d{1,9})\s*)?", str(value))
    if match is None:
        raise ValueError(f"{value!r} is not a number of workers; {allowed}")
    least = int(match[1])
    most = int(match[2]) if match[2] is not None else least
    if least < 1:
        raise ValueError(f"{value!r} asks for no worker at all; at least 1 is needed")
    if most < least:
        raise ValueError(f"in {value!r} the largest number is below the smallest; {allowed}")
    if most > MOST:
        raise ValueError(f"{value!r} asks for more than {MOST} workers")
    return Workers(least, most)
