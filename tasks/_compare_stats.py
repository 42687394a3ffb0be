"""How sure a difference between two models is: bootstrap over the test rows, both models on the same rows. Pure, seeded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import comb
from typing import Any

import numpy as np
from numpy.typing import NDArray

from algorithms.analysis.intervals import wilson

LEAST_SAMPLES, MOST_SAMPLES, MOST_DRAWS = 200, 2000, 2e7
Figures = dict[str, float]
Interval = tuple[float, float]


@dataclass(frozen=True)
class Answers:
    """What one model said about N rows of the test split.

    Attributes:
        labels, predictions: class indices int64 [N], or numbers float64 [N].
        true_scores: float64 [N], score of each row's true class; None for numbers, or if there are none.
        num_classes: 0 for numbers.
    """

    labels: NDArray[Any]
    predictions: NDArray[Any]
    true_scores: NDArray[np.float64] | None
    num_classes: int

    def __len__(self) -> int:
        return len(self.labels)


def figures(answers: Answers, rows: NDArray[np.int64] | slice = slice(None)) -> Figures:
    """Accuracy, balanced accuracy, macro F1 and log loss; or RMSE, MAE and R2: as in ``algorithms.metrics``, on some of the rows."""
    labels, predictions = answers.labels[rows], answers.predictions[rows]
    if not answers.num_classes:
        errors = predictions - labels
        spread = float(((labels - labels.mean()) ** 2).sum())
        found = {"rmse": float(np.sqrt((errors**2).mean())), "mae": float(np.abs(errors).mean())}
        return {**found, "r2": 1 - float((errors**2).sum()) / spread} if spread > 0 else found
    counts = np.bincount(labels * answers.num_classes + predictions, minlength=answers.num_classes**2)
    matrix = counts.reshape(answers.num_classes, -1).astype(float)
    hits, support, said = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    occurs = support + said > 0
    result = {
        "accuracy": float(hits.sum() / len(labels)),
        "balanced_accuracy": float((hits[support > 0] / support[support > 0]).mean()),
        "f1_macro": float((2 * hits[occurs] / (support + said)[occurs]).mean()),
    }
    if answers.true_scores is not None:
        result["log_loss"] = float(-np.log(np.clip(answers.true_scores[rows], np.finfo(np.float32).eps, 1)).mean())
    return result


def intervals(answers: Answers, seed: int = 0) -> dict[str, Interval]:
    """The 95 % interval of each figure (B. Efron, R. Tibshirani, "An Introduction to the Bootstrap", 1993: percentiles).

    Without a mistake, or with nothing else, draws show no spread: the accuracy then has Wilson's interval, and the two that come from it
    have none.
    """
    found = _bootstrap(lambda rows: figures(answers, rows), len(answers), seed)
    if answers.num_classes:
        hits = answers.predictions == answers.labels
        if hits.all() or not hits.any():
            found["accuracy"] = wilson(float(hits[0]), len(hits))
            del found["balanced_accuracy"], found["f1_macro"]
    return found


def paired_intervals(first: Answers, second: Answers, seed: int = 0) -> dict[str, Interval]:
    """The 95 % interval of second minus first; every draw takes the same rows of both, so what is hard for both cancels out."""
    assert len(first) == len(second), "paired answers are about the same rows"

    def difference(rows: NDArray[np.int64]) -> Figures:
        left, right = figures(first, rows), figures(second, rows)
        return {name: right[name] - left[name] for name in left if name in right}

    return _bootstrap(difference, len(first), seed)


def _bootstrap(measure: Callable[[NDArray[np.int64]], Figures], num_rows: int, seed: int) -> dict[str, Interval]:
    random = np.random.default_rng(seed)
    num_samples = int(np.clip(MOST_DRAWS / max(num_rows, 1), LEAST_SAMPLES, MOST_SAMPLES))
    drawn: dict[str, list[float]] = {}
    for _ in range(num_samples):
        for name, value in measure(random.integers(0, num_rows, num_rows)).items():
            drawn.setdefault(name, []).append(value)
    return {name: (float(np.quantile(values, 0.025)), float(np.quantile(values, 0.975))) for name, values in drawn.items()}


@dataclass(frozen=True)
class Agreement:
    """On how many rows both are right, only one is, or none; ``p_value``: how likely so uneven a split of the rows on which they
    differ is if both err equally often (Q. McNemar, 1947, exact)."""

    both: int
    only_first: int
    only_second: int
    none: int
    p_value: float


def agreement(first: Answers, second: Answers) -> Agreement:
    left, right = first.predictions == first.labels, second.predictions == second.labels
    only_first, only_second = int((left & ~right).sum()), int((right & ~left).sum())
    return Agreement(int((left & right).sum()), only_first, only_second, int((~left & ~right).sum()), sign_test(only_first, only_second))


def sign_test(wins: int, losses: int) -> float:
    """Two-sided exact p value of ``wins`` against ``losses`` if both are equally likely."""
    total, fewer = wins + losses, min(wins, losses)
    if total > 2000:  # the normal approximation is exact to four digits there
        from statistics import NormalDist

        z = (abs(wins - losses) - 1) / total**0.5
        return float(min(1.0, 2 * (1 - NormalDist().cdf(z))))
    return float(min(1.0, 2 * sum(comb(total, k) for k in range(fewer + 1)) / 2**total))
