"""A small network of scikit-learn, kept as its weights: a member that differs from trees. For large tables there is the preset ``mlp``."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from algorithms.tables.family import Family, Learning
from algorithms.tables.graph import GraphBuilder, Head, binary_scores, linear, softmax
from algorithms.tables.linear import scores_of_margins

MOST_ROWS = 20_000
BATCH_ROWS = 64
ABSENT_MARGIN = -50.0


@dataclass(frozen=True)
class Perceptron:
    """Layers of ``max(0, x @ weights + bias)``, the last without max; float64 [F, T] and [T] each.

    The last gives a margin for each class, one for the second of two, or the number.
    """

    weights: list[NDArray[np.float64]]
    biases: list[NDArray[np.float64]]
    num_classes: int


def fit_network(learning: Learning, *, hidden: tuple[int, ...], penalty: float, epochs: int, seed: int) -> Perceptron:
    """Fit to ``learning.train`` [N, F], dense."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier, MLPRegressor

    estimator = (MLPClassifier if learning.num_classes else MLPRegressor)(
        hidden_layer_sizes=hidden, alpha=penalty, batch_size=min(BATCH_ROWS, len(learning.train)), max_iter=epochs, random_state=seed
    )
    with warnings.catch_warnings():
        # All epochs are used on purpose; the average over folds makes up for what is learned too well.
        warnings.simplefilter("ignore", ConvergenceWarning)
        estimator.fit(learning.train.astype(np.float64), learning.train_labels, sample_weight=learning.weights)
    weights, biases = [np.asarray(one) for one in estimator.coefs_], [np.asarray(one) for one in estimator.intercepts_]
    if learning.num_classes > 2 and len(estimator.classes_) < learning.num_classes:
        weights[-1], biases[-1] = _with_absent(weights[-1], biases[-1], estimator.classes_, learning.num_classes)
    return Perceptron(weights, biases, learning.num_classes)


def _with_absent(weights: Any, bias: Any, known: Any, num_classes: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The last layer with classes that training did not know: their margin never wins."""
    wide, wide_bias = np.zeros((weights.shape[0], num_classes)), np.full(num_classes, ABSENT_MARGIN)
    if len(known) == 2:
        weights, bias = np.concatenate([-weights, weights], axis=1) / 2, np.concatenate([-bias, bias]) / 2
    wide[:, known], wide_bias[known] = weights, bias
    return wide, wide_bias


def predict(model: Perceptron, features: NDArray[np.float32]) -> NDArray[np.float64]:
    values = features.astype(np.float64)
    for weights, bias in zip(model.weights[:-1], model.biases[:-1], strict=True):
        values = np.maximum(values @ weights + bias, 0.0)
    margins = values @ model.weights[-1] + model.biases[-1]
    return scores_of_margins(margins) if model.num_classes else margins[:, 0]


def head(model: Perceptron, num_classes: int) -> Head:
    def add(builder: GraphBuilder, matrix: str) -> str:
        for weights, bias in zip(model.weights[:-1], model.biases[:-1], strict=True):
            matrix = builder.add("Relu", linear(builder, matrix, weights, bias))
        margins = linear(builder, matrix, model.weights[-1], model.biases[-1])
        if not num_classes:
            return margins
        return binary_scores(builder, margins) if num_classes == 2 else softmax(builder, margins)

    return add


def importance(model: Perceptron, num_features: int) -> NDArray[np.float64]:
    """How strongly a feature is connected with the outputs: products of absolute weights along all ways (G. D. Garson, 1991)."""
    ways = np.abs(model.weights[0])
    for weights in model.weights[1:]:
        ways = ways @ np.abs(weights)
    found: NDArray[np.float64] = ways.sum(axis=1)
    return found


def size(model: Perceptron) -> int:
    return int(sum(one.size for one in (*model.weights, *model.biases)))


def save(model: Perceptron, folder: Path) -> None:
    arrays = {f"weights{index}": one for index, one in enumerate(model.weights)}
    arrays |= {f"bias{index}": one for index, one in enumerate(model.biases)}
    np.savez(folder / "model.npz", num_classes=np.int64(model.num_classes), **arrays)  # type: ignore[arg-type]


def load(folder: Path, threads: int) -> Perceptron:
    with np.load(folder / "model.npz", allow_pickle=False) as arrays:
        places = range((len(arrays.files) - 1) // 2)
        weights, biases = [arrays[f"weights{place}"] for place in places], [arrays[f"bias{place}"] for place in places]
        return Perceptron(weights, biases, int(arrays["num_classes"]))


def fit(config: Any, learning: Learning, progress: Any) -> Perceptron:
    return fit_network(learning, hidden=config.hidden, penalty=config.penalty, epochs=config.epochs, seed=config.seed)


PERCEPTRON = Family(
    keep_nan=False, scaled=True, fit=fit, save=save, load=load, predict=predict, importance=importance, size=size, head=head
)
