"""What the estimator engine needs of a kind of model: a handful of functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from algorithms.tables.graph import Head

if TYPE_CHECKING:
    from algorithms.tables.progress import Progress


@dataclass(frozen=True)
class Learning:
    """The data that a model is fitted to. Numbers to estimate have mean 0 and standard deviation 1.

    Attributes:
        train, valid: float32 [N, F]; ``valid`` may have no rows.
        train_labels, valid_labels: int64 class indices or float64 numbers [N].
        weights: float64 [N] of the training rows, or None.
        num_classes: 0 for numbers.
    """

    train: NDArray[np.float32]
    train_labels: NDArray[Any]
    valid: NDArray[np.float32]
    valid_labels: NDArray[Any]
    weights: NDArray[np.float64] | None
    num_classes: int
    threads: int


@dataclass(frozen=True)
class Family:
    """A kind of model; ``Model`` is its library's own.

    Attributes:
        keep_nan: it handles NaN itself.
        scaled: it wants numbers with mean 0 and standard deviation 1.
        fit: (config, learning, progress) -> Model.
        save, load: to and from a folder, without pickle; load takes the number of threads.
        predict: (Model, features [N, F]) -> scores float64 [N, C], or standardised values [N].
        importance: (Model, number of features) -> float64 [F], not negative.
        size: (Model) -> number of learned parameters (coefficients, or tree nodes).
        head: (Model, number of classes) -> its ONNX operators.
        keep_trees: (Model, share) -> the model with the first ``share`` of its boosting rounds or trees, at least one; None: it has none.
    """

    keep_nan: bool
    scaled: bool
    fit: Callable[[Any, Learning, Progress], Any]
    save: Callable[[Any, Path], None]
    load: Callable[[Path, int], Any]
    predict: Callable[[Any, NDArray[np.float32]], NDArray[np.float64]]
    importance: Callable[[Any, int], NDArray[np.float64]]
    size: Callable[[Any], int]
    head: Callable[[Any, int], Head]
    keep_trees: Callable[[Any, float], Any] | None = None


def balanced_weights(labels: NDArray[Any], num_classes: int) -> NDArray[np.float64]:
    """Weights [N], 1 on average, by which every class that occurs counts as much as any other."""
    counts = np.bincount(labels, minlength=num_classes)
    by_class = len(labels) / (np.count_nonzero(counts) * np.maximum(counts, 1))
    weights: NDArray[np.float64] = by_class[labels]
    return weights
