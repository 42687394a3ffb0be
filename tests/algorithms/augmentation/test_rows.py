"""Augmentation of the matrix of training rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from algorithms.augmentation.rows import NoiseOnRows, augment_rows, number_features, whole_features
from algorithms.tables.columns import CategoryColumn, ColumnPlan, NumericColumn
from algorithms.tables.config import LinearClassifierConfig
from infra.errors import InvalidOptionError, UserCodeError

PLAN = ColumnPlan(
    numeric=[
        NumericColumn(name="height", type="float", fill=0.0, has_missing=True),
        NumericColumn(name="old", type="boolean", fill=0.0, has_missing=False),
    ],
    categories=[CategoryColumn(name="colour", values=["red", "blue"])],
    left_out=[],
    keep_nan=False,
)
POLICY_MODULE = """
import numpy as np
def doubled(rows, targets): return np.concatenate([rows, rows]), np.concatenate([targets, targets])
def failing(rows, targets): raise KeyError('no such column')
def half(rows, targets): return rows[:, :2], targets
def unknown(rows, targets): return rows, targets + 9
"""


@pytest.fixture(autouse=True)
def _own_policies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_row_policies.py").write_text(POLICY_MODULE)
    monkeypatch.chdir(tmp_path)


def config(augment: str, **more: Any) -> LinearClassifierConfig:
    return LinearClassifierConfig(target="t", augment=augment, **more)


def rows() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """30 rows of class 0 and 8 of class 1: height, indicator, old, and one of three colours."""
    random = np.random.default_rng(0)
    labels = np.repeat([0, 1], [30, 8])
    features = np.zeros((38, PLAN.num_features), np.float32)
    features[:, 0] = random.normal(labels * 5, 1)
    features[:, 1] = random.integers(0, 2, 38)
    features[:, 2] = random.integers(0, 2, 38)
    features[np.arange(38), 3 + random.integers(0, 3, 38)] = 1
    return features, labels.astype(np.int64)


def test_the_plan_tells_numbers_from_what_is_0_or_1() -> None:
    assert PLAN.num_features == 6
    assert number_features(PLAN).tolist() == [True, False, False, False, False, False]
    assert list(whole_features(PLAN)) == [slice(1, 2), slice(2, 3), slice(3, 6)]


def test_smote_fills_the_rarer_class_with_rows_between_its_own() -> None:
    features, labels = rows()
    grown, of = augment_rows(config("smote"), PLAN, features, labels)
    assert np.bincount(of).tolist() == [30, 30]
    np.testing.assert_array_equal(grown[:38], features)
    new = grown[38:]
    own = features[labels == 1, 0]
    assert (new[:, 0] >= own.min()).all()
    assert (new[:, 0] <= own.max()).all()
    assert len(np.unique(new[:, 0])) > 10
    assert set(np.unique(new[:, 1:3])) <= {0.0, 1.0}
    np.testing.assert_array_equal(new[:, 3:].sum(axis=1), 1)
    assert set(np.unique(new[:, 3:])) == {0.0, 1.0}


def test_smote_gives_the_same_rows_for_the_same_seed() -> None:
    found = [augment_rows(config("smote", seed=seed), PLAN, *rows())[0] for seed in (1, 1, 2)]
    np.testing.assert_array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])


def test_smote_takes_missing_values_and_few_rows() -> None:
    features, labels = rows()
    features[3, 0] = np.nan
    kept = np.r_[:30, 30:32]
    grown, of = augment_rows(config("smote"), PLAN, features[kept], labels[kept])
    assert np.bincount(of).tolist() == [30, 30]
    assert np.isnan(grown[3, 0])
    assert not np.isnan(grown[32:]).any()


def test_smote_needs_two_rows_and_something_to_balance() -> None:
    features, labels = rows()
    with pytest.raises(InvalidOptionError, match="smote needs two rows"):
        augment_rows(config("smote"), PLAN, features[:31], labels[:31])
    balanced = np.r_[:8, 30:38]
    grown, _ = augment_rows(config("smote"), PLAN, features[balanced], labels[balanced])
    assert len(grown) == 16


def test_noise_adds_a_noisy_copy_whose_switches_stay_as_they_are() -> None:
    features, labels = rows()
    grown, of = augment_rows(config("noise", noise_sigma=0.2), PLAN, features, labels)
    np.testing.assert_array_equal(grown[:38], features)
    np.testing.assert_array_equal(grown[38:, 1:], features[:, 1:])
    np.testing.assert_array_equal(of[38:], labels)
    off = grown[38:, 0] - features[:, 0]
    assert 0.1 < off.std() / features[:, 0].std() < 0.3


def test_noise_on_batches_is_new_each_time_and_the_same_for_the_same_seed() -> None:
    noise = NoiseOnRows(number_features(PLAN), 0.5)
    batch = torch.zeros(500, 6)
    torch.manual_seed(1)
    first, second = noise.change(batch, torch.zeros(500)), noise.change(batch, torch.zeros(500))
    torch.manual_seed(1)
    assert torch.equal(noise.change(batch, torch.zeros(500)), first)
    assert not torch.equal(first, second)
    assert 0.45 < float(first[:, 0].std()) < 0.55
    assert not first[:, 1:].any()
    assert noise.mix(batch) == (batch, None)


def test_an_own_policy_gives_rows_and_targets() -> None:
    features, labels = rows()
    grown, of = augment_rows(config("my_row_policies:doubled"), PLAN, features, labels)
    assert grown.shape == (76, 6)
    assert of.dtype == np.int64


@pytest.mark.parametrize(
    ("name", "told"),
    [("failing", "def failing.*KeyError: 'no such column'"), ("half", r"rows \[N, 6\]"), ("unknown", r"no training row has: \[9, 10\]")],
)
def test_an_own_policy_that_fails_is_blamed_by_name(name: str, told: str) -> None:
    with pytest.raises(UserCodeError, match=f"(?s)my_row_policies:{name}.*{told}"):
        augment_rows(config(f"my_row_policies:{name}"), PLAN, *rows())
