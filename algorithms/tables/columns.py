"""How raw columns become the float32 matrix that a model sees: a plan as data, applied here by numpy and in packages by ONNX (``graph.py``).

The plan's matrix has, in order: each number (booleans are 0 and 1, dates days since 1970) with a missing one filled with the training median
or kept as NaN for models that handle it; one indicator for each number that misses values in training, unless NaN is kept; year, month, day
of the week and hour of each date; then each text column as one feature per known value, or as the mean target of its value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

Floats = NDArray[np.float32]
NUM_FOLDS = 5
DATE_PARTS = ("year", "month", "weekday", "hour")
SECONDS_PER_DAY = 86_400


class NumericColumn(BaseModel):
    """A number, boolean or date; its raw value is a float32."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    type: Literal["integer", "float", "boolean", "datetime"]
    fill: float = Field(description="Takes the place of a missing value: the training median.")
    has_missing: bool = Field(description="Whether values were missing in the training split.")


class CategoryColumn(BaseModel):
    """Text. A value that is not in ``values`` counts as 'other'; a missing one is ``""``, which is a value like any, if training knew it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    values: list[str] = Field(description="Known values, the most frequent first.")
    means: list[list[float]] | None = Field(
        default=None,
        description="None: one feature per value and one for 'other'. Else per value the (smoothed) mean target, per target output.",
    )
    default: list[float] = Field(default_factory=list, description="The means of 'other'.")


class Left(BaseModel):
    """A column that is not used, and why."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    reason: str


class ColumnPlan(BaseModel):
    """Everything learned from the training split's columns; JSON.

    ``offset`` and ``scale`` have one value a feature: a model sees ``(x - offset) * scale``; both are empty for trees, which do not care.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    numeric: list[NumericColumn]
    categories: list[CategoryColumn]
    left_out: list[Left] = Field(default_factory=list)
    keep_nan: bool = Field(description="Numbers that missed values in training stay NaN when missing.")
    clip: float = Field(default=0.0, description="Largest absolute value after scaling; 0: no limit.")
    offset: list[float] = Field(default_factory=list)
    scale: list[float] = Field(default_factory=list)

    @property
    def raw_columns(self) -> list[str]:
        """Names of the table's columns in use: the inputs of the package, in order."""
        return [column.name for column in self.numeric] + [column.name for column in self.categories]

    @property
    def sources(self) -> list[tuple[str, str]]:
        """For each feature of the matrix the raw column it comes from, and its own name."""
        found = [(column.name, column.name) for column in self.numeric]
        found += [(column.name, f"{column.name} is missing") for column in self.indicators]
        found += [(column.name, f"{column.name}: {part}") for column in self.dates for part in DATE_PARTS]
        for column in self.categories:
            if column.means is None:
                found += [(column.name, f"{column.name} = {value or 'missing'}") for value in column.values] + [
                    (column.name, f"{column.name} = other")
                ]
            else:
                found += [(column.name, f"{column.name}: mean target {index}") for index in range(len(column.default))]
        return found

    @property
    def num_features(self) -> int:
        return len(self.sources)

    @property
    def indicators(self) -> list[NumericColumn]:
        return [] if self.keep_nan else [column for column in self.numeric if column.has_missing]

    @property
    def dates(self) -> list[NumericColumn]:
        return [column for column in self.numeric if column.type == "datetime"]

    def raw(self, table: pa.Table) -> dict[str, NDArray[Any]]:
        """The table's columns as a package takes them: float32 [N] (missing: NaN) or str objects [N] (missing: ``""``)."""
        found: dict[str, NDArray[Any]] = {column.name: read_number(table[column.name]) for column in self.numeric}
        for column in self.categories:
            found[column.name] = read_text(table[column.name]).to_numpy(zero_copy_only=False)
        return found

    def transform(self, table: pa.Table, encoded: Mapping[str, Floats] | None = None) -> Floats:
        """The matrix [N, F] of a table's rows.

        Args:
            encoded: replaces the mean targets of text columns, [N, T] each; for training, where a row must not see its own target.
        """
        blocks = self._numeric_blocks(table)
        for column in self.categories:
            if encoded is not None and column.name in encoded:
                blocks.append(encoded[column.name])
                continue
            codes = self.codes(column, table)
            if column.means is None:
                blocks.append((codes[:, None] == np.arange(len(column.values) + 1)).astype(np.float32))
            else:
                blocks.append(np.asarray([*column.means, column.default], dtype=np.float32)[codes])
        matrix = np.concatenate(blocks, axis=1) if blocks else np.zeros((table.num_rows, 0), np.float32)
        return self.rescale(matrix)

    def rescale(self, matrix: Floats) -> Floats:
        """Offset, scale and clip a matrix [N, F], in float32 as ONNX does."""
        if self.offset:
            matrix = (matrix - np.asarray(self.offset, np.float32)) * np.asarray(self.scale, np.float32)
        return np.clip(matrix, np.float32(-self.clip), np.float32(self.clip)) if self.clip else matrix

    @staticmethod
    def codes(column: CategoryColumn, table: pa.Table) -> NDArray[np.int64]:
        """Index of each row's value in ``column.values``; ``len(column.values)`` for others."""
        found = pc.index_in(read_text(table[column.name]), value_set=pa.array(column.values, pa.string()))
        return found.fill_null(len(column.values)).to_numpy(zero_copy_only=False).astype(np.int64)

    def _numeric_blocks(self, table: pa.Table) -> list[Floats]:
        if not self.numeric:
            return []
        values = np.stack([read_number(table[column.name]) for column in self.numeric], axis=1)
        missing = np.isnan(values)
        # Without a missing value in training no model has learned where such rows belong: they get the median.
        fills = np.asarray([np.nan if self.keep_nan and column.has_missing else column.fill for column in self.numeric], np.float32)
        blocks = [np.where(missing, fills, values)]
        places = {column.name: index for index, column in enumerate(self.numeric)}
        if self.indicators:
            blocks.append(missing[:, [places[column.name] for column in self.indicators]].astype(np.float32))
        if self.dates:
            medians = np.asarray([column.fill for column in self.numeric], np.float32)
            filled = np.where(missing, medians, values)
            blocks += [date_parts(filled[:, places[column.name]]) for column in self.dates]
        return blocks


