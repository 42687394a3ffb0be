"""One vectorised pass over a table: what its columns are like, and which rows break which rule. Chunks are measured apart and added up.

Only pyarrow and numpy work here, so a worker begins at once and holds one row group at a time.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

MOST_CATEGORIES = 5_000  # distinct strings that are counted one by one
MOST_LEVELS = 200  # distinct values of a column that is compared with the classes
SKETCH_SIZE = 1_024  # smallest hashes kept to estimate a number of distinct strings, within about 3 %
DRIFT_SAMPLE = 20_000  # values of a split by which its distribution is compared
NUM_EXAMPLES = 20
NUMBERS = ("integer", "float")


@dataclass(frozen=True)
class Rule:
    """A row-wise expectation that is judged in the pass itself. ``low`` and ``high`` may be strict; ``values`` are of the column's type."""

    kind: Literal["not_null", "null", "between", "in_set", "not_in_set"]
    column: str
    low: float | None = None
    high: float | None = None
    strict_low: bool = False
    strict_high: bool = False
    values: tuple[Any, ...] = ()
    collect: bool = False


@dataclass(frozen=True)
class Plan:
    """What to measure: ``types`` of the columns by name (``Feature.type``), the target, the rules, and every how many rows to sample."""

    types: dict[str, str]
    target: str | None
    regression: bool
    rules: tuple[Rule, ...]
    strides: dict[str, int]


@dataclass
class Moments:
    """Count, mean and sums of squared deviations of x, y and both (Chan, Golub and LeVeque 1983), of rows where both are finite."""

    count: int = 0
    mean_x: float = 0.0
    mean_y: float = 0.0
    xx: float = 0.0
    yy: float = 0.0
    xy: float = 0.0

    @classmethod
    def of(cls, x: np.ndarray, y: np.ndarray) -> Moments:
        if not len(x):
            return cls()
        mean_x, mean_y = float(x.mean()), float(y.mean())
        dx, dy = x - mean_x, y - mean_y
        # numpy's own loop: a dot product would start BLAS's threads, and a worker has one core.
        xx, yy, xy = (float(np.einsum("i,i->", one, other)) for one, other in ((dx, dx), (dy, dy), (dx, dy)))
        return cls(len(x), mean_x, mean_y, xx, yy, xy)

    def add(self, other: Moments) -> Moments:
        count = self.count + other.count
        if not self.count or not other.count:
            return self if self.count else other
        dx, dy, part = other.mean_x - self.mean_x, other.mean_y - self.mean_y, self.count * other.count / count
        return Moments(
            count,
            self.mean_x + dx * other.count / count,
            self.mean_y + dy * other.count / count,
            self.xx + other.xx + dx * dx * part,
            self.yy + other.yy + dy * dy * part,
            self.xy + other.xy + dx * dy * part,
        )


@dataclass
class ColumnPart:
    """A column in one chunk, or in several added up. ``values`` is None where there are too many to count."""

    rows: int = 0
    valid: int = 0
    low: float | None = None
    high: float | None = None
    total: float = 0.0
    moments: Moments = field(default_factory=Moments)
    with_target: Moments = field(default_factory=Moments)
    values: dict[str, Counter[Any]] | None = field(default_factory=dict)
    sketch: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint64))
    samples: dict[str, list[np.ndarray]] = field(default_factory=dict)
    compared: int = 0
    equal: int = 0
    pairs: set[tuple[Any, Any]] | None = field(default_factory=set)

    def add(self, other: ColumnPart) -> None:
        self.rows, self.valid, self.total = self.rows + other.rows, self.valid + other.valid, self.total + other.total
        self.compared, self.equal = self.compared + other.compared, self.equal + other.equal
        self.low = min((value for value in (self.low, other.low) if value is not None), default=None)
        self.high = max((value for value in (self.high, other.high) if value is not None), default=None)
        self.moments, self.with_target = self.moments.add(other.moments), self.with_target.add(other.with_target)
        self.values = _add_counts(self.values, other.values)
        self.sketch = _smallest(np.concatenate([self.sketch, other.sketch]))
        for split, arrays in other.samples.items():
            self.samples.setdefault(split, []).extend(arrays)
        self.pairs = None if self.pairs is None or other.pairs is None else self.pairs | other.pairs
        if self.pairs is not None and len(self.pairs) > MOST_LEVELS:
            self.pairs = None

    @property
    def num_distinct(self) -> int:
        """Distinct values; estimated for strings of which there are many, and for numbers 'more than was counted'."""
        if self.values is not None:
            return len(set().union(*self.values.values()))
        if len(self.sketch) >= SKETCH_SIZE:
            return min(self.valid, int((SKETCH_SIZE - 1) * 2.0**64 / float(self.sketch[-1])))
        return MOST_LEVELS + 1


