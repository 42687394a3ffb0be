"""A user's own suite: Great Expectations' JSON, checked whole before any data is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from algorithms.spec import Expectation
from infra.errors import InvalidOptionError
from tasks import _gx

HINT = "docs/validation.md tells what a suite may contain."
ELSEWHERE = ("expect_query_results_to_match_comparison", "expect_table_row_count_to_equal_other_table", "unexpected_rows_expectation")
SEVERITIES: dict[Any, Literal["error", "warning"]] = {"critical": "error", "error": "error", "warning": "warning", "info": "warning"}


def parse_suite(suite: Mapping[str, Any], columns: Sequence[str]) -> list[Expectation]:
    """The suite's expectations.

    Args:
        suite: ``{"name": ..., "expectations": [{"type", "kwargs", "severity", "meta": {"per_sample": bool, "reason": str}}]}``.
        columns: those that an expectation may speak of.

    Raises:
        InvalidOptionError: with all that is wrong.
    """
    entries = suite.get("expectations")
    if not isinstance(entries, list) or not entries:
        raise InvalidOptionError("the suite", ["'expectations' must be a list with at least one expectation"], HINT)
    problems: list[str] = []
    parsed = []
    for number, entry in enumerate(entries, 1):
        found = list(_problems(entry, columns))
        problems += [f"expectation {number}: {problem}" for problem in found]
        if not found:
            parsed.append(_expectation(entry))
    if problems:
        raise InvalidOptionError(f"the suite {suite.get('name') or ''}".rstrip(), problems, HINT)
    return parsed


def _problems(entry: Any, columns: Sequence[str]) -> Iterator[str]:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("type"), str):
        yield "must be an object with a 'type'"
        return
    kwargs, meta, severity = entry.get("kwargs", {}), entry.get("meta") or {}, entry.get("severity", "critical")
    if not isinstance(kwargs, Mapping) or not isinstance(meta, Mapping):
        yield "'kwargs' and 'meta' must be objects"
        return
    if severity not in SEVERITIES:
        yield f"severity {severity!r} is not one of {', '.join(SEVERITIES)}"
    if entry["type"] in ELSEWHERE:
        yield f"{entry['type']} needs a database; data sets here are files"
        return
    expectation = Expectation(entry["type"], kwargs)
    yield from _gx.faults(expectation)
    if not expectation.type.startswith("expect_column_to_exist"):
        for column in columns_of(expectation):
            if column not in columns:
                yield f"{expectation.type}: there is no column {column!r}; columns are {', '.join(columns)}"


def columns_of(expectation: Expectation) -> list[str]:
    """The columns that an expectation names in its arguments."""
    kwargs = expectation.kwargs
    named = [kwargs.get("column"), kwargs.get("column_A"), kwargs.get("column_B"), *(kwargs.get("column_list") or [])]
    return [str(name) for name in named if name is not None]


def _expectation(entry: Mapping[str, Any]) -> Expectation:
    meta, kwargs = entry.get("meta") or {}, dict(entry.get("kwargs", {}))
    severity = SEVERITIES[entry.get("severity", "critical")]
    expectation = Expectation(entry["type"], kwargs, severity)
    # A rule that every single row must satisfy says which rows are broken; one for most of them speaks of the whole.
    per_sample = meta.get("per_sample", severity == "error" and kwargs.get("mostly", 1) == 1) and _gx.is_row_wise(expectation)
    reason = str(meta.get("reason", "")).replace("{", "{{").replace("}", "}}")
    return Expectation(expectation.type, kwargs, severity, per_sample=bool(per_sample), reason=reason)
