"""How sure a measured figure is: intervals of shares by Wilson's formula, of other figures by the bootstrap."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
NUM_RESAMPLES = 1000
_Z = 1.959964
_AT_ONCE = 2_000_000  # drawn indices in memory at a time

Interval = dict[str, float]
"""``value``, ``low`` and ``high``."""


def wilson(share: float, n: int, z: float = _Z) -> tuple[float, float]:
    """The interval (95 % by default) of a share that was measured on ``n`` samples (Wilson 1927); holds near 0 and 1 too."""
    centre, spread = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max((centre - spread) / (1 + z * z / n), 0.0), min((centre + spread) / (1 + z * z / n), 1.0)


def bootstrap(
    num_samples: int, figures: Callable[[NDArray[np.int64]], dict[str, NDArray[np.float64]]], seed: int = 0, resamples: int = NUM_RESAMPLES
) -> dict[str, Interval]:
    """Percentile intervals (Efron 1979) of several figures at once, from the same resamples.

    Args:
        figures: from indices int64 [B, N] of B resamples to one value float64 [B] a figure; NaN where a resample does not define it.

    Returns:
        Of each figure its value on the samples themselves, and the 2.5 and 97.5 percentiles; figures that are nowhere defined are absent.
    """
    rng = np.random.default_rng(seed)
    at_once = max(1, _AT_ONCE // max(num_samples, 1))
    drawn: dict[str, list[NDArray[np.float64]]] = {}
    for start in range(0, resamples, at_once):
        found = figures(rng.integers(0, num_samples, (min(at_once, resamples - start), num_samples)))
        for name, values in found.items():
            drawn.setdefault(name, []).append(values)
    measured = figures(np.arange(num_samples)[None])
    edges = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    result: dict[str, Interval] = {}
    for name, parts in drawn.items():
        values, value = np.concatenate(parts), float(measured[name][0])
        values = values[np.isfinite(values)]
        if len(values) and math.isfinite(value):
            low, high = np.quantile(values, edges)
            result[name] = {"value": value, "low": float(low), "high": float(high)}
    return result


def classification_intervals(
    truth: NDArray[np.int64], scores: NDArray[Any], seed: int = 0, resamples: int = NUM_RESAMPLES
) -> dict[str, Interval]:
    """Of ``accuracy``, ``balanced_accuracy``, ``f1_macro`` and ``log_loss`` (``algorithms.metrics``) of scores [N, C].

    Without a mistake, or with nothing else, resampling shows no spread: the accuracy then has Wilson's interval, and the two that come from it are absent.
    """
    num_classes, predicted = scores.shape[1], scores.argmax(axis=1)
    hit = predicted == truth
    given = np.clip(np.asarray(scores, np.float64), np.finfo(np.float32).eps, 1.0)
    loss = -np.log((given / given.sum(axis=1, keepdims=True))[np.arange(len(truth)), truth])

    def figures(indices: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        hits = _count(truth[indices], num_classes, hit[indices])
        support, said = _count(truth[indices], num_classes), _count(predicted[indices], num_classes)
        recall = np.divide(hits, support, out=np.full(hits.shape, np.nan), where=support > 0)
        f1 = np.divide(2 * hits, support + said, out=np.full(hits.shape, np.nan), where=support + said > 0)
        return {
            "accuracy": hit[indices].mean(axis=1),
            "balanced_accuracy": np.nanmean(recall, axis=1),
            "f1_macro": np.nanmean(f1, axis=1),
            "log_loss": loss[indices].mean(axis=1),
        }

    found = bootstrap(len(truth), figures, seed, resamples)
    if hit.all() or not hit.any():
        low, high = wilson(float(hit[0]), len(truth))
        return {"accuracy": {"value": float(hit[0]), "low": low, "high": high}, "log_loss": found["log_loss"]}
    return found


def _count(values: NDArray[np.int64], size: int, weights: NDArray[Any] | None = None) -> NDArray[np.float64]:
    """How often each of 0..size-1 stands in each row: float64 [B, size]."""
    rows = len(values)
    places = (values + np.arange(rows)[:, None] * size).ravel()
    counted = np.bincount(places, None if weights is None else weights.ravel(), minlength=rows * size)
    return counted.astype(np.float64).reshape(rows, size)


def regression_intervals(truth: NDArray[Any], values: NDArray[Any], seed: int = 0, resamples: int = NUM_RESAMPLES) -> dict[str, Interval]:
    """Of ``rmse``, ``mae`` and ``r2`` (``algorithms.metrics``) of values [N]."""
    errors = np.asarray(values, np.float64) - truth

    def figures(indices: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        squares, real = errors[indices] ** 2, np.asarray(truth, np.float64)[indices]
        spread = ((real - real.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
        r2 = 1 - np.divide(squares.sum(axis=1), spread, out=np.full(len(spread), np.nan), where=spread > 0)
        return {"rmse": np.sqrt(squares.mean(axis=1)), "mae": np.abs(errors[indices]).mean(axis=1), "r2": r2}

    return bootstrap(len(errors), figures, seed, resamples)
