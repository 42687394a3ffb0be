"""ROC and precision/recall curves of each class against all others, and the choice of a threshold for two classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_CLASSES = 12
MOST_POINTS = 100
MISS_COSTS = (0.2, 1.0, 5.0)


def class_curves(truth: NDArray[np.int64], scores: NDArray[Any], classes: Sequence[str]) -> list[dict[str, Any]]:
    """Both curves of each class that is defined on the samples (it and others occur): of two classes the second; else up to
    ``MOST_CLASSES``, those with the lowest average precision.

    Returns:
        ``class``, ``count`` (samples of it), ``auc``, ``average_precision``, and at most ``MOST_POINTS`` points each: ``roc`` (false positive
        rate, true positive rate) and ``pr`` (recall, precision).
    """
    shown = [1] if len(classes) == 2 else range(len(classes))
    found = [_curve(truth == index, np.asarray(scores[:, index], np.float64), classes[index]) for index in shown]
    defined = [entry for entry in found if entry is not None]
    weakest = sorted(defined, key=lambda entry: (entry["average_precision"], entry["class"]))[:MOST_CLASSES]
    return sorted(weakest, key=lambda entry: list(classes).index(entry["class"]))


def _curve(positive: NDArray[np.bool_], scores: NDArray[np.float64], name: str) -> dict[str, Any] | None:
    total = int(positive.sum())
    if not 0 < total < len(positive):
        return None
    _, hits, alarms = count_by_threshold(positive, scores)
    recall, precision = hits / total, hits / (hits + alarms)
    rate = alarms / (len(positive) - total)
    roc = np.stack([np.append(0, rate), np.append(0, recall)], axis=1)
    steps = np.diff(np.append(0, recall))
    pr = np.stack([np.append(0, recall), np.append(precision[0], precision)], axis=1)
    return {
        "class": name,
        "count": total,
        "auc": float(np.trapezoid(roc[:, 1], roc[:, 0])),
        "average_precision": float((steps * precision).sum()),
        "roc": _thin(roc),
        "pr": _thin(pr),
    }


def count_by_threshold(
    positive: NDArray[np.bool_], scores: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """The distinct scores, falling, and how many positives (hits) and negatives (false alarms) are at or above each: [T] each."""
    order = np.argsort(-scores, kind="stable")
    ordered, hits = scores[order], np.cumsum(positive[order])
    last = np.flatnonzero(np.append(np.diff(ordered) != 0, True))
    return ordered[last], hits[last].astype(np.float64), (last + 1 - hits[last]).astype(np.float64)


def _thin(points: NDArray[np.float64]) -> list[list[float]]:
    """At most ``MOST_POINTS``, evenly along the way, both ends kept."""
    if len(points) > MOST_POINTS:
        way = np.append(0, np.cumsum(np.abs(np.diff(points, axis=0)).sum(axis=1)))
        wanted = np.linspace(0, way[-1], MOST_POINTS)
        points = points[np.unique(np.searchsorted(way, wanted).clip(0, len(points) - 1))]
    return [[round(float(x), 5), round(float(y), 5)] for x, y in points]


def choose_thresholds(
    chosen_on: tuple[NDArray[np.int64], NDArray[Any]], judged_on: tuple[NDArray[np.int64], NDArray[Any]]
) -> list[dict[str, Any]]:
    """Thresholds for the second of two classes: 0.5, the best F1, and the cheapest where a miss costs so many false alarms (``MISS_COSTS``).

    Args:
        chosen_on: truth int [N] and scores [N, 2] of the valid split, by which they are chosen.
        judged_on: the same of the test split, by which they are judged.

    Returns:
        For each ``rule``, ``threshold``, and on the test split ``precision``, ``recall``, ``f1``, ``hits``, ``misses``, ``false_alarms``;
        with ``miss_cost`` also ``cost``, in false alarms a sample. Empty if a class does not occur in both.
    """
    if any(len(np.unique(truth)) < 2 for truth, _ in (chosen_on, judged_on)):
        return []
    positive, scores = chosen_on[0] == 1, np.asarray(chosen_on[1][:, 1], np.float64)
    edges, hits, alarms = count_by_threshold(positive, scores)
    misses = positive.sum() - hits
    f1 = 2 * hits / (2 * hits + misses + alarms)
    found = [_judge_threshold("as it is", 0.5, judged_on), _judge_threshold("best F1", _between(edges, int(f1.argmax())), judged_on)]
    for cost in MISS_COSTS:
        costs = np.append(cost * positive.sum(), cost * misses + alarms)  # the first: nothing is positive
        place = int(costs.argmin()) - 1
        threshold = _between(edges, place) if place >= 0 else float(np.nextafter(edges[0], 2))
        entry = _judge_threshold(f"a miss costs {cost:g} false alarms", threshold, judged_on)
        found.append({**entry, "miss_cost": cost, "cost": (cost * entry["misses"] + entry["false_alarms"]) / len(judged_on[0])})
    return found


def _between(edges: NDArray[np.float64], place: int) -> float:
    """Halfway between the chosen score and the next lower one, so that a score a little lower still counts."""
    return float((edges[place] + edges[place + 1]) / 2) if place + 1 < len(edges) else float(edges[place])


def _judge_threshold(rule: str, threshold: float, judged_on: tuple[NDArray[np.int64], NDArray[Any]]) -> dict[str, Any]:
    positive, said = judged_on[0] == 1, judged_on[1][:, 1] >= threshold
    hits, misses, alarms = int((positive & said).sum()), int((positive & ~said).sum()), int((~positive & said).sum())
    return {
        "rule": rule,
        "threshold": threshold,
        "precision": hits / (hits + alarms) if hits + alarms else 0.0,
        "recall": hits / (hits + misses),
        "f1": 2 * hits / (2 * hits + misses + alarms),
        "hits": hits,
        "misses": misses,
        "false_alarms": alarms,
    }
