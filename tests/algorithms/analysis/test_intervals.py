"""Intervals hold what they promise."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score, r2_score

from algorithms.analysis.intervals import classification_intervals, regression_intervals, wilson


def scored(count: int, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 3, count)
    said = np.where(rng.random(count) < share, truth, (truth + 1) % 3)
    return truth, 0.8 * np.eye(3)[said] + 0.2 / 3


def test_the_values_are_those_of_the_metrics() -> None:
    truth, scores = scored(200, 0.8, 0)
    found = classification_intervals(truth, scores)
    said = scores.argmax(axis=1)
    assert found["accuracy"]["value"] == pytest.approx((truth == said).mean())
    assert found["balanced_accuracy"]["value"] == pytest.approx(balanced_accuracy_score(truth, said))
    assert found["f1_macro"]["value"] == pytest.approx(f1_score(truth, said, average="macro"))
    assert all(one["low"] < one["value"] < one["high"] for one in found.values())


def test_the_interval_of_the_accuracy_agrees_with_the_formula_and_covers() -> None:
    truth, scores = scored(300, 0.85, 1)
    found = classification_intervals(truth, scores)["accuracy"]
    low, high = wilson(found["value"], 300)
    assert found["low"] == pytest.approx(low, abs=0.01)
    assert found["high"] == pytest.approx(high, abs=0.01)
    inside = 0
    for seed in range(100):
        one = classification_intervals(*scored(150, 0.85, seed + 10), resamples=200)["accuracy"]
        inside += one["low"] <= 0.85 <= one["high"]
    assert inside >= 87


def test_without_a_mistake_the_accuracy_still_has_an_interval() -> None:
    truth, scores = scored(50, 1.0, 0)
    found = classification_intervals(truth, scores)
    assert set(found) == {"accuracy", "log_loss"}
    assert found["accuracy"]["low"] == pytest.approx(0.929, abs=1e-3)


def test_of_numbers() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(50, 10, 400)
    values = truth + rng.normal(0, 2, 400)
    found = regression_intervals(truth, values)
    assert found["rmse"]["low"] < 2 < found["rmse"]["high"]
    assert found["r2"]["value"] == pytest.approx(r2_score(truth, values))
    assert "r2" not in regression_intervals(np.ones(20), np.arange(20.0))


def test_the_same_seed_gives_the_same_interval_however_many_fit_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    truth, scores = scored(100, 0.8, 0)
    once = classification_intervals(truth, scores, seed=5)
    assert once == classification_intervals(truth, scores, seed=5)
    assert once != classification_intervals(truth, scores, seed=6)
    monkeypatch.setattr("algorithms.analysis.intervals._AT_ONCE", 1000)
    assert classification_intervals(truth, scores, seed=5) == once
