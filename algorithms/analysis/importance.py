"""Which columns the model leans on, asked of the package alone: by permutation, and by Shapley values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

Columns = Mapping[str, NDArray[Any]]
Predict = Callable[[dict[str, NDArray[Any]]], NDArray[Any]]
"""From columns as a package takes them, [N] each, to scores [N, C] or values [N]."""

REPEATS = 5
MOST_PREDICTIONS = 200_000
LEAST_ROWS = 50
SHAP_ROWS = 24
SHAP_BACKGROUND = 16
MOST_SHAP_PREDICTIONS = 200_000
MASKS_AT_ONCE = 512


def permutation_importance(
    columns: Columns, loss: Callable[[NDArray[Any], NDArray[np.int64]], float], predict: Predict, seed: int = 0
) -> list[dict[str, Any]]:
    """How much worse the loss gets when a column's values are shuffled (Breiman 2001; Fisher et al. 2019), the largest first.

    Args:
        columns: [N] each.
        loss: (outputs of some rows, indices of these rows int64 [n]) -> mean loss.

    Returns:
        Of each ``column`` the ``mean`` over ``REPEATS`` shuffles and its ``std``. At most ``MOST_PREDICTIONS`` rows are predicted: of many columns on
        fewer rows (chosen by the seed), and with fewer shuffles.
    """
    rng = np.random.default_rng(seed)
    total = len(next(iter(columns.values())))
    repeats = max(1, min(REPEATS, MOST_PREDICTIONS // (len(columns) * LEAST_ROWS)))
    used = min(total, max(LEAST_ROWS, MOST_PREDICTIONS // (len(columns) * repeats)))
    rows = np.sort(rng.permutation(total)[:used])
    chosen = {name: values[rows] for name, values in columns.items()}
    base = loss(predict(dict(chosen)), rows)
    found = []
    for name, values in chosen.items():
        worse = [loss(predict({**chosen, name: values[rng.permutation(used)]}), rows) - base for _ in range(repeats)]
        found.append({"column": name, "mean": float(np.mean(worse)), "std": float(np.std(worse))})
    return sorted(found, key=lambda entry: (-entry["mean"], entry["column"]))


def shap_importance(columns: Columns, predict: Predict, seed: int = 0) -> list[dict[str, Any]]:
    """Mean absolute Shapley value of each column over some rows, the largest first (Lundberg and Lee 2017, arXiv 1705.07874).

    The explainer is the ``shap`` package's permutation explainer, which needs nothing of a model but its answers. It works on the places of rows
    and not on values, so that texts and missing values are columns like any. Of classes the scores are explained, and summed over them.

    Returns:
        ``column``, ``value``; empty if one row alone would take more than ``MOST_SHAP_PREDICTIONS`` predictions.
    """
    shap = _load_shap()
    names = list(columns)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(columns[names[0]]))
    background = order[:SHAP_BACKGROUND]
    a_row = (2 * len(names) + 1) * len(background)
    if a_row > MOST_SHAP_PREDICTIONS:
        return []
    rows = order[-min(SHAP_ROWS, len(order), MOST_SHAP_PREDICTIONS // a_row) :]
    rounds = int(min(4, max(1, MOST_SHAP_PREDICTIONS // (a_row * len(rows)))))

    def mask(shown: NDArray[np.bool_], row: NDArray[np.int64]) -> tuple[NDArray[np.int64]]:
        """Places [B, F]: of the row itself where a column is shown, of the background's rows where not."""
        return (np.where(shown, row, np.repeat(background[:, None], len(names), axis=1)),)

    def answer(places: NDArray[np.int64]) -> NDArray[np.float64]:
        taken = np.asarray(places, np.int64)
        return np.asarray(predict({name: columns[name][taken[:, index]] for index, name in enumerate(names)}), np.float64)

    explainer = shap.PermutationExplainer(answer, mask, seed=seed)
    wanted = np.repeat(rows[:, None], len(names), axis=1)
    explained = explainer(wanted, max_evals=rounds * (2 * len(names) + 1), batch_size=MASKS_AT_ONCE, silent=True)
    values = np.abs(np.asarray(explained.values, np.float64))
    per_column = values.reshape(len(rows), len(names), -1).sum(axis=2).mean(axis=0)
    found = [{"column": name, "value": float(value)} for name, value in zip(names, per_column, strict=True)]
    return sorted(found, key=lambda entry: (-entry["value"], entry["column"]))


def _load_shap() -> ModuleType:
    """``shap`` without its compiled loops: compiling them takes longer than they take here as they are."""
    import numba

    config: Any = numba.config
    before = config.DISABLE_JIT
    config.DISABLE_JIT = True
    try:
        return import_module("shap")
    finally:
        config.DISABLE_JIT = before
