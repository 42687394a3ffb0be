"""Conditions on model versions, as people write them, made into one test."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase

from infra._registry_version import ModelVersion
from infra.errors import InvalidOptionError

Test = Callable[[ModelVersion], bool]
_COMPARE = {
    ">=": operator.ge,
    "<=": operator.le,
    "!=": operator.ne,
    "==": operator.eq,
    "=": operator.eq,
    ">": operator.gt,
    "<": operator.lt,
}
_METRIC = re.compile(r"\s*([A-Za-z][\w./-]*)\s*(>=|<=|!=|==|=|>|<)\s*([-+]?[\d.]+(?:[eE][-+]?\d+)?)\s*")


def matches(*, name: str | None, tag: str | None, metric: str | None, since: str | None, until: str | None) -> Test:
    """A test that holds if every condition that is not None holds.

    Args:
        name: part of the name, or a pattern with ``*`` and ``?``.
        tag: ``KEY`` (it is set) or ``KEY=VALUE``.
        metric: comparisons such as ``accuracy>=0.9``, several separated by commas; a version without the metric does not match.
        since: ISO 8601 date or time, UTC if it says nothing else; created then or later.
        until: the same; a date means the end of that day.

    Raises:
        InvalidOptionError: what cannot be understood, all at once.
    """
    tests: list[Test] = []
    problems: list[str] = []
    makers: list[tuple[str | None, Callable[[str], Test]]] = [
        (name, _name),
        (tag, _tag),
        (metric, _metric),
        (since, _since),
        (until, _until),
    ]
    for text, make in makers:
        if text is None:
            continue
        try:
            tests.append(make(text))
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise InvalidOptionError("the search", problems)
    return lambda version: all(test(version) for test in tests)


def _name(text: str) -> Test:
    pattern = text if any(sign in text for sign in "*?[") else f"*{text}*"
    return lambda version: fnmatchcase(version.name, pattern)


def _tag(text: str) -> Test:
    key, equals, value = text.partition("=")
    if not key:
        raise ValueError(f"tag {text!r}: expected KEY or KEY=VALUE")
    return lambda version: key in version.tags and (not equals or version.tags[key] == value)


def _metric(text: str) -> Test:
    comparisons: list[tuple[str, Callable[[float, float], bool], float]] = []
    for part in text.split(","):
        found = _METRIC.fullmatch(part)
        if found is None:
            raise ValueError(f"metric {part!r}: expected a comparison such as accuracy>=0.9 (>=, <=, >, <, ==, !=)")
        comparisons.append((found[1], _COMPARE[found[2]], float(found[3])))
    return lambda version: all(key in version.metrics and compare(version.metrics[key], bound) for key, compare, bound in comparisons)


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"date {text!r}: expected ISO 8601, such as 2026-11-20 or 2026-11-20T16:30") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _since(text: str) -> Test:
    moment = _moment(text)
    return lambda version: datetime.fromisoformat(version.created) >= moment


def _until(text: str) -> Test:
    moment = _moment(text)
    if len(text) <= len("2026-11-20"):
        moment += timedelta(days=1) - timedelta(microseconds=1)
    return lambda version: datetime.fromisoformat(version.created) <= moment
