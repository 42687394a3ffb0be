"""The closed forms say what explicit refitting says."""

from __future__ import annotations

import numpy as np
import pytest

from algorithms.tables.ensemble import kernel
from algorithms.tables.family import Learning


def learning(num_classes: int, num_rows: int = 60, weighted: bool = False) -> Learning:
    random = np.random.default_rng(3)
    rows = random.normal(size=(num_rows, 4)).astype(np.float32)
    signal = rows[:, 0] + np.sin(2 * rows[:, 1]) + random.normal(0, 0.2, num_rows)
    labels = np.digitize(signal, [-0.5, 0.5]) if num_classes else signal
    weights = random.uniform(0.5, 2, num_rows) if weighted else None
    return Learning(rows, labels, rows[:0], labels[:0], weights, num_classes, 1)


@pytest.mark.parametrize("weighted", [False, True])
def test_predictions_without_a_fold_are_those_of_a_model_that_was_fitted_without_it(weighted: bool) -> None:
    data = learning(0, weighted=weighted)
    folds = np.arange(60) % 5
    model, left_out = kernel.fit_left_out(data, 1.0, folds)
    distances = ((data.train[:, None].astype(np.float64) - data.train[None]) ** 2).sum(axis=2)
    gram = np.exp(-model.gamma * distances)
    weights = np.ones(60) if data.weights is None else data.weights
    # What the penalty was follows from the weights: (K + penalty / w) c = y - bias.
    penalty = float(((data.train_labels - model.bias - gram @ model.weights[:, 0]) / model.weights[:, 0] * weights).mean())
    for fold in range(5):
        held, kept = folds == fold, folds != fold
        solved = np.linalg.solve(gram[np.ix_(kept, kept)] + np.diag(penalty / weights[kept]), data.train_labels[kept] - model.bias)
        np.testing.assert_allclose(left_out[held], gram[np.ix_(held, kept)] @ solved + model.bias, atol=1e-8)
