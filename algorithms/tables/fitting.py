"""Learning the column plan from the training split: one pass over its row groups for types, counts and a sample of rows, a second one only
when text columns are encoded by the mean of the target. What is held is counts and at most ``SAMPLE_ROWS`` rows, never the table.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from algorithms.tables.columns import NUM_FOLDS, CategoryColumn, ColumnPlan, Floats, Left, NumericColumn, read_number, read_text
from algorithms.tables.config import TableConfig
from algorithms.tables.target import MAX_CLASSES, ROW_ID, Target, check_columns, label_text
from infra.datasets.card import Card
from infra.datasets.dataset import Dataset
from infra.errors import InvalidOptionError

SAMPLE_ROWS = 100_000
LEAST_ROWS_FOR_IDS = 50
ID_SHARE = 0.5
MAX_COUNTED = 200_000
MAX_MEAN_OUTPUTS = 20
SMOOTHING_ROWS = 10.0


@dataclass
class FoldMeans:
    """Target sums by fold, so that a training row's mean target leaves out its own fold.

    Attributes:
        counts: per text column float64 [folds, values + 1].
        sums: per text column float64 [folds, values + 1, outputs].
    """

    seed: int
    counts: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    sums: dict[str, NDArray[np.float64]] = field(default_factory=dict)

    def folds(self, table: pa.Table) -> NDArray[np.int64]:
        """The fold of each row, by a hash of its number: the same whoever reads it, in whatever order."""
        rows = table[ROW_ID].combine_chunks().to_numpy(zero_copy_only=False).astype(np.uint64)
        mixed = (rows + np.uint64(self.seed + 1)) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(31))) * np.uint64(0xBF58476D1CE4E5B9)
        return ((mixed >> np.uint64(33)) % np.uint64(NUM_FOLDS)).astype(np.int64)

    def add(self, plan: ColumnPlan, table: pa.Table, outputs: NDArray[np.float64]) -> None:
        """Count the rows of ``table``, whose targets are ``outputs`` [N, T]."""
        folds = self.folds(table)
        for column in plan.categories:
            if column.means is None:
                continue
            size = len(column.values) + 1
            places = folds * size + plan.codes(column, table)
            counts = np.bincount(places, minlength=NUM_FOLDS * size).reshape(NUM_FOLDS, size)
            sums = np.stack([np.bincount(places, part, minlength=NUM_FOLDS * size) for part in outputs.T], axis=1)
            self.counts.setdefault(column.name, np.zeros(counts.shape))
            self.counts[column.name] += counts
            self.sums.setdefault(column.name, np.zeros((*counts.shape, sums.shape[1])))
            self.sums[column.name] += sums.reshape(NUM_FOLDS, size, -1)

    def means(self, name: str, without: int | None = None) -> NDArray[np.float64]:
        """Smoothed mean target of each value [values + 1, T], of all rows or without one fold."""
        keep = [fold for fold in range(NUM_FOLDS) if fold != without]
        counts, sums = self.counts[name][keep].sum(axis=0), self.sums[name][keep].sum(axis=0)
        prior = sums.sum(axis=0) / max(counts.sum(), 1)
        smoothed: NDArray[np.float64] = (sums + SMOOTHING_ROWS * prior) / (counts + SMOOTHING_ROWS)[:, None]
        return smoothed

    def encode(self, plan: ColumnPlan, table: pa.Table) -> dict[str, Floats]:
        """For training: the mean targets [N, T] of each text column, without the row's own fold."""
        folds = self.folds(table) if self.counts else None
        found = {}
        for column in plan.categories:
            if column.name in self.counts:
                by_fold = np.stack([self.means(column.name, fold) for fold in range(NUM_FOLDS)])
                found[column.name] = by_fold[folds, plan.codes(column, table)].astype(np.float32)
        return found


@dataclass
class _Survey:
    """What one pass over the training split tells."""

    num_rows: int = 0
    nulls: Counter[str] = field(default_factory=Counter)
    low: dict[str, float] = field(default_factory=dict)
    high: dict[str, float] = field(default_factory=dict)
    values: dict[str, Counter[str]] = field(default_factory=dict)
    identifiers: set[str] = field(default_factory=set)
    labels: Counter[str] = field(default_factory=Counter)
    fractional: bool = False
    target_sum: float = 0.0
    target_squares: float = 0.0
    sample: list[pa.Table] = field(default_factory=list)


@dataclass(frozen=True)
class FittedTable:
    """The plan, the target, and for training the target's sums by fold."""

    plan: ColumnPlan
    target: Target
    fold_means: FoldMeans


