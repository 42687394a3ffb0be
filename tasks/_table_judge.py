"""Expectations about the rows of a table: which of them the parallel pass answers, and how the others are answered."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from algorithms.spec import Expectation
from tasks import _gx
from tasks._suite import columns_of
from tasks._table_pass import NUM_EXAMPLES, NUMBERS, ColumnPart, Rule, TablePart

if TYPE_CHECKING:
    from infra.datasets.dataset import Dataset

KINDS: dict[str, Literal["not_null", "null", "between", "in_set", "not_in_set"]] = {
    "expect_column_values_to_not_be_null": "not_null",
    "expect_column_values_to_be_null": "null",
    "expect_column_values_to_be_between": "between",
    "expect_column_values_to_be_in_set": "in_set",
    "expect_column_values_to_not_be_in_set": "not_in_set",
}
MOMENTS: dict[str, tuple[str, Callable[[ColumnPart], float | None]]] = {
    "expect_column_mean_to_be_between": ("column.mean", lambda part: part.total / part.valid if part.valid else None),
    "expect_column_sum_to_be_between": ("column.sum", lambda part: part.total),
    "expect_column_min_to_be_between": ("column.min", lambda part: part.low),
    "expect_column_max_to_be_between": ("column.max", lambda part: part.high),
    "expect_column_stdev_to_be_between": ("column.standard_deviation", lambda part: _deviation(part)),
}
SHAPES = (
    "expect_column_to_exist",
    "expect_table_columns_to_match_set",
    "expect_table_columns_to_match_ordered_list",
    "expect_table_column_count_to_equal",
    "expect_table_column_count_to_be_between",
    "expect_table_row_count_to_equal",
    "expect_table_row_count_to_be_between",
)
VALUE_TYPES: dict[str, tuple[type, ...]] = {"string": (str,), "integer": (int,), "float": (int, float), "boolean": (bool,)}
CONDITIONS = ("row_condition", "condition_parser")


def _deviation(part: ColumnPart) -> float | None:
    moments = part.moments
    if moments.count < part.valid:  # an infinite value has no deviation
        return math.nan
    return math.sqrt(moments.xx / (moments.count - 1)) if moments.count > 1 else None


def as_rule(expectation: Expectation, types: Mapping[str, str]) -> Rule | None:
    """The expectation as a rule of the pass; None if the pass has no such rule."""
    kind, kwargs = KINDS.get(expectation.type), expectation.kwargs
    column = str(kwargs.get("column"))
    if kind is None or column not in types or any(kwargs.get(name) for name in CONDITIONS):
        return None
    collect = expectation.per_sample
    if kind == "between":
        bounds = (kwargs.get("min_value"), kwargs.get("max_value"))
        if types[column] not in NUMBERS or not all(value is None or _is_number(value) for value in bounds):
            return None
        strict = (bool(kwargs.get("strict_min")), bool(kwargs.get("strict_max")))
        return Rule(kind, column, bounds[0], bounds[1], *strict, collect=collect)
    if kind in ("in_set", "not_in_set"):
        values, fitting = kwargs.get("value_set"), VALUE_TYPES.get(types[column], ())
        if not isinstance(values, list | tuple) or not values or not all(_fits(value, fitting) for value in values):
            return None
        return Rule(kind, column, values=tuple(values), collect=collect)
    return Rule(kind, column, collect=collect)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _fits(value: Any, types: tuple[type, ...]) -> bool:
    return isinstance(value, types) and (not isinstance(value, bool) or bool in types)


@dataclass(frozen=True)
class TableJudge:
    """Judges expectations about rows with what the pass found, reading again only what the pass could not answer.

    Attributes:
        expectations: those about ``samples``, in order.
        rules: for each of them its rule of the pass, if it has one; the pass got those that are not None, in this order.
        num_rows: of all splits.
    """

    expectations: Sequence[Expectation]
    rules: Sequence[Rule | None]
    types: Mapping[str, str]
    num_rows: int
    dataset: Dataset

    def judge(self, part: TablePart) -> list[_gx.Outcome]:
        found = iter(part.rules)
        metrics = {"table.row_count": self.num_rows, "table.columns": list(self.types), "table.column_count": len(self.types)}
        outcomes: dict[int, _gx.Outcome] = {}
        by_row: list[int] = []
        for index, (expectation, rule) in enumerate(zip(self.expectations, self.rules, strict=True)):
            conditional = any(expectation.kwargs.get(name) for name in CONDITIONS)
            column = str(expectation.kwargs.get("column"))
            if rule is not None:
                outcomes[index] = self._of_rule(expectation, next(found))
            elif expectation.type in SHAPES and not conditional:
                outcomes[index] = _gx.judge_merged(expectation, metrics, [], [])
            elif expectation.type in MOMENTS and not conditional and self.types.get(column) in NUMBERS:
                name, value = MOMENTS[expectation.type]
                outcomes[index] = _gx.judge_merged(expectation, metrics | {name: value(part.columns[column])}, [], [])
            elif _gx.is_row_wise(expectation) and not conditional:
                by_row.append(index)
            else:
                outcomes[index] = self._of_whole(expectation)
        outcomes |= self._of_chunks(by_row)
        return [outcomes[index] for index in range(len(self.expectations))]

    def _of_rule(self, expectation: Expectation, found: Any) -> _gx.Outcome:
        ids = [int(row) for array in found.ids for row in array]
        column = expectation.kwargs["column"]
        return _merge(
            expectation, found.rows, found.missing, found.unexpected, found.examples, ids, [{column: value} for value in found.values]
        )

    def _columns(self, expectations: Sequence[Expectation]) -> list[str]:
        """What must be read; a row condition may speak of any column."""
        if any(expectation.kwargs.get(name) for expectation in expectations for name in CONDITIONS):
            return list(self.types)
        named = [column for expectation in expectations for column in columns_of(expectation) if column in self.types]
        return list(dict.fromkeys(named)) or list(self.types)[:1]

    def _of_whole(self, expectation: Expectation) -> _gx.Outcome:
        """Great Expectations on whole columns, for what cannot be added up from chunks: medians, uniqueness, distributions."""
        import pyarrow as pa

        columns = self._columns([expectation])
        tables = [table for split in self.dataset.card.num_rows for table in self.dataset.iter_tables(split, columns)]
        return _gx.judge_frame(pa.concat_tables(tables).to_pandas(), [expectation])[0]

    def _of_chunks(self, indices: Sequence[int]) -> dict[int, _gx.Outcome]:
        """Great Expectations on one chunk after the other, for rules about single rows that the pass does not know, such as patterns."""
        if not indices:
            return {}
        expectations = [self.expectations[index] for index in indices]
        columns = [*self._columns(expectations), "_row"]
        chunks: list[list[_gx.Outcome]] = []
        for split in self.dataset.card.num_rows:
            for table in self.dataset.iter_tables(split, columns):
                chunks.append(_gx.judge_frame(table.to_pandas(), expectations, "_row"))
        return {index: _add_up(list(parts)) for index, parts in zip(indices, zip(*chunks, strict=True), strict=True)}


def _add_up(parts: list[_gx.Outcome]) -> _gx.Outcome:
    failed = next((part for part in parts if part.error), None)
    if failed is not None:
        return failed
    results = [part.details["result"] for part in parts]
    rows, missing = (sum(int(result.get(name) or 0) for result in results) for name in ("element_count", "missing_count"))
    examples = [value for result in results for value in result.get("partial_unexpected_list") or []][:NUM_EXAMPLES]
    merged = _merge(parts[0].expectation, rows, missing, sum(part.num_unexpected for part in parts), examples, [], [])
    ids = [sample for part in parts for sample in part.ids]
    reasons = [reason for part in parts for reason in part.reasons]
    keep = len(ids) if merged.expectation.per_sample else NUM_EXAMPLES
    return _gx.Outcome(**{**vars(merged), "ids": [int(sample) for sample in ids[:keep]], "reasons": reasons[:keep]})


def _merge(
    expectation: Expectation, rows: int, missing: int, unexpected: int, examples: list[Any], ids: list[Any], values: list[dict[str, Any]]
) -> _gx.Outcome:
    """Great Expectations' verdict on counts that were added up."""
    name = _gx.map_metric(expectation)
    metrics = {
        "table.row_count": rows,
        "column_values.nonnull.unexpected_count": missing,
        f"{name}.filtered_row_count": rows - missing,
        f"{name}.unexpected_count": unexpected,
        f"{name}.unexpected_values": examples,
    }
    return _gx.judge_merged(expectation, metrics, ids, values)
