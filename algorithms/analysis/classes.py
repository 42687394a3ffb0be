"""The parts of ``explain`` that classes have and numbers do not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from algorithms.analysis.calibration import expected_calibration_error, reliability, softmax
from algorithms.analysis.curves import choose_thresholds, class_curves
from algorithms.analysis.intervals import classification_intervals
from algorithms.analysis.label_errors import find_label_errors

if TYPE_CHECKING:
    from algorithms.analysis.explain import Looked

MOST_PAIRS = 10
MOST_SUSPECTS = 50
_TINY = 1e-30


def intervals(looked: Looked) -> dict[str, Any]:
    return dict(classification_intervals(looked.test.truth, looked.test.outputs, looked.seed))


def confused_pairs(metrics: dict[str, Any]) -> list[dict[str, Any]]:
    """The largest cells beside the diagonal of the confusion matrix: ``label``, ``prediction``, ``count``, ``support`` (of the label)."""
    if "confusion_matrix" not in metrics:
        return []
    matrix, names = np.asarray(metrics["confusion_matrix"]), metrics["classes"]
    support = matrix.sum(axis=1)
    beside = matrix * ~np.eye(len(matrix), dtype=bool)
    order = np.argsort(-beside.ravel(), kind="stable")[:MOST_PAIRS]
    cells = [(int(place) // len(names), int(place) % len(names)) for place in order]
    return [
        {"label": names[i], "prediction": names[j], "count": int(beside[i, j]), "support": int(support[i])}
        for i, j in cells
        if beside[i, j]
    ]


def calibration_and_curves(looked: Looked) -> dict[str, Any]:
    """``calibration``, ``curves`` and, of two classes, ``thresholds``."""
    test, valid = looked.test, looked.splits["valid"]
    bins = reliability(test.truth, test.outputs)
    fitted = looked.package.description.get("calibration") or {}
    # The scores as they were without the temperature: softmax(z) is proportional to softmax(z / T) to the power of T.
    plain = softmax(np.log(np.maximum(np.asarray(test.outputs, np.float64), _TINY)) * fitted.get("temperature", 1.0))
    bins_before = reliability(test.truth, plain)
    calibration = {
        "bins": bins,
        "ece": expected_calibration_error(bins),
        "confidence": float(test.outputs.max(axis=1).mean()),
        "accuracy": float(looked.hits.mean()),
        "bins_without": bins_before,
        "ece_without": expected_calibration_error(bins_before),
        "fitted": fitted,
    }
    found: dict[str, Any] = {"calibration": calibration, "curves": class_curves(test.truth, test.outputs, looked.package.labels)}
    if len(looked.package.labels) == 2 and len(valid):
        found["thresholds"] = choose_thresholds((valid.truth, valid.outputs), (test.truth, test.outputs))
    return found


def label_errors(looked: Looked) -> dict[str, Any]:
    """Of the valid and the test split, none of which the model learned from."""
    splits = [(split, one) for split, one in looked.splits.items() if len(one)]
    labels = np.concatenate([one.truth for _, one in splits])
    scores = np.concatenate([one.outputs for _, one in splits])
    owners = [(split, index) for split, one in splits for index in range(len(one))]
    names = looked.package.labels
    suspects = find_label_errors(labels, scores)
    samples = []
    for place, likely, margin in suspects[:MOST_SUSPECTS]:
        split, index = owners[place]
        samples.append(
            {
                "id": looked.splits[split].ids[index],
                "split": split,
                "index": index,
                "label": names[int(labels[place])],
                "suggestion": names[likely],
                "margin": round(margin, 4),
            }
        )
    return {"count": len(suspects), "looked_at": len(labels), "samples": samples}