@dataclass
class RulePart:
    """A rule in one chunk, or in several added up; ``ids`` (``_row``), ``values`` and ``classes`` of the rows that break it."""

    rows: int = 0
    missing: int = 0
    unexpected: int = 0
    examples: list[Any] = field(default_factory=list)
    ids: list[np.ndarray] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)

    def add(self, other: RulePart, most_ids: int) -> None:
        self.rows, self.missing, self.unexpected = self.rows + other.rows, self.missing + other.missing, self.unexpected + other.unexpected
        self.examples = (self.examples + other.examples)[:NUM_EXAMPLES]
        if sum(map(len, self.ids)) <= most_ids:
            self.ids += other.ids
            self.values += other.values


@dataclass
class TablePart:
    """All that one chunk, or several added up, tell. ``classes[split][class]`` counts the target; ``where`` gives invalid rows' split and class."""

    columns: dict[str, ColumnPart]
    rules: list[RulePart]
    classes: dict[str, Counter[str]] = field(default_factory=dict)
    where: dict[int, tuple[str, str | None]] = field(default_factory=dict)

    def add(self, other: TablePart, most_ids: int) -> None:
        for name, column in other.columns.items():
            self.columns[name].add(column)
        for mine, rule in zip(self.rules, other.rules, strict=True):
            mine.add(rule, most_ids)
        for split, counts in other.classes.items():
            self.classes.setdefault(split, Counter()).update(counts)
        if len(self.where) <= most_ids:
            self.where |= other.where


def empty_part(plan: Plan) -> TablePart:
    return TablePart({name: ColumnPart() for name in plan.types}, [RulePart() for _ in plan.rules])


def measure_chunk(table: pa.Table, split: str, plan: Plan) -> TablePart:
    """Measure one row group, which has all of the plan's columns and ``_row``."""
    part = empty_part(plan)
    arrays = {name: table.column(name).combine_chunks() for name in plan.types}
    numbers = {name: _numbers(arrays[name], plan.types[name]) for name in plan.types}
    target = arrays.get(plan.target) if plan.target else None
    labels = None if target is None or plan.regression else _text(target)
    if labels is not None:
        counted = pc.value_counts(labels.drop_null())
        part.classes[split] = Counter(dict(zip(counted.field(0).to_pylist(), counted.field(1).to_pylist(), strict=True)))
    target_numbers = numbers.get(plan.target or "")
    for name, array in arrays.items():
        column = _measure_column(array, numbers[name], plan.types[name], split, plan.strides.get(split, 1))
        if target is not None and name != plan.target:
            _compare(column, array, numbers[name], target, target_numbers, labels)
        part.columns[name] = column
    ids = table.column("_row").to_numpy()
    for index, rule in enumerate(plan.rules):
        part.rules[index], bad = _judge(rule, arrays[rule.column], numbers[rule.column], ids)
        if rule.collect and len(bad):
            names = [None] * len(bad) if labels is None else labels.take(pa.array(bad)).to_pylist()
            part.where |= {int(ids[row]): (split, name) for row, name in zip(bad, names, strict=True)}
    return part


def _numbers(array: pa.Array, kind: str) -> np.ndarray | None:
    """Float64 values of a column of numbers or times, NaN where there is none; None for other columns."""
    if kind == "datetime":
        array = array.cast(pa.timestamp("us"), safe=False).cast(pa.int64())
    elif kind not in NUMBERS:
        return None
    return array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)


def _text(array: pa.Array) -> pa.Array:
    return array if pa.types.is_string(array.type) else array.cast(pa.string())


def _measure_column(array: pa.Array, numbers: np.ndarray | None, kind: str, split: str, stride: int) -> ColumnPart:
    part = ColumnPart(rows=len(array))
    if numbers is None:
        part.valid = len(array) - array.null_count
        part.values, part.sketch = _categories(array, split)
        return part
    there = ~np.isnan(numbers)
    part.valid = int(there.sum())
    finite = numbers[np.isfinite(numbers)]
    if part.valid:
        present = numbers[there] if part.valid < len(numbers) else numbers
        part.low, part.high, part.total = float(present.min()), float(present.max()), float(present.sum())
    part.moments = Moments.of(finite, finite)
    if kind in NUMBERS:
        sample = numbers[::stride]
        part.samples[split] = [sample[np.isfinite(sample)].astype(np.float32)]
    part.values = _levels(numbers[there], split)
    return part


