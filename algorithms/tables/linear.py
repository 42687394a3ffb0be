"""Linear models: logistic regression; ridge, lasso and elastic net. Kept as plain coefficients."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from algorithms.metrics import classification_metrics, regression_metrics
from algorithms.tables.config import LinearConfig
from algorithms.tables.family import Family, Learning
from algorithms.tables.graph import GraphBuilder, Head, binary_scores, linear, softmax
from algorithms.tables.progress import Progress

STRENGTHS = (0.01, 0.1, 1.0, 10.0, 100.0)
DEFAULT_STRENGTH = 1.0


@dataclass(frozen=True)
class LinearModel:
    """``x @ weights + bias``: margins of all classes, of the second of two, or the value. weights float64 [F, T], bias float64 [T].

    ``spread`` float64 [F] is the standard deviation of the features in training, by which importance is made comparable.
    """

    weights: NDArray[np.float64]
    bias: NDArray[np.float64]
    num_classes: int
    spread: NDArray[np.float64]


def fit(config: LinearConfig, learning: Learning, progress: Progress) -> LinearModel:
    """Fit with the strength that was asked for, or with several, of which the best on the valid split is kept."""
    strengths = [config.regularization] if config.regularization else list(STRENGTHS)
    if not len(learning.valid) and len(strengths) > 1:
        strengths = [DEFAULT_STRENGTH]
    best: LinearModel | None = None
    for strength in strengths:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model = (_fit_classes if learning.num_classes else _fit_numbers)(config, learning, strength)
        if any("onverge" in str(warning.message) for warning in caught):
            progress.run.report(
                {"kind": "log", "message": f"regularization={strength:g}: not converged after {config.max_iterations} iterations."}
            )
        progress.add(len(strengths), regularization=strength, **_losses(model, learning))
        if progress.best_round == len(progress.rounds):
            best = model
    assert best is not None, "a linear model whose loss is never below infinity"
    return best


def _fit_classes(config: LinearConfig, learning: Learning, strength: float) -> LinearModel:
    from sklearn.linear_model import LogisticRegression

    estimator = LogisticRegression(
        C=1.0 / strength,
        l1_ratio=config.l1_ratio,
        solver="saga" if config.l1_ratio else "lbfgs",
        max_iter=config.max_iterations,
        random_state=config.seed,
    )
    estimator.fit(learning.train.astype(np.float64), learning.train_labels, sample_weight=learning.weights)
    known, spread = estimator.classes_, learning.train.std(axis=0, dtype=np.float64)
    if learning.num_classes == 2:
        return LinearModel(estimator.coef_.T, estimator.intercept_, 2, spread)
    # A class without a training row gets a margin that never wins.
    num_features = learning.train.shape[1]
    weights, bias = np.zeros((num_features, learning.num_classes)), np.full(learning.num_classes, -50.0)
    coefficients, intercepts = estimator.coef_, estimator.intercept_
    if len(known) == 2:
        coefficients, intercepts = np.concatenate([-coefficients, coefficients]) / 2, np.concatenate([-intercepts, intercepts]) / 2
    weights[:, known], bias[known] = coefficients.T, intercepts
    return LinearModel(weights, bias, learning.num_classes, spread)


def _fit_numbers(config: LinearConfig, learning: Learning, strength: float) -> LinearModel:
    from sklearn.linear_model import ElasticNet, Ridge

    if config.l1_ratio == 0:
        estimator: Any = Ridge(alpha=strength, random_state=config.seed)
    else:
        # ElasticNet divides the squared error by twice the number of rows, Ridge does not.
        alpha = strength / len(learning.train)
        estimator = ElasticNet(alpha=alpha, l1_ratio=config.l1_ratio, max_iter=config.max_iterations, random_state=config.seed)
    estimator.fit(learning.train.astype(np.float64), learning.train_labels)
    weights, bias = np.asarray(estimator.coef_, np.float64).reshape(-1, 1), np.asarray(estimator.intercept_, np.float64).reshape(1)
    return LinearModel(weights, bias, 0, learning.train.std(axis=0, dtype=np.float64))


def _losses(model: LinearModel, learning: Learning) -> dict[str, float]:
    found: dict[str, float] = {}
    for split, features, labels in (("train", learning.train, learning.train_labels), ("valid", learning.valid, learning.valid_labels)):
        if not len(labels):
            continue
        predicted = predict(model, features)
        if learning.num_classes:
            metrics = classification_metrics(labels, predicted, [str(index) for index in range(learning.num_classes)])
            found |= {f"{split}_loss": metrics["log_loss"], f"{split}_accuracy": metrics["accuracy"]}
        else:
            rmse = regression_metrics(labels, predicted)["rmse"]
            found |= {f"{split}_loss": rmse**2, f"{split}_rmse": rmse}
    return {name: value for name, value in found.items() if name not in ("train_accuracy", "train_rmse")}


def predict(model: LinearModel, features: NDArray[np.float32]) -> NDArray[np.float64]:
    margins = features.astype(np.float64) @ model.weights + model.bias
    if not model.num_classes:
        return margins[:, 0]
    return scores_of_margins(margins)


def scores_of_margins(margins: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities [N, C] of margins [N, C], or [N, 1] of the second of two classes."""
    if margins.shape[1] == 1:
        margins = np.concatenate([np.zeros_like(margins), margins], axis=1)
    raised = np.exp(margins - margins.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


def save(model: LinearModel, folder: Path) -> None:
    np.savez(folder / "model.npz", weights=model.weights, bias=model.bias, num_classes=np.int64(model.num_classes), spread=model.spread)


def load(folder: Path, threads: int) -> LinearModel:
    with np.load(folder / "model.npz", allow_pickle=False) as arrays:
        return LinearModel(arrays["weights"], arrays["bias"], int(arrays["num_classes"]), arrays["spread"])


def importance(model: LinearModel, num_features: int) -> NDArray[np.float64]:
    found: NDArray[np.float64] = np.abs(model.weights).mean(axis=1) * model.spread
    return found


def size(model: LinearModel) -> int:
    return int(model.weights.size + model.bias.size)


def head(model: LinearModel, num_classes: int) -> Head:
    def add(builder: GraphBuilder, matrix: str) -> str:
        margins = linear(builder, matrix, model.weights, model.bias)
        if not num_classes:
            return margins
        return binary_scores(builder, margins) if num_classes == 2 else softmax(builder, margins)

    return add


LINEAR = Family(keep_nan=False, scaled=True, fit=fit, save=save, load=load, predict=predict, importance=importance, size=size, head=head)