def read_number(column: pa.ChunkedArray | pa.Array) -> Floats:
    """A numeric, boolean or date column as float32 [N]; missing and infinite values as NaN, dates as days since 1970 (UTC)."""
    flat = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_temporal(flat.type):
        micros = flat.cast(pa.timestamp("us")).cast(pa.int64())
        values = pc.divide(micros.cast(pa.float64(), safe=False), float(SECONDS_PER_DAY * 1_000_000)).to_numpy(zero_copy_only=False)
    else:
        values = flat.cast(pa.float64(), safe=False) if not pa.types.is_boolean(flat.type) else flat.cast(pa.uint8()).cast(pa.float64())
        values = values.to_numpy(zero_copy_only=False)
    with np.errstate(over="ignore"):
        numbers = np.asarray(values, dtype=np.float64).astype(np.float32)
    return np.where(np.isfinite(numbers), numbers, np.float32(np.nan))


def read_text(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """A text column as strings; missing and blank values as ``""``."""
    flat = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    text = flat.cast(pa.string()).fill_null("")
    return pc.if_else(pc.equal(pc.utf8_trim_whitespace(text), ""), "", text)


def date_parts(days: Floats) -> Floats:
    """Year, month, weekday (0 is Monday) and hour of days since 1970: float32 [N, 4].

    The civil calendar from a day count in whole numbers, so that ONNX can do the same: Howard Hinnant, "chrono-Compatible Low-Level Date
    Algorithms", ``civil_from_days``.
    """
    whole = np.floor(days)
    hour = np.floor((days - whole) * np.float32(24))
    day = whole.astype(np.int64)
    shifted = day + 719_468
    era = shifted // 146_097
    of_era = shifted - era * 146_097
    year_of_era = (of_era - of_era // 1460 + of_era // 36_524 - of_era // 146_096) // 365
    of_year = of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    shifted_month = (5 * of_year + 2) // 153
    month = np.where(shifted_month < 10, shifted_month + 3, shifted_month - 9)
    year = year_of_era + era * 400 + (month <= 2)
    return np.stack([year, month, (shifted + 2) % 7, hour], axis=1).astype(np.float32)


def stack_features(names: Sequence[tuple[str, str]], importance: NDArray[np.float64]) -> list[dict[str, Any]]:
    """Importance of each raw column: the sum over its features, as shares of the whole, the largest first."""
    totals: dict[str, float] = {}
    for (column, _), value in zip(names, importance, strict=True):
        totals[column] = totals.get(column, 0.0) + float(value)
    whole = sum(totals.values()) or 1.0
    return [{"feature": name, "importance": value / whole} for name, value in sorted(totals.items(), key=lambda pair: (-pair[1], pair[0]))]
