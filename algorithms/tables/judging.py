"""Predictions on a split, row group by row group, and what is told about them: for the trained model and for its package alike."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from algorithms.metrics import classification_metrics, regression_metrics
from algorithms.tables.columns import ColumnPlan
from algorithms.tables.matrix import iter_labelled
from algorithms.tables.target import ROW_ID, Target
from infra.datasets.dataset import Dataset
from infra.errors import InvalidOptionError

Predict = Callable[[pa.Table], NDArray[Any]]
"""From rows to scores [N, C], or to numbers [N] in the target's unit."""


@dataclass(frozen=True)
class Predictions:
    """Of one split. ``labels`` int64 class indices or float64 numbers [N]; ``outputs`` scores [N, C] or numbers [N]; ``rows`` int64 [N]."""

    target: Target
    labels: NDArray[Any]
    outputs: NDArray[Any]
    rows: NDArray[np.int64]

    def metrics(self) -> dict[str, Any]:
        if self.target.is_class:
            return classification_metrics(self.labels, self.outputs, self.target.classes)
        return regression_metrics(self.labels, self.outputs)

    def write(self, path: Path) -> None:
        """``predictions.parquet``: id, label, prediction, and for classes scores."""
        columns: dict[str, Any] = {"id": pa.array(self.rows.astype(str).tolist(), pa.string())}
        if self.target.is_class:
            names = np.asarray(self.target.classes, dtype=object)
            columns |= {
                "label": pa.array(names[self.labels], pa.string()),
                "prediction": pa.array(names[self.outputs.argmax(axis=1)], pa.string()),
            }
            flat = pa.array(np.asarray(self.outputs, np.float32).ravel())
            columns["scores"] = pa.ListArray.from_arrays(pa.array(np.arange(len(self.rows) + 1) * len(names), pa.int32()), flat)
        else:
            columns |= {"label": pa.array(self.labels, pa.float64()), "prediction": pa.array(np.asarray(self.outputs, np.float64))}
        pq.write_table(pa.table(columns), path)


def predict_split(data: Dataset, split: str, plan: ColumnPlan, target: Target, predict: Predict) -> Predictions:
    """Predict every row of a split that has a target.

    Raises:
        InvalidOptionError: there is none.
    """
    labels, outputs, rows = [], [], []
    for table, found in iter_labelled(data, split, plan, target):
        if table.num_rows:
            labels.append(found)
            outputs.append(np.asarray(predict(table)))
            rows.append(table[ROW_ID].combine_chunks().to_numpy(zero_copy_only=False))
    if not labels:
        problem = f"the {split} split has no row with a target, so there is nothing to judge a model by"
        raise InvalidOptionError("this data set", [problem], "Import more rows, or other split ratios.")
    return Predictions(target, np.concatenate(labels), np.concatenate(outputs), np.concatenate(rows).astype(np.int64))


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n")
