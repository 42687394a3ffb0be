"""Calibration curves, and temperatures that are found again."""

from __future__ import annotations

import numpy as np
import pytest

from algorithms.analysis.calibration import LEAST_SAMPLES, expected_calibration_error, find_temperature, log_loss, reliability, softmax


def draw(temperature: float, count: int = 4000, classes: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels drawn from softmax(z), and the logits z times ``temperature``: too sure, if it is above 1."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (count, classes))
    edges = softmax(logits).cumsum(axis=1)
    truth = (rng.random((count, 1)) > edges).sum(axis=1).clip(0, classes - 1)
    return truth, logits * temperature


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_of_the_logits_is_found(temperature: float) -> None:
    truth, logits = draw(temperature)
    found = find_temperature(truth, logits)
    assert found is not None
    if temperature == 1.0:
        assert not found.kept or abs(found.temperature - 1) < 0.1
        return
    assert found.kept
    assert found.temperature == pytest.approx(temperature, rel=0.1)
    assert found.log_loss_after < found.log_loss_before == pytest.approx(log_loss(truth, softmax(logits)))
    assert found.ece_after < found.ece_before
    assert found.to_json()["temperature"] == found.temperature


def test_the_answer_stays_the_same() -> None:
    _, logits = draw(3.0)
    assert (softmax(logits, 3.0).argmax(axis=1) == softmax(logits).argmax(axis=1)).all()


def test_a_temperature_that_does_not_help_is_not_kept() -> None:
    truth = np.arange(300) % 3
    found = find_temperature(truth, np.zeros((300, 3)))
    assert found is not None
    assert (found.kept, found.temperature) == (False, 1.0)


def test_a_network_without_a_mistake_does_not_get_the_coldest_temperature() -> None:
    truth = np.arange(200) % 4
    found = find_temperature(truth, np.eye(4)[truth] * 4)
    assert found is not None
    assert 0.3 < found.temperature < 1


def test_few_samples_give_no_temperature_and_the_same_seed_the_same_one() -> None:
    truth, logits = draw(2.0, count=LEAST_SAMPLES - 1)
    assert find_temperature(truth, logits) is None
    truth, logits = draw(2.0, count=200)
    assert find_temperature(truth, logits, seed=3) == find_temperature(truth, logits, seed=3)


def test_the_calibration_curve_by_hand() -> None:
    scores = np.array([[0.95, 0.05], [0.91, 0.09], [0.3, 0.7], [0.6, 0.4]])
    bins = reliability(np.array([0, 1, 1, 0]), scores, num_bins=10)
    assert [(entry["count"], entry["accuracy"]) for entry in bins] == [(1, 1.0), (1, 1.0), (2, 0.5)]
    assert bins[-1]["confidence"] == pytest.approx(0.93)
    assert expected_calibration_error(bins) == pytest.approx((0.4 + 0.3 + 2 * 0.43) / 4)
    assert expected_calibration_error([]) == 0