def fit_table(
    data: Dataset, config: TableConfig, *, regression: bool, keep_nan: bool = False, scaled: bool = False, clip: float = 0.0
) -> FittedTable:
    """Learn target and columns from the training split.

    Args:
        keep_nan: the model handles NaN itself.
        scaled: numbers get mean 0 and standard deviation 1.
        clip: largest absolute value after scaling; 0: no limit.

    Raises:
        InvalidOptionError: the options do not fit the table, or nothing is left to learn from; all faults at once.
    """
    card = data.card
    check_columns(config, card, regression=regression)
    types: dict[str, str] = {
        feature.name: feature.type
        for feature in card.features
        if feature.name not in (ROW_ID, config.target)
        and feature.name not in config.drop
        and (not config.features or feature.name in config.features)
    }
    survey = _survey(data, config, types, regression)
    target = _make_target(card, config, survey, data, regression)
    plan = _make_plan(config, types, survey, target, keep_nan)
    fold_means = FoldMeans(seed=config.seed)
    if any(column.means is not None for column in plan.categories):
        for table in data.iter_tables("train", [ROW_ID, target.name, *(column.name for column in plan.categories)]):
            labels, there = target.read(table)
            fold_means.add(plan, table.filter(pa.array(there)), outputs_of(target, labels[there]))
        plan = plan.model_copy(update={"categories": [_with_means(column, fold_means) for column in plan.categories]})
    if scaled:
        plan = _scale(plan, pa.concat_tables(survey.sample), clip)
    return FittedTable(plan, target, fold_means)


def outputs_of(target: Target, labels: NDArray[Any]) -> NDArray[np.float64]:
    """Targets as the numbers [N, T] whose means encode text columns."""
    if not target.is_class:
        return target.standardize(labels)[:, None]
    if target.num_outputs == 1:
        return (labels == 1).astype(np.float64)[:, None]
    return np.eye(len(target.classes))[labels]