def _levels(values: np.ndarray, split: str) -> dict[str, Counter[Any]] | None:
    if len(np.unique(values[:2_000])) > MOST_LEVELS:
        return None
    distinct, counts = np.unique(values, return_counts=True)
    return {split: Counter(dict(zip(distinct.tolist(), counts.tolist(), strict=True)))} if len(distinct) <= MOST_LEVELS else None


def _categories(array: pa.Array, split: str) -> tuple[dict[str, Counter[Any]] | None, np.ndarray]:
    from pandas.util import hash_array

    counted = pc.value_counts(_text(array).drop_null())
    names = counted.field(0)
    hashes = (
        _smallest(hash_array(names.to_numpy(zero_copy_only=False).astype(object), categorize=False))
        if len(names)
        else np.empty(0, np.uint64)
    )
    if len(names) > MOST_CATEGORIES:
        return None, hashes
    return {split: Counter(dict(zip(names.to_pylist(), counted.field(1).to_pylist(), strict=True)))}, hashes


def _smallest(hashes: np.ndarray) -> np.ndarray:
    return np.unique(hashes)[:SKETCH_SIZE]


def _add_counts(mine: dict[str, Counter[Any]] | None, other: dict[str, Counter[Any]] | None) -> dict[str, Counter[Any]] | None:
    if mine is None or other is None:
        return None
    for split, counts in other.items():
        mine.setdefault(split, Counter()).update(counts)
    levels = set().union(*mine.values())
    most = MOST_LEVELS if any(isinstance(level, float) for level in levels) else MOST_CATEGORIES
    return mine if len(levels) <= most else None


def _compare(
    part: ColumnPart,
    array: pa.Array,
    numbers: np.ndarray | None,
    target: pa.Array,
    target_numbers: np.ndarray | None,
    labels: pa.Array | None,
) -> None:
    """How a column and the target go together, where there is a target: equal rows, pairs of a level and a class, joint moments."""
    part.compared = len(target) - target.null_count
    if numbers is not None and target_numbers is not None:
        part.equal = int((numbers == target_numbers).sum())
        both = np.isfinite(numbers) & np.isfinite(target_numbers)
        if labels is None:
            part.with_target = Moments.of(numbers[both], target_numbers[both])
    elif numbers is None or part.values is not None:  # numbers of many values are not written out: no set of classes is that large
        part.equal = int(pc.sum(pc.equal(_text(array), _text(target))).as_py() or 0)
    part.pairs = None
    if labels is not None and part.values is not None and all(len(counts) <= MOST_LEVELS for counts in part.values.values()):
        known = labels.is_valid()
        part.pairs = _pairs(array.filter(known), labels.filter(known))


def _pairs(array: pa.Array, labels: pa.Array) -> set[tuple[Any, Any]] | None:
    left, right = array.dictionary_encode("encode"), labels.dictionary_encode("encode")
    if len(right.dictionary) > MOST_LEVELS:
        return None
    codes = np.unique(left.indices.to_numpy().astype(np.int64) * len(right.dictionary) + right.indices.to_numpy())
    names, classes = left.dictionary.to_pylist(), right.dictionary.to_pylist()
    return {(names[code // len(classes)], classes[code % len(classes)]) for code in codes.tolist()}


def _judge(rule: Rule, array: pa.Array, numbers: np.ndarray | None, ids: np.ndarray) -> tuple[RulePart, np.ndarray]:
    """The rule on one chunk, and the positions of the rows that break it."""
    missing = array.is_null().to_numpy(zero_copy_only=False) if numbers is None else np.isnan(numbers)
    if rule.kind in ("not_null", "null"):
        bad = missing if rule.kind == "not_null" else ~missing
    elif rule.kind == "between":
        assert numbers is not None
        bad = ~missing & ~_inside(numbers, rule)
    else:
        found = pc.is_in(array, value_set=pa.array(rule.values).cast(array.type)).to_numpy(zero_copy_only=False)
        bad = ~missing & (~found if rule.kind == "in_set" else found)
    rows = np.flatnonzero(bad)
    part = RulePart(len(array), int(missing.sum()), len(rows))
    values = array.take(pa.array(rows if rule.collect else rows[:NUM_EXAMPLES])).to_pylist()
    part.examples = values[:NUM_EXAMPLES]
    if rule.collect and len(rows):
        part.ids, part.values = [ids[rows]], values
    return part, rows


def _inside(numbers: np.ndarray, rule: Rule) -> np.ndarray:
    inside = np.ones(len(numbers), dtype=bool)
    if rule.low is not None:
        inside &= numbers > rule.low if rule.strict_low else numbers >= rule.low
    if rule.high is not None:
        inside &= numbers < rule.high if rule.strict_high else numbers <= rule.high
    return inside
