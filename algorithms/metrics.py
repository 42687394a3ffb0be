"""Metrics of classification and regression as JSON values: the same functions judge a trained model and its package.

A figure that is not defined on the samples at hand (AUC when only one class occurs, R2 of a constant target) is absent; NaN and infinity
never appear.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


def primary_metric(task: str) -> tuple[str, bool]:
    """The metric by which models of ``task`` are compared, and whether higher is better.

    Args:
        task: the first half of an algorithm's name, such as ``tabular-regression``.
    """
    return ("rmse", False) if task.endswith("regression") else ("accuracy", True)


def classification_metrics(y_true: ArrayLike, scores: ArrayLike, classes: list[str]) -> dict[str, Any]:
    """Accuracy, precision, recall, F1, AUC, log loss and the confusion matrix of scored samples.

    Macro averages are over the classes that occur among the true or the predicted labels (as in scikit-learn), balanced accuracy over
    those that occur among the true ones; a class that is never predicted has precision 0, one that never occurs recall 0.

    Args:
        y_true: int [N], indices into ``classes``, N >= 1.
        scores: float [N, C], one row a sample; the largest is the prediction. Rows should sum to 1 (AUC and log loss rely on it).
        classes: C names.

    Returns:
        ``accuracy``, ``balanced_accuracy``, ``precision_macro``, ``precision_weighted``, the same for ``recall`` and ``f1``, ``auc`` (binary:
        of the second class; else the mean of one-against-rest over the classes that occur), ``log_loss``, ``num_samples``, ``classes``,
        ``confusion_matrix`` (rows true, columns predicted), ``per_class`` ({class: precision, recall, f1, support, and auc if defined}).
    """
    truth = np.asarray(y_true).astype(np.int64).ravel()
    probabilities = np.asarray(scores, dtype=np.float64)
    num_classes = len(classes)
    _check_scores(truth, probabilities, num_classes)
    predicted = probabilities.argmax(axis=1)
    confusion = np.bincount(truth * num_classes + predicted, minlength=num_classes**2).reshape(num_classes, num_classes)
    hits = np.diag(confusion).astype(np.float64)
    support, num_predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    precision, recall = _ratio(hits, num_predicted), _ratio(hits, support)
    f1 = _ratio(2 * hits, support + num_predicted)
    occurs = (support + num_predicted) > 0
    result: dict[str, Any] = {
        "num_samples": len(truth),
        "accuracy": float(hits.sum() / len(truth)),
        "balanced_accuracy": float(recall[support > 0].mean()),
    }
    for name, values in (("precision", precision), ("recall", recall), ("f1", f1)):
        result[f"{name}_macro"] = float(values[occurs].mean())
        result[f"{name}_weighted"] = float(np.average(values, weights=support))
    aucs = _one_against_rest_auc(truth, probabilities)
    if num_classes == 2:
        result["auc"] = aucs[1]
    elif defined := [value for value in aucs if value is not None]:
        result["auc"] = float(np.mean(defined))
    result["log_loss"] = _log_loss(truth, probabilities)
    result["classes"] = list(classes)
    result["confusion_matrix"] = confusion.tolist()
    result["per_class"] = {
        name: _finite({"precision": float(p), "recall": float(r), "f1": float(f), "support": int(n), "auc": auc})
        for name, p, r, f, n, auc in zip(classes, precision, recall, f1, support, aucs, strict=True)
    }
    return _finite(result)


def regression_metrics(y_true: ArrayLike, y_pred: ArrayLike) -> dict[str, Any]:
    """Errors of predicted values, in the target's unit.

    Args:
        y_true: float [N], N >= 1.
        y_pred: float [N].

    Returns:
        ``rmse``, ``mae``, ``median_absolute_error``, ``max_error``, ``r2`` (absent if the target is constant), ``num_samples``.
    """
    truth, predicted = np.asarray(y_true, dtype=np.float64).ravel(), np.asarray(y_pred, dtype=np.float64).ravel()
    if len(truth) == 0 or len(truth) != len(predicted):
        raise ValueError(f"There must be one prediction for each of at least one sample; got {len(predicted)} for {len(truth)}.")
    errors = predicted - truth
    spread = float(((truth - truth.mean()) ** 2).sum())
    return _finite(
        {
            "num_samples": len(truth),
            "rmse": float(np.sqrt((errors**2).mean())),
            "mae": float(np.abs(errors).mean()),
            "median_absolute_error": float(np.median(np.abs(errors))),
            "max_error": float(np.abs(errors).max()),
            "r2": 1.0 - float((errors**2).sum()) / spread if spread > 0 else None,
        }
    )


def _check_scores(truth: NDArray[np.int64], scores: NDArray[np.float64], num_classes: int) -> None:
    if len(truth) == 0:
        raise ValueError("There must be at least one sample.")
    if scores.shape != (len(truth), num_classes):
        raise ValueError(f"Scores must have the shape {(len(truth), num_classes)} (samples, classes); got {scores.shape}.")
    if truth.min() < 0 or truth.max() >= num_classes:
        raise ValueError(f"Labels must lie in 0..{num_classes - 1}; got {truth.min()} to {truth.max()}.")


def _ratio(part: NDArray[Any], whole: NDArray[Any]) -> NDArray[np.float64]:
    """Element by element, 0 where the whole is 0."""
    return np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)


def _one_against_rest_auc(truth: NDArray[np.int64], scores: NDArray[np.float64]) -> list[float | None]:
    """For each class the area under the ROC curve of it against all others; None where it or the others do not occur."""
    from sklearn.metrics import roc_auc_score

    aucs: list[float | None] = []
    for index in range(scores.shape[1]):
        is_class = truth == index
        defined = 0 < is_class.sum() < len(truth) and np.isfinite(scores[:, index]).all()
        aucs.append(float(roc_auc_score(is_class, scores[:, index])) if defined else None)
    return aucs


def _log_loss(truth: NDArray[np.int64], scores: NDArray[np.float64]) -> float:
    """Mean negative log likelihood; scores are held away from 0 by the resolution of float32, as packages answer in float32."""
    given = np.clip(scores, np.finfo(np.float32).eps, 1.0)
    given = given / given.sum(axis=1, keepdims=True)
    return float(-np.log(given[np.arange(len(truth)), truth]).mean())


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    """Without what is None, NaN or infinite."""
    return {
        key: value for key, value in values.items() if value is not None and not (isinstance(value, float) and not math.isfinite(value))
    }
