"""Decisions on versions: pure functions, no store and no MLflow."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from infra.promotion import LogEvent, choose, live_at, previous_champion, registered_versions, replay_aliases


def event(minute: int, operation: Any, version: int, **more: Any) -> LogEvent:
    at = datetime(2026, 11, 20, 12, minute, tzinfo=UTC).isoformat(timespec="microseconds")
    return LogEvent(at=at, who="a@b", operation=operation, name="digits", version=version, **more)


def champion(minute: int, version: int, before: int | None, operation: Any = "promote") -> LogEvent:
    return event(minute, operation, version, alias="champion", before=before, after=version)


@pytest.mark.parametrize(
    ("old", "new", "higher", "margin", "expected"),
    [
        (None, 0.1, True, 0.5, "champion"),
        (0.90, 0.95, True, 0.05, "champion"),
        (0.90, 0.94, True, 0.05, "challenger"),
        (0.90, 0.90, True, 0.0, "challenger"),
        (0.90, 0.91, True, 0.0, "champion"),
        (2.0, 1.5, False, 0.5, "champion"),
        (2.0, 1.6, False, 0.5, "challenger"),
        (2.0, 2.5, False, 0.0, "challenger"),
        (0.90, float("nan"), True, 0.0, "challenger"),
        (float("nan"), 0.1, True, 0.0, "champion"),
        (None, float("nan"), True, 0.0, "champion"),
    ],
)
def test_a_version_becomes_champion_only_if_it_is_better_by_the_margin(
    old: float | None, new: float, higher: bool, margin: float, expected: str
) -> None:
    assert choose(old, new, higher_is_better=higher, margin=margin) == expected


def test_a_challenger_that_is_promoted_is_no_longer_challenger() -> None:
    events = [champion(0, 1, None), event(1, "promote", 2, alias="challenger", after=2), champion(2, 2, 1)]
    assert replay_aliases(events[:2]) == {"champion": 1, "challenger": 2}
    assert replay_aliases(events) == {"champion": 2}


def test_the_log_tells_what_was_live_at_a_moment() -> None:
    events = [champion(10, 1, None), champion(20, 2, 1), champion(30, 1, 2, "rollback")]
    at = {minute: live_at(events, datetime(2026, 11, 20, 12, minute)) for minute in (5, 10, 19, 20, 29, 30, 59)}
    assert at == {5: None, 10: 1, 19: 1, 20: 2, 29: 2, 30: 1, 59: 1}


def test_a_second_rollback_goes_further_back_and_not_forth() -> None:
    events = [champion(0, 1, None), champion(1, 2, 1), champion(2, 3, 2)]
    assert previous_champion(events, {1, 2, 3}) == 2
    events.append(champion(3, 2, 3, "rollback"))
    assert previous_champion(events, {1, 2, 3}) == 1
    events.append(champion(4, 1, 2, "rollback"))
    assert previous_champion(events, {1, 2, 3}) is None


def test_a_rollback_passes_over_deleted_versions() -> None:
    events = [champion(0, 1, None), champion(1, 2, 1), champion(2, 3, 2)]
    assert previous_champion(events, {1, 3}) == 1
    assert previous_champion(events, {3}) is None


def test_a_deleted_version_loses_its_aliases_and_its_registration() -> None:
    events = [event(0, "register", 1), event(1, "register", 2), champion(2, 2, None), event(3, "delete", 2)]
    assert replay_aliases(events) == {}
    assert list(registered_versions(events)) == [1]
