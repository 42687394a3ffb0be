"""ROC, precision and recall, and thresholds: compared with scikit-learn and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from algorithms.analysis.curves import MOST_CLASSES, MOST_POINTS, choose_thresholds, class_curves


def binary(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = (rng.random(count) < 0.3).astype(np.int64)
    second = (rng.normal(truth * 1.5, 1) / 6 + 0.4).clip(0, 1).round(3)  # rounded, so that scores are equal
    return truth, np.stack([1 - second, second], axis=1)


def test_the_areas_are_those_of_scikit_learn() -> None:
    truth, scores = binary(2000)
    (found,) = class_curves(truth, scores, ["no", "yes"])
    assert found["class"] == "yes"
    assert found["auc"] == pytest.approx(roc_auc_score(truth, scores[:, 1]))
    assert found["average_precision"] == pytest.approx(average_precision_score(truth, scores[:, 1]))
    assert len(found["roc"]) <= MOST_POINTS
    assert (found["roc"][0], found["roc"][-1]) == ([0, 0], [1, 1])
    assert found["pr"][-1] == [1, pytest.approx(truth.mean(), abs=1e-4)]


def test_of_many_classes_the_weakest_are_shown_and_absent_ones_are_not() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 19, 400)
    scores = rng.dirichlet(np.ones(20), 400)
    scores[truth < 5] = np.eye(20)[truth[truth < 5]]
    names = [f"c{index:02d}" for index in range(20)]
    found = class_curves(truth, scores, names)
    assert len(found) == MOST_CLASSES
    assert "c19" not in [one["class"] for one in found], "no sample has this class"
    assert not {"c00", "c01", "c02"} & {one["class"] for one in found}


def test_thresholds_are_chosen_on_one_split_and_judged_on_the_other() -> None:
    chosen_on = np.array([0, 0, 0, 1, 1]), np.array([0.1, 0.2, 0.35, 0.3, 0.4])
    judged_on = np.array([0, 1, 1, 0]), np.array([0.1, 0.28, 0.9, 0.33])
    found = {one["rule"]: one for one in choose_thresholds(*[(t, np.stack([1 - s, s], axis=1)) for t, s in (chosen_on, judged_on)])}
    assert found["as it is"]["threshold"] == 0.5
    assert found["best F1"]["threshold"] == pytest.approx(0.25), "3 of 5 above, one of them wrong: F1 is 0.8"
    assert (found["best F1"]["hits"], found["best F1"]["misses"], found["best F1"]["false_alarms"]) == (2, 0, 1)
    dear = found["a miss costs 5 false alarms"]
    assert dear["threshold"] == pytest.approx(0.25)
    assert dear["cost"] == pytest.approx(1 / 4)
    assert found["a miss costs 0.2 false alarms"]["threshold"] == pytest.approx(0.375)


def test_a_dearer_miss_never_raises_the_threshold() -> None:
    found = choose_thresholds(binary(500, 1), binary(500, 2))
    costs = [one["threshold"] for one in found if "miss_cost" in one]
    assert costs == sorted(costs, reverse=True)
    assert choose_thresholds((np.zeros(5, np.int64), np.ones((5, 2))), binary(50)) == []
