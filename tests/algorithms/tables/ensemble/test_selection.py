"""Greedy selection and folds: pure functions."""

from __future__ import annotations

import numpy as np
import pytest

from algorithms.tables.ensemble.folds import ALWAYS_LEARNED, assign_folds
from algorithms.tables.ensemble.selection import blend, loss_of, select_weights, true_score


def test_two_members_that_err_apart_are_mixed_half_and_half() -> None:
    labels = np.zeros(400)
    error = np.random.default_rng(0).normal(size=400)
    weights = select_weights([error, -error], labels)
    np.testing.assert_allclose(weights, [0.5, 0.5])


def test_a_member_without_a_use_gets_no_weight() -> None:
    labels = np.array([0, 1, 0, 1])
    good, bad = np.array([[0.9, 0.1], [0.1, 0.9]] * 2), np.array([[0.1, 0.9], [0.9, 0.1]] * 2)
    np.testing.assert_array_equal(select_weights([bad, good], labels), [0.0, 1.0])


def test_the_mix_is_never_worse_than_its_best_member() -> None:
    random = np.random.default_rng(1)
    for _ in range(20):
        labels = random.integers(0, 3, 50)
        members = [random.dirichlet(np.ones(3) * random.uniform(0.5, 5), 50) for _ in range(6)]
        weights = select_weights(members, labels)
        losses = [loss_of(true_score(one, labels), labels, None, is_class=True) for one in members]
        mixed = loss_of(true_score(blend(members, weights), labels), labels, None, is_class=True)
        assert weights.sum() == pytest.approx(1)
        assert mixed <= min(losses) + 1e-12


def test_row_weights_change_the_choice() -> None:
    labels = np.array([0.0, 0.0])
    left, right = np.array([0.0, 1.0]), np.array([1.0, 0.0])
    np.testing.assert_array_equal(select_weights([left, right], labels, np.array([1.0, 0.0])), [1.0, 0.0])
    np.testing.assert_array_equal(select_weights([left, right], labels, np.array([0.0, 1.0])), [0.0, 1.0])


def test_folds_spread_every_class_and_are_of_one_size() -> None:
    labels = np.repeat([0, 1, 2], [50, 13, 7])
    folds = assign_folds(labels, 5, 0, is_class=True)
    assert sorted(np.bincount(folds)) == [14] * 5
    for label, least in ((0, 10), (1, 2), (2, 1)):
        assert np.bincount(folds[labels == label], minlength=5).min() == least
    np.testing.assert_array_equal(folds, assign_folds(labels, 5, 0, is_class=True))
    assert (folds != assign_folds(labels, 5, 1, is_class=True)).any()


def test_a_class_of_one_row_is_always_learned_from() -> None:
    folds = assign_folds(np.array([0] * 10 + [1] * 10 + [2]), 5, 0, is_class=True)
    assert folds[-1] == ALWAYS_LEARNED
    assert (folds[:-1] >= 0).all()


@pytest.mark.parametrize("num_rows", [2, 3, 7, 101])
def test_numbers_are_spread_by_rank(num_rows: int) -> None:
    values = np.random.default_rng(0).normal(size=num_rows)
    folds = assign_folds(values, 5, 0, is_class=False)
    sizes = np.bincount(folds)
    assert sizes.sum() == num_rows
    assert sizes.max() - sizes.min() <= 1
