"""What may go: a pure function of what there is, how old it is, and what points at it."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from infra.errors import InvalidOptionError

Kind = Literal[
    "run",
    "checkpoints",
    "dataset",
    "study",
    "batch",
    "capture",
    "feedback",
    "report",
    "candidates",
    "result",
    "event",
    "log",
    "prefect run",
    "mlflow run",
]
# Of which a run that is going may have need.
NEEDED_BY_RUNS: frozenset[Kind] = frozenset(["run", "checkpoints", "dataset", "study", "batch", "result", "log"])
LEAST_AGE_S = 3600.0
_UNITS = {"m": 60, "h": 3600, "d": 86_400, "w": 604_800}


class Item(BaseModel):
    """One thing that can be removed as a whole."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    key: str = Field(description="Key in the store, path of a log, or id of a row.")
    group: str = Field(default="", description="Of which the newest are kept: the model, the data set's name, the study's algorithm.")
    num_bytes: int = 0
    written: float = Field(description="When the newest of it was written, seconds since 1970.")


class Plan(BaseModel):
    """What goes, and why the rest stays."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    remove: list[Item]
    kept: dict[str, int] = Field(description="How many things stay, by the reason.")

    @property
    def num_bytes(self) -> int:
        return sum(item.num_bytes for item in self.remove)


def parse_age(text: str) -> float:
    """Seconds of ``90m``, ``12h``, ``30d`` or ``8w``.

    Raises:
        InvalidOptionError: it is none of these, or below an hour: what is being made just now is not old.
    """
    match = re.fullmatch(r"(\d{1,6})([mhdw])", text.strip().lower())
    seconds = float(match[1]) * _UNITS[match[2]] if match else 0.0
    if seconds < LEAST_AGE_S:
        raise InvalidOptionError("clean-up", [f"older-than: {text!r}: expected a number with m, h, d or w, such as 30d; at least 1h"])
    return seconds


def plan(
    items: Sequence[Item],
    *,
    now: float,
    older_than_s: float,
    keep: int,
    protected: Collection[str],
    busy: bool,
    named: Collection[str] = (),
) -> Plan:
    """Old things go, except the newest ``keep`` of each kind and group, and what something points at.

    Args:
        protected: keys that a version in the registry or its log points at.
        named: keys of data that a name means now, or that an event tells of which no run has taken yet.
        busy: whether a run is going: then nothing goes that it may need, however old it is.
    """
    groups: dict[tuple[str, str], list[Item]] = defaultdict(list)
    for item in items:
        groups[item.kind, item.group].append(item)
    remove: list[Item] = []
    kept: Counter[str] = Counter()
    for group in groups.values():
        newest_first = sorted(group, key=lambda item: (-item.written, item.key))
        for place, item in enumerate(newest_first):
            if item.key in protected:
                kept["a registered version points at it"] += 1
            elif item.key in named:
                kept["a name or an event points at it"] += 1
            elif now - item.written < older_than_s:
                kept["not old enough"] += 1
            elif place < keep:
                kept["among the newest"] += 1
            elif busy and item.kind in NEEDED_BY_RUNS:
                kept["a run is going that may need it"] += 1
            else:
                remove.append(item)
    gone = {item.key for item in remove if item.kind == "run"}
    remove = [item for item in remove if not (item.kind == "checkpoints" and item.key.rpartition("/")[0] in gone)]
    return Plan(remove=sorted(remove, key=lambda item: (item.kind, item.key)), kept=dict(sorted(kept.items())))
