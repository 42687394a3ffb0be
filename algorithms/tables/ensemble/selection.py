"""Which members, and how much of each: greedy ensemble selection on predictions that no member made of a row it had learned from.

R. Caruana, A. Niculescu-Mizil, G. Crew, A. Ksikes, "Ensemble Selection from Libraries of Models", ICML 2004: start with the best, add the
one (again, perhaps) that lowers the loss of the average most, keep the best average met on the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

NUM_STEPS = 40
LEAST_SCORE = 1e-6


def select_weights(
    predictions: Sequence[NDArray[np.float64]], labels: NDArray[Any], weights: NDArray[np.float64] | None = None, num_steps: int = NUM_STEPS
) -> NDArray[np.float64]:
    """Weights of the members, multiples of 1/k that sum to 1.

    Args:
        predictions: of each of M members: scores [N, C], or numbers [N].
        labels: class indices [N], or numbers [N].
        weights: of the rows, or None.

    Returns:
        float64 [M]. Of equal choices the first is taken, so the same input gives the same weights.
    """
    counts = np.zeros(len(predictions), np.int64)
    # Of scores only the true class's counts for the log loss.
    seen = np.stack([true_score(one, labels) for one in predictions])
    best, best_loss = counts, np.inf
    total = np.zeros(seen.shape[1:])
    for step in range(1, num_steps + 1):
        losses = [loss_of((total + one) / step, labels, weights, is_class=predictions[0].ndim == 2) for one in seen]
        chosen = int(np.argmin(losses))
        counts[chosen] += 1
        total += seen[chosen]
        if losses[chosen] < best_loss * (1 - 1e-9):
            best, best_loss = counts.copy(), losses[chosen]
    return best / best.sum()


def true_score(prediction: NDArray[np.float64], labels: NDArray[Any]) -> NDArray[np.float64]:
    """The score [N] of each row's true class; numbers as they are."""
    return prediction[np.arange(len(labels)), labels] if prediction.ndim == 2 else prediction


def loss_of(found: NDArray[np.float64], labels: NDArray[Any], weights: NDArray[np.float64] | None, *, is_class: bool) -> float:
    """Mean negative log of the true class's score [N], or the mean squared error of numbers [N]."""
    losses = -np.log(np.maximum(found, LEAST_SCORE)) if is_class else (found - labels) ** 2
    return float(np.average(losses, weights=weights))


def blend(predictions: Sequence[NDArray[np.float64]], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """The weighted sum of members' predictions."""
    return np.sum([weight * one for weight, one in zip(weights, predictions, strict=True) if weight > 0], axis=0)
