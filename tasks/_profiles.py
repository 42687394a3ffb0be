"""The profile tables that are small: a row for each column of a table, and a row for each class. Pure functions of what the pass found."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from tasks._table_pass import NUMBERS, ColumnPart, Plan, TablePart

LIKE_AN_ID = 0.95


def drift_of_numbers(one: np.ndarray, other: np.ndarray) -> float:
    """The Kolmogorov-Smirnov statistic beyond what chance explains at p = 0.001, 0 to 1."""
    if not len(one) or not len(other):
        return 0.0
    one, other = np.sort(one), np.sort(other)
    both = np.concatenate([one, other])
    gap = np.abs(np.searchsorted(one, both, "right") / len(one) - np.searchsorted(other, both, "right") / len(other)).max()
    return max(0.0, float(gap) - 1.95 * math.sqrt((len(one) + len(other)) / (len(one) * len(other))))


def drift_of_categories(one: Counter[Any], other: Counter[Any]) -> float:
    """The total variation distance of the shares beyond twice what chance explains, 0 to 1."""
    total, other_total = one.total(), other.total()
    if not total or not other_total:
        return 0.0
    distance = noise = 0.0
    for name in one.keys() | other.keys():
        distance += abs(one[name] / total - other[name] / other_total) / 2
        share = (one[name] + other[name]) / (total + other_total)
        noise += math.sqrt(2 / math.pi * share * (1 - share) * (1 / total + 1 / other_total)) / 2
    return max(0.0, distance - 2 * noise)


def column_profile(part: TablePart, plan: Plan) -> list[dict[str, Any]]:
    """One row for each column; ``docs/validation.md`` tells what is in it. What does not apply to a column is None."""
    num_classes = len(set().union(*part.classes.values())) if part.classes else 0
    return [_profile_row(name, column, plan, num_classes) for name, column in part.columns.items()]


def _profile_row(name: str, column: ColumnPart, plan: Plan, num_classes: int) -> dict[str, Any]:
    kind, is_target, distinct = plan.types[name], name == plan.target, column.num_distinct
    moments = column.moments
    row: dict[str, Any] = {
        "column": name,
        "role": "target" if is_target else "feature",
        "type": kind,
        "null_share": 1 - column.valid / column.rows if column.rows else 0.0,
        "distinct": distinct,
        "mean": moments.mean_x if kind in NUMBERS and moments.count else None,
        "std": math.sqrt(moments.xx / (moments.count - 1)) if kind in NUMBERS and moments.count > 1 else None,
        "min": column.low if kind in NUMBERS else None,
        "max": column.high if kind in NUMBERS else None,
        "target_distinct": distinct if is_target else None,
        "target_type": kind if is_target else None,
        "feature_distinct": None if is_target else distinct,
        "id_share": distinct / column.valid if kind == "string" and not is_target and column.valid >= 100 else None,
        "equals_target": None,
        "determines_target": None,
        "drift": None,
        "unseen_share": None,
    }
    if row["id_share"] is None or row["id_share"] < LIKE_AN_ID:  # every split of an identifier is new, and that is told already
        row |= _between_splits(column, kind)
    if not is_target and plan.target:
        row["equals_target"] = bool(column.compared and column.equal == column.compared and distinct > 1)
        row["determines_target"] = not row["equals_target"] and _determines(column, plan.regression, num_classes)
    return row


def _determines(column: ColumnPart, regression: bool, num_classes: int) -> bool:
    """Whether column and target are the same but for the names of their values, or for scale and offset."""
    if regression:
        joint = column.with_target
        spread = math.sqrt(joint.xx * joint.yy)
        return joint.count > 2 and spread > 0 and abs(joint.xy) / spread > 1 - 1e-9
    if column.pairs is None or num_classes < 2:
        return False
    levels, classes = {level for level, _ in column.pairs}, {name for _, name in column.pairs}
    return len(column.pairs) == len(levels) == len(classes) == num_classes


def _between_splits(column: ColumnPart, kind: str) -> dict[str, float]:
    later = ("valid", "test")
    if kind in NUMBERS:
        samples = {split: np.concatenate(arrays) for split, arrays in column.samples.items() if arrays}
        if "train" not in samples:
            return {}
        return {"drift": max((drift_of_numbers(samples["train"], samples[split]) for split in later if split in samples), default=0.0)}
    if column.values is None or "train" not in column.values:
        return {}
    train = column.values["train"]
    others = [column.values[split] for split in later if split in column.values]
    unseen, total = (
        sum(counts[name] for counts in others for name in counts.keys() - train.keys()),
        sum(counts.total() for counts in others),
    )
    return {
        "drift": max((drift_of_categories(train, counts) for counts in others), default=0.0),
        "unseen_share": unseen / total if total else 0.0,
    }


def class_profile(counts: dict[str, Counter[str]], classes: Sequence[str]) -> list[dict[str, Any]]:
    """One row for each class: its samples in each split and in all, and ``balance``, its size as a share of the largest class's."""
    rows = [{"class": name, **{split: counts.get(split, Counter())[name] for split in ("train", "valid", "test")}} for name in classes]
    totals = [sum(counts.get(split, Counter())[name] for split in ("train", "valid", "test")) for name in classes]
    largest = max(totals, default=0)
    return [row | {"total": total, "balance": total / largest if largest else 0.0} for row, total in zip(rows, totals, strict=True)]
