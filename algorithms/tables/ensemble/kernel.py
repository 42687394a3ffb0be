"""Regularised least squares with a Gaussian kernel, solved in closed form, so that cross-validation costs next to nothing.

R. Rifkin, R. Lippert, "Notes on Regularized Least Squares", MIT-CSAIL-TR-2007-025: with G = K + lambda I and c = G^-1 y, the prediction
of row i by a model that did not learn from it is y_i - c_i / (G^-1)_ii, that of a fold B is y_B - (G^-1)_BB^-1 c_B; one eigendecomposition
of K serves every lambda. Classes are learned as indicators, whose margins become scores by a softmax with the temperature that suits the
left-out predictions.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from algorithms.tables.ensemble.selection import loss_of, true_score
from algorithms.tables.family import Family, Learning
from algorithms.tables.graph import GraphBuilder, Head
from algorithms.tables.linear import scores_of_margins

MOST_ROWS = 3000
"""The time grows with the cube of the rows: 3,000 take 10 to 20 s on one core."""
PENALTIES = (1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0, 10.0, 30.0)
STEEPNESS = tuple(float(value) for value in np.geomspace(1.0, 64.0, 25))
PROBED_ROWS = 256


@dataclass(frozen=True)
class KernelModel:
    """``exp(-gamma |x - s|^2) @ weights + bias``, for classes a softmax of ``steepness`` times that.

    ``support`` float32 [S, F], ``weights`` float64 [S, T], ``bias`` float64 [T]; T is the number of classes, or 1.
    """

    support: NDArray[np.float32]
    weights: NDArray[np.float64]
    bias: NDArray[np.float64]
    gamma: float
    steepness: float
    num_classes: int


def fit_left_out(learning: Learning, width: float, folds: NDArray[np.int64]) -> tuple[KernelModel, NDArray[np.float64]]:
    """Fit to ``learning.train`` [N, F], dense; the model, and each row's prediction without its fold (scores [N, C], or numbers [N]).

    The penalty is chosen by leaving out single rows; the predictions leave out whole folds, as those of other members do.

    Args:
        width: of the Gaussian, as a share of the median distance between two rows.
        folds: of each row, [N]; rows with a negative one are left out singly.
    """
    rows = learning.train.astype(np.float64)
    targets = np.eye(learning.num_classes)[learning.train_labels] if learning.num_classes else learning.train_labels[:, None]
    root = np.sqrt(np.ones(len(rows)) if learning.weights is None else learning.weights)[:, None]
    bias = np.average(targets, axis=0, weights=root[:, 0] ** 2)
    distances = _distances(rows, rows)
    middle = float(np.median(distances[np.triu_indices(len(rows), 1)])) if len(rows) > 1 else 1.0
    gamma = 1 / (2 * width**2 * (middle or 1.0))
    # A row's weight w stands for lambda / w: K and y scaled by sqrt(w) keep one lambda for all.
    values, vectors = np.linalg.eigh(root * np.exp(-gamma * distances) * root.T)
    wanted = root * (targets - bias)
    turned = vectors.T @ wanted
    losses = []
    for penalty in PENALTIES:
        inverse = 1 / (np.maximum(values, 0) + penalty)
        errors = (vectors @ (inverse[:, None] * turned)) / ((vectors**2) @ inverse)[:, None]
        losses.append(float((errors**2).mean()))
    inverse = 1 / (np.maximum(values, 0) + PENALTIES[int(np.argmin(losses))])
    solved = vectors @ (inverse[:, None] * turned)
    left_out = targets - _errors_without_fold(solved, (vectors * inverse) @ vectors.T, folds) / root
    weights = root * solved
    steepness = _steepness(left_out, learning) if learning.num_classes else 1.0
    model = KernelModel(learning.train, weights, bias, gamma, steepness, learning.num_classes)
    return model, _finish(model, left_out)


def _errors_without_fold(solved: NDArray[np.float64], inverse: NDArray[np.float64], folds: NDArray[np.int64]) -> NDArray[np.float64]:
    """Target minus prediction [N, T] of each row by the model without its fold; ``inverse`` is G^-1, ``solved`` G^-1 y."""
    errors = solved / np.diag(inverse)[:, None]
    for number in np.unique(folds[folds >= 0]):
        held = np.flatnonzero(folds == number)
        errors[held] = np.linalg.solve(inverse[np.ix_(held, held)], solved[held])
    return errors


def _steepness(margins: NDArray[np.float64], learning: Learning) -> float:
    """The factor before the softmax with the lowest log loss."""

    def loss(factor: float) -> float:
        scores = true_score(scores_of_margins(factor * margins), learning.train_labels)
        return loss_of(scores, learning.train_labels, learning.weights, is_class=True)

    return min(STEEPNESS, key=loss)


def _distances(left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    """Squared, [N, S]."""
    found = (left**2).sum(axis=1)[:, None] + (right**2).sum(axis=1)[None] - 2 * left @ right.T
    return np.maximum(found, 0.0)


def _finish(model: KernelModel, margins: NDArray[np.float64]) -> NDArray[np.float64]:
    return scores_of_margins(model.steepness * margins) if model.num_classes else margins[:, 0]


def predict(model: KernelModel, features: NDArray[np.float32]) -> NDArray[np.float64]:
    parts = []
    for start in range(0, max(len(features), 1), 4096):
        rows = features[start : start + 4096].astype(np.float64)
        kernel = np.exp(-model.gamma * _distances(rows, model.support.astype(np.float64)))
        parts.append(_finish(model, kernel @ model.weights + model.bias))
    return np.concatenate(parts)


def head(model: KernelModel, num_classes: int) -> Head:
    """In float64, as the weights of neighbours cancel each other; the support is stored in float32."""
    from onnx import TensorProto

    def add(builder: GraphBuilder, matrix: str) -> str:
        def wide(value: Any) -> str:
            return builder.constant(value, np.float64)

        support = builder.add("Cast", builder.constant(model.support), to=TensorProto.DOUBLE)
        rows = builder.add("Cast", matrix, to=TensorProto.DOUBLE)
        norms = builder.add("ReduceSum", builder.add("Mul", rows, rows), builder.constant([1], np.int64), keepdims=1)
        products = builder.add("MatMul", rows, builder.add("Transpose", support, perm=[1, 0]))
        own = wide((model.support.astype(np.float64) ** 2).sum(axis=1)[None])
        distances = builder.add("Add", builder.add("Add", norms, own), builder.add("Mul", products, wide(-2.0)))
        kernel = builder.add("Exp", builder.add("Mul", builder.add("Max", distances, wide(0.0)), wide(-model.gamma)))
        margins = builder.add("Add", builder.add("MatMul", kernel, wide(model.weights)), wide(model.bias[None]))
        if num_classes:
            margins = builder.add("Softmax", builder.add("Mul", margins, wide(model.steepness)), axis=1)
        return builder.add("Cast", margins, to=TensorProto.FLOAT)

    return add


def importance(model: KernelModel, num_features: int) -> NDArray[np.float64]:
    """Mean absolute slope of the margins at some of the support, times the feature's deviation."""
    support = model.support.astype(np.float64)
    rows = support[np.unique(np.linspace(0, len(support) - 1, PROBED_ROWS).astype(np.int64))]
    kernel = np.exp(-model.gamma * _distances(rows, support))
    found = np.zeros(num_features)
    for weights in model.weights.T:
        slopes = (kernel * weights) @ support - (kernel @ weights)[:, None] * rows
        found += np.abs(slopes).mean(axis=0)
    return found * support.std(axis=0)


def size(model: KernelModel) -> int:
    return int(model.support.size + model.weights.size)


def save(model: KernelModel, folder: Path) -> None:
    numbers = np.asarray([model.gamma, model.steepness, model.num_classes], np.float64)
    np.savez(folder / "model.npz", support=model.support, weights=model.weights, bias=model.bias, numbers=numbers)


def load(folder: Path, threads: int) -> KernelModel:
    with np.load(folder / "model.npz", allow_pickle=False) as arrays:
        gamma, steepness, num_classes = arrays["numbers"].tolist()
        return KernelModel(arrays["support"], arrays["weights"], arrays["bias"], gamma, steepness, int(num_classes))


def fit(config: Any, learning: Learning, progress: Any) -> KernelModel:
    """As ``fit_left_out``, for those who do not need the left-out predictions."""
    return fit_left_out(learning, config.width, np.full(len(learning.train), -1))[0]


KERNEL = Family(keep_nan=False, scaled=True, fit=fit, save=save, load=load, predict=predict, importance=importance, size=size, head=head)
