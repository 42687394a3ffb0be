"""Intervals of figures and of differences: against closed forms and by simulation."""

from __future__ import annotations

import numpy as np
import pytest

from algorithms.metrics import classification_metrics, regression_metrics
from tasks._compare_stats import Answers, agreement, figures, intervals, paired_intervals, sign_test


def classes(num_rows: int, share_right: float, seed: int) -> Answers:
    random = np.random.default_rng(seed)
    labels = np.random.default_rng(0).integers(0, 3, num_rows)
    right = random.random(num_rows) < share_right
    predictions = np.where(right, labels, (labels + 1) % 3)
    return Answers(labels, predictions, np.where(right, 0.8, 0.1), 3)


def test_figures_are_those_of_the_metrics() -> None:
    random = np.random.default_rng(0)
    scores = random.dirichlet(np.ones(4), 200)
    labels = random.integers(0, 4, 200)
    found = figures(Answers(labels, scores.argmax(axis=1), scores[np.arange(200), labels], 4))
    expected = classification_metrics(labels, scores, list("abcd"))
    assert {name: pytest.approx(expected[name], abs=1e-9) for name in found} == found
    truth, said = random.normal(size=50), random.normal(size=50)
    numbers = figures(Answers(truth, said, None, 0))
    judged = regression_metrics(truth, said)
    assert {name: pytest.approx(judged[name]) for name in numbers} == numbers
    assert set(numbers) == {"rmse", "mae", "r2"}


def test_the_interval_of_an_accuracy_is_as_wide_as_the_binomial_says() -> None:
    low, high = intervals(classes(400, 0.8, 1))["accuracy"]
    assert high - low == pytest.approx(2 * 1.96 * (0.8 * 0.2 / 400) ** 0.5, rel=0.15)
    assert low < 0.8 < high


@pytest.mark.parametrize("share_right", [0.0, 1.0])
def test_a_model_without_a_mistake_on_few_rows_is_not_taken_for_certain(share_right: float) -> None:
    found = intervals(classes(27, share_right, 1))
    low, high = found["accuracy"]
    assert high - low == pytest.approx(0.1246, abs=1e-3)  # z^2 / (n + z^2)
    assert share_right in (low, high)
    assert set(found) == {"accuracy", "log_loss"}


def test_pairing_makes_the_interval_of_a_difference_narrow() -> None:
    first = classes(400, 0.8, 1)
    better = first.predictions.copy()
    wrong = np.flatnonzero(first.predictions != first.labels)[:20]
    better[wrong] = first.labels[wrong]
    second = Answers(first.labels, better, None, 3)
    low, high = paired_intervals(first, second)["accuracy"]
    assert 0 < low < 20 / 400 < high < 0.09


def test_the_same_seed_gives_the_same_interval_and_equal_models_have_none() -> None:
    first = classes(100, 0.7, 1)
    assert intervals(first) == intervals(first)
    assert paired_intervals(first, first)["f1_macro"] == (0.0, 0.0)


def test_agreement_counts_who_is_right() -> None:
    labels = np.zeros(10, np.int64)
    first = Answers(labels, np.array([0] * 6 + [1] * 4), None, 2)
    second = Answers(labels, np.array([0] * 5 + [1] + [0] * 3 + [1]), None, 2)
    found = agreement(first, second)
    assert (found.both, found.only_first, found.only_second, found.none) == (5, 1, 3, 1)
    assert found.p_value == pytest.approx(0.625)


@pytest.mark.parametrize(("wins", "losses", "p"), [(0, 0, 1.0), (5, 5, 1.0), (0, 6, 0.03125), (10, 0, 2 / 2**10)])
def test_the_sign_test_is_exact(wins: int, losses: int, p: float) -> None:
    assert sign_test(wins, losses) == pytest.approx(p)


def test_the_sign_test_of_many_rows_goes_on_smoothly() -> None:
    assert sign_test(1050, 950) == pytest.approx(sign_test(1051, 950), rel=0.1)
