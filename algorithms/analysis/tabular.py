"""The parts of ``explain`` that tables have: importance of the columns, and disturbed rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from algorithms.analysis.importance import permutation_importance, shap_importance
from algorithms.analysis.intervals import regression_intervals, wilson
from algorithms.analysis.robustness import ROW_LEVELS, ROW_UNITS, disturb_rows, judge_levels
from algorithms.analysis.scored import ROWS_AT_ONCE

if TYPE_CHECKING:
    from algorithms.analysis.explain import Looked

MOST_ROWS = 4000
_RESAMPLES = 200


def _predict(looked: Looked, columns: dict[str, NDArray[Any]]) -> NDArray[Any]:
    return looked.package.predict_arrays(columns, batch_size=ROWS_AT_ONCE)


def permutation(looked: Looked) -> list[dict[str, Any]]:
    """By the log loss of classes, the root mean squared error of numbers."""
    truth = looked.test.truth

    def loss(outputs: NDArray[Any], rows: NDArray[np.int64]) -> float:
        if looked.is_class:
            given = np.clip(outputs[np.arange(len(rows)), truth[rows]].astype(np.float64), np.finfo(np.float32).eps, 1.0)
            return float(-np.log(given).mean())
        return float(np.sqrt(((outputs.astype(np.float64) - truth[rows]) ** 2).mean()))

    return permutation_importance(looked.test.rows, loss, lambda columns: _predict(looked, columns), looked.seed)


def shap_values(looked: Looked) -> list[dict[str, Any]]:
    return shap_importance(looked.test.rows, lambda columns: _predict(looked, columns), looked.seed)


def robustness(looked: Looked) -> list[dict[str, Any]]:
    """Accuracy of classes, root mean squared error of numbers, on rows with noise and with missing values."""
    rows = {name: values[:MOST_ROWS] for name, values in looked.test.rows.items()}
    truth = looked.test.truth[:MOST_ROWS]
    kinds = looked.package.description["inputs"].get("properties", {})
    noisy = [name for name in rows if {"number", "integer"} & set(kinds.get(name, {}).get("type", []))]

    def judge(kind: str, level: float) -> tuple[float, float, float]:
        outputs = _predict(looked, disturb_rows(kind, level, rows, noisy, looked.seed))
        if looked.is_class:
            share = float((outputs.argmax(axis=1) == truth).mean())
            return (share, *wilson(share, len(truth)))
        found = regression_intervals(truth, outputs, looked.seed, _RESAMPLES)["rmse"]
        return found["value"], found["low"], found["high"]

    levels = {kind: some for kind, some in ROW_LEVELS.items() if kind != "noise" or noisy}
    return judge_levels(levels, ROW_UNITS, judge, judge("missing", 0.0)[0])
