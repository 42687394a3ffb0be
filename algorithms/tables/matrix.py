"""A split as one float32 matrix: what estimators learn from is held in memory, rows x features x 4 bytes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from algorithms.tables.columns import ColumnPlan, Floats
from algorithms.tables.fitting import FoldMeans
from algorithms.tables.target import ROW_ID, Target
from infra.datasets.dataset import Dataset


@dataclass(frozen=True)
class Matrix:
    """Rows that have a target.

    Attributes:
        features: float32 [N, F].
        labels: int64 class indices [N], or float64 numbers [N] in the target's unit.
        num_without_target: rows left out because their target is missing.
    """

    features: Floats
    labels: NDArray[Any]
    num_without_target: int = 0

    def __len__(self) -> int:
        return len(self.labels)


def read_matrix(data: Dataset, split: str, plan: ColumnPlan, target: Target, fold_means: FoldMeans | None = None) -> Matrix:
    """Read one split, row group by row group, into one matrix.

    Args:
        fold_means: for training: text columns get the mean target of other folds' rows.
    """
    features = np.empty((data.num_rows(split), plan.num_features), np.float32)
    labels: list[NDArray[Any]] = []
    place = 0
    for table, found in iter_labelled(data, split, plan, target):
        encoded = fold_means.encode(plan, table) if fold_means else None
        features[place : place + table.num_rows] = plan.transform(table, encoded)
        labels.append(found)
        place += table.num_rows
    joined = np.concatenate(labels) if labels else np.zeros(0, np.int64 if target.is_class else np.float64)
    return Matrix(features[:place], joined, num_without_target=len(features) - place)


def iter_labelled(data: Dataset, split: str, plan: ColumnPlan, target: Target) -> Iterator[tuple[pa.Table, NDArray[Any]]]:
    """Row groups of a split without the rows that lack a target, and their targets [N]."""
    for table in data.iter_tables(split, [ROW_ID, *plan.raw_columns, target.name]):
        labels, there = target.read(table)
        yield (table, labels) if there.all() else (table.filter(pa.array(there)), labels[there])