def _survey(data: Dataset, config: TableConfig, types: dict[str, str], regression: bool) -> _Survey:
    survey = _Survey()
    stride = max(1, -(-data.num_rows("train") // SAMPLE_ROWS))
    seen = 0
    for table in data.iter_tables("train", [*types, config.target]):
        first = -seen % stride
        survey.sample.append(table.take(pa.array(np.arange(first, table.num_rows, stride))))
        seen += table.num_rows
        _survey_target(survey, table[config.target], regression)
        for name, kind in types.items():
            (_survey_text if kind == "string" else _survey_number)(survey, name, table[name])
    return survey


def _survey_target(survey: _Survey, column: pa.ChunkedArray, regression: bool) -> None:
    if regression:
        values = column.combine_chunks().cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        values = values[np.isfinite(values)]
        survey.num_rows += len(values)
        survey.target_sum += float(values.sum())
        survey.target_squares += float((values**2).sum())
        return
    if pa.types.is_floating(column.type):
        survey.fractional |= pc.any(pc.not_equal(column, pc.floor(column))).as_py() is True
    _count(survey.labels, label_text(column))
    survey.num_rows += len(column) - column.null_count


def _survey_number(survey: _Survey, name: str, column: pa.ChunkedArray) -> None:
    values = read_number(column)
    values = values[~np.isnan(values)]
    survey.nulls[name] += len(column) - len(values)
    if len(values):
        survey.low[name] = min(survey.low.get(name, np.inf), float(values.min()))
        survey.high[name] = max(survey.high.get(name, -np.inf), float(values.max()))


def _survey_text(survey: _Survey, name: str, column: pa.ChunkedArray) -> None:
    if name in survey.identifiers:
        return
    values = survey.values.setdefault(name, Counter())
    _count(values, read_text(column))
    if len(values) > MAX_COUNTED:
        survey.identifiers.add(name)


def _count(counter: Counter[str], text: pa.Array) -> None:
    for entry in pc.value_counts(text.drop_null()).to_pylist():
        counter[entry["values"]] += entry["counts"]


def _make_target(card: Card, config: TableConfig, survey: _Survey, data: Dataset, regression: bool) -> Target:
    problems = []
    name = config.target
    if regression:
        if survey.num_rows < 2:
            problems.append(f"target: {name!r} has {survey.num_rows} usable values in the train split; at least 2 are needed")
            raise InvalidOptionError("this table", problems)
        mean = survey.target_sum / survey.num_rows
        # A second pass would be exact for a mean far above the spread; float64 leaves 7 digits there.
        spread = max(survey.target_squares / survey.num_rows - mean**2, 0.0) ** 0.5
        if spread == 0.0:
            problems.append(f"target: {name!r} has one value ({mean:g}) in the whole train split; there is nothing to learn")
            raise InvalidOptionError("this table", problems)
        return Target(name=name, classes=[], mean=mean, std=spread)
    if survey.fractional:
        problems.append(f"target: {name!r} holds numbers with fractions; for a number to estimate use tabular-regression")
    if len(survey.labels) > MAX_CLASSES:
        problems.append(f"target: {name!r} has {len(survey.labels)} different values, at most {MAX_CLASSES} classes are learned")
    if len(survey.labels) < 2:
        problems.append(
            f"target: {name!r} has {len(survey.labels)} class in the train split ({', '.join(survey.labels)}); at least 2 are needed"
        )
    if problems:
        raise InvalidOptionError("this table", problems)
    if card.target == name and card.classes:
        return Target(name=name, classes=list(card.classes))
    classes = set(survey.labels)
    for split in ("valid", "test"):
        for table in data.iter_tables(split, [name]):
            classes |= set(pc.unique(label_text(table[name]).drop_null()).to_pylist())
    return Target(name=name, classes=sorted(classes))


def _make_plan(config: TableConfig, types: dict[str, str], survey: _Survey, target: Target, keep_nan: bool) -> ColumnPlan:
    sample = pa.concat_tables(survey.sample)
    numeric: list[NumericColumn] = []
    categories: list[CategoryColumn] = []
    left_out = [Left(name=name, reason="drop option") for name in config.drop]
    for name, kind in types.items():
        reason = (_why_not_text if kind == "string" else _why_not_number)(survey, name, kind, sample, asked_for=name in config.features)
        if reason:
            left_out.append(Left(name=name, reason=reason))
        elif kind == "string":
            categories.append(_category(name, survey.values[name], config, target))
        else:
            fill = (
                float(np.float32(np.nanmedian(read_number(sample[name]))))
                if sample[name].null_count < sample.num_rows
                else survey.low[name]
            )
            numeric.append(NumericColumn.model_validate({"name": name, "type": kind, "fill": fill, "has_missing": survey.nulls[name] > 0}))
    if not numeric and not categories:
        problems = [f"features: column {left.name!r} is of no use: {left.reason}" for left in left_out] or [
            "features: there is no column but the target"
        ]
        raise InvalidOptionError("this table", problems, "A model needs at least one column that differs between rows.")
    return ColumnPlan(numeric=numeric, categories=categories, left_out=left_out, keep_nan=keep_nan)


def _category(name: str, counts: Counter[str], config: TableConfig, target: Target) -> CategoryColumn:
    ranked = sorted(counts, key=lambda value: (-counts[value], value))
    if len(ranked) <= config.max_one_hot:
        return CategoryColumn(name=name, values=ranked)
    if target.num_outputs > MAX_MEAN_OUTPUTS:  # one feature per class would be more than one per value
        return CategoryColumn(name=name, values=ranked[: max(config.max_one_hot, 64)])
    return CategoryColumn(name=name, values=ranked[: config.max_categories], means=[])


def _with_means(column: CategoryColumn, fold_means: FoldMeans) -> CategoryColumn:
    if column.means is None:
        return column
    means = fold_means.means(column.name).astype(np.float32).tolist()
    return column.model_copy(update={"means": means[:-1], "default": means[-1]})


def _why_not_text(survey: _Survey, name: str, kind: str, sample: pa.Table, *, asked_for: bool) -> str:
    counts = survey.values.get(name, Counter())
    if len(counts) < 2:
        return "constant" if any(counts) else "empty"
    filled = sum(counts.values()) - counts.get("", 0)
    is_identifier = name in survey.identifiers or (len(counts) > LEAST_ROWS_FOR_IDS and len(counts) > ID_SHARE * filled)
    return f"like an identifier: more than {ID_SHARE:.0%} of its values are different" if is_identifier and not asked_for else ""


def _why_not_number(survey: _Survey, name: str, kind: str, sample: pa.Table, *, asked_for: bool) -> str:
    if name not in survey.low:
        return "empty"
    if survey.low[name] == survey.high[name] and not survey.nulls[name]:
        return "constant"
    if kind != "integer" or asked_for or survey.nulls[name] or survey.num_rows < LEAST_ROWS_FOR_IDS:
        return ""
    values = sample[name].combine_chunks()
    is_counter = len(pc.unique(values)) == len(values) and survey.num_rows >= ID_SHARE * (survey.high[name] - survey.low[name] + 1)
    return "like a row number: whole numbers, all different, and hardly any left out" if is_counter else ""


def _scale(plan: ColumnPlan, sample: pa.Table, clip: float) -> ColumnPlan:
    """Mean and deviation of the features that are numbers; indicators and one feature per value stay 0 and 1."""
    matrix = plan.transform(sample).astype(np.float64)
    offset, deviation = matrix.mean(axis=0), matrix.std(axis=0)
    plain = len(plan.numeric)
    is_number = np.zeros(plan.num_features, bool)
    is_number[:plain] = True
    place = plain + len(plan.indicators)
    for width, number in _widths(plan):
        is_number[place : place + width] = number
        place += width
    scale = np.where(is_number & (deviation > 0), 1 / np.where(deviation > 0, deviation, 1), 1.0)
    return plan.model_copy(update={"offset": np.where(is_number, offset, 0.0).tolist(), "scale": scale.tolist(), "clip": clip})


def _widths(plan: ColumnPlan) -> Iterator[tuple[int, bool]]:
    for _ in plan.dates:
        yield 4, True
    for column in plan.categories:
        yield (len(column.values) + 1, False) if column.means is None else (len(column.default), True)
