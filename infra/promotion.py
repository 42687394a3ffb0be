"""Which version should be live: pure functions of metrics and of the registry's log, with no store and no MLflow."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

CHAMPION, CHALLENGER = "champion", "challenger"
Operation = Literal["register", "import", "promote", "rollback", "delete", "outside", "canary", "judge"]


class LogEvent(BaseModel):
    """One entry of the registry's log: who did what to which version, when and why.

    ``promote``, ``rollback`` and ``outside`` (changed in MLflow itself) move ``alias`` from ``before`` to ``after``; None is nowhere.
    A version that becomes champion stops being challenger; a version that is deleted loses its aliases. ``canary`` says that
    a version begins to get requests, which moves nothing, or why it gets none any more and is challenger no longer. ``judge`` moves nothing: why a
    version stays what it is.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    at: str = Field(description="ISO 8601, UTC, microseconds; each event of a name is later than the one before.")
    who: str
    operation: Operation
    name: str
    version: int = Field(description="The version that this is about.")
    alias: str | None = None
    before: int | None = None
    after: int | None = None
    reason: str = ""
    compared: dict[str, Any] = Field(default_factory=dict, description="What the decision rested on: metric, margin, values of both.")
    record: dict[str, Any] | None = Field(default=None, description="register, import: the version as it was registered.")

    @property
    def moment(self) -> datetime:
        return datetime.fromisoformat(self.at)


def choose(
    champion_metric: float | None, challenger_metric: float, *, higher_is_better: bool, margin: float
) -> Literal["champion", "challenger"]:
    """What a new version becomes: champion if there is none yet, or if it is better than the champion by at least ``margin``.

    With a margin of 0 it has to be better, not equal. Metrics that are not finite never win; a champion with one is replaced.
    """
    if not math.isfinite(challenger_metric):
        return "champion" if champion_metric is None else "challenger"
    if champion_metric is None or not math.isfinite(champion_metric):
        return "champion"
    gain = challenger_metric - champion_metric if higher_is_better else champion_metric - challenger_metric
    # Half a unit in the last place that metrics are shown with: 0.95 - 0.90 is not 0.05 in binary.
    return "champion" if gain > 0 and gain >= margin - 1e-12 else "challenger"


def replay_aliases(events: Sequence[LogEvent]) -> dict[str, int]:
    """Where each alias points after these events."""
    aliases: dict[str, int] = {}
    for event in events:
        if event.operation == "delete":
            aliases = {alias: version for alias, version in aliases.items() if version != event.version}
        elif event.alias is not None:
            aliases.pop(event.alias, None)
            if event.after is not None:
                aliases[event.alias] = event.after
                if event.alias == CHAMPION and aliases.get(CHALLENGER) == event.after:
                    del aliases[CHALLENGER]
    return aliases


def live_at(events: Sequence[LogEvent], moment: datetime, alias: str = CHAMPION) -> int | None:
    """The version that ``alias`` pointed at; a moment without a time zone is UTC."""
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return replay_aliases([event for event in events if event.moment <= moment]).get(alias)


def previous_champion(events: Sequence[LogEvent], existing: Collection[int]) -> int | None:
    """The champion before the present one, among the versions that still exist.

    A rollback takes the present champion off the pile, so a second rollback goes one further back and not forth again.
    """
    pile: list[int] = []
    for event in events:
        if event.alias != CHAMPION or event.after is None:
            continue
        if event.operation == "rollback" and event.after in pile:
            while pile[-1] != event.after:
                pile.pop()
        elif not pile or pile[-1] != event.after:
            pile.append(event.after)
    present = replay_aliases(events).get(CHAMPION)
    return next((version for version in reversed(pile) if version != present and version in existing), None)


def registered_versions(events: Sequence[LogEvent]) -> dict[int, LogEvent]:
    """The event that made each version which was not deleted since."""
    found = {event.version: event for event in events if event.operation in ("register", "import")}
    for event in events:
        if event.operation == "delete":
            found.pop(event.version, None)
    return found
