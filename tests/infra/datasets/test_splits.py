"""Splits are pure functions of content, strata, ratios and seed."""

from __future__ import annotations

import numpy as np
import pytest

from infra.datasets.splits import assign_splits, check_ratios, complete_splits, quantile_bins
from infra.errors import InvalidOptionError

RATIOS = (0.7, 0.15, 0.15)


def _sample(num: int, num_classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 2**63, num).astype(np.uint64), rng.integers(0, num_classes, num).astype(np.int32)


def test_every_class_has_the_ratios() -> None:
    hashes, labels = _sample(10_000, 5)
    splits = assign_splits(hashes, labels, RATIOS, 0)
    for label in range(5):
        shares = np.bincount(splits[labels == label], minlength=3) / (labels == label).sum()
        np.testing.assert_allclose(shares, RATIOS, atol=0.001)


def test_the_order_of_listing_does_not_matter() -> None:
    hashes, labels = _sample(500, 3)
    order = np.random.default_rng(1).permutation(500)
    np.testing.assert_array_equal(assign_splits(hashes, labels, RATIOS, 0)[order], assign_splits(hashes[order], labels[order], RATIOS, 0))


def test_another_seed_gives_other_splits_and_the_same_seed_the_same() -> None:
    hashes, labels = _sample(500, 3)
    first = assign_splits(hashes, labels, RATIOS, 0)
    assert (first == assign_splits(hashes.copy(), labels, RATIOS, 0)).all()
    assert (first != assign_splits(hashes, labels, RATIOS, 1)).sum() > 100


@pytest.mark.parametrize("count", [3, 4, 5, 6, 7, 11])
@pytest.mark.parametrize("seed", range(5))
def test_a_class_of_three_or_more_is_in_every_split(count: int, seed: int) -> None:
    hashes, _ = _sample(count * 4, 1, seed)
    labels = np.repeat(np.arange(4, dtype=np.int32), count)
    splits = assign_splits(hashes, labels, RATIOS, seed)
    for label in range(4):
        counts = np.bincount(splits[labels == label], minlength=3)
        assert counts.min() >= 1
        assert counts[0] == counts.max()


def test_a_class_of_two_is_in_train_and_test() -> None:
    hashes, _ = _sample(2, 1)
    assert sorted(assign_splits(hashes, np.zeros(2, np.int32), RATIOS, 0)) == [0, 2]


@pytest.mark.parametrize("ratios", [(0.8, 0.0, 0.2), (0.8, 0.2, 0.0), (1.0, 0.0, 0.0)])
def test_a_ratio_of_zero_gives_an_empty_split(ratios: tuple[float, float, float]) -> None:
    for count in (1, 2, 3, 100):
        hashes, labels = _sample(count, 2)
        counts = np.bincount(assign_splits(hashes, labels, ratios, 0), minlength=3)
        assert all(number == 0 for number, ratio in zip(counts, ratios, strict=True) if ratio == 0)


def test_equal_content_never_falls_in_two_splits() -> None:
    hashes, labels = _sample(2000, 3)
    hashes = hashes[np.random.default_rng(2).integers(0, 600, 2000)]  # many twins, some with other labels
    splits = assign_splits(hashes, labels, RATIOS, 0)
    for value in np.unique(hashes):
        assert len(set(splits[hashes == value].tolist())) == 1
    np.testing.assert_allclose(np.bincount(splits) / 2000, RATIOS, atol=0.03)


def test_no_samples_no_splits() -> None:
    assert len(assign_splits(np.zeros(0, np.uint64), np.zeros(0, np.int32), RATIOS, 0)) == 0


def test_arguments_are_not_changed() -> None:
    hashes, labels = _sample(100, 2)
    before = hashes.copy()
    assign_splits(hashes, labels, RATIOS, 0)
    np.testing.assert_array_equal(hashes, before)


def test_given_splits_are_kept_and_a_missing_one_is_taken_out_of_train() -> None:
    hashes, labels = _sample(1000, 2)
    given = np.where(np.arange(1000) < 800, 0, 2).astype(np.int8)
    splits, made = complete_splits(given, hashes, labels, RATIOS, 0)
    assert made == ["valid"]
    assert (splits[800:] == 2).all()
    assert abs((splits[:800] == 1).mean() - 0.15 / 0.85) < 0.01
    complete = np.array([0, 1, 2], np.int8)
    assert complete_splits(complete, hashes[:3], labels[:3], RATIOS, 0)[1] == []


def test_bins_of_a_number_have_equal_counts_and_what_is_missing_its_own() -> None:
    values = np.random.default_rng(0).normal(size=1000)
    values[:10] = np.nan
    bins = quantile_bins(values)
    assert (bins[:10] == -1).all()
    assert np.bincount(bins[10:]).tolist() == [99] * 10
    assert quantile_bins(np.array([1.0, 2.0, 3.0])).tolist() == [0, 0, 0]


def test_percentages_are_ratios() -> None:
    np.testing.assert_allclose(check_ratios((70, 15, 15)), (0.7, 0.15, 0.15))


@pytest.mark.parametrize("ratios", [(0.7, 0.3), (0.7, 0.2, 0.2), (0.0, 0.5, 0.5), (1.2, -0.1, -0.1), (float("nan"), 0.5, 0.5)])
def test_wrong_ratios_are_refused(ratios: tuple[float, ...]) -> None:
    with pytest.raises(InvalidOptionError, match="the splits"):
        check_ratios(ratios)
