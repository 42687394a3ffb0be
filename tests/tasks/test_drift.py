"""What counts as drift, what does not, and which rows go to a person."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from tasks._drift import Bars, ColumnDrift, decide, judge_accuracy, judge_columns, judge_errors, measure
from tasks._hard_examples import margin, pick_outlying, pick_unsure

BARS = Bars()


def normal(seed: int, number: int, mean: float = 0.0) -> list[float]:
    return np.random.default_rng(seed).normal(mean, 2.0, number).tolist()


def words(seed: int, number: int, shares: Sequence[float]) -> list[str]:
    return np.random.default_rng(seed).choice(["a", "b", "c"], number, p=shares).tolist()


def judged(name: str, kind: Any, served: Sequence[Any], reference: Sequence[Any]) -> ColumnDrift:
    (column,) = judge_columns([measure(name, kind, "input", served, reference)], BARS)
    return column


def test_the_distance_of_numbers_is_the_shift_in_standard_deviations() -> None:
    column = measure("x", "number", "input", normal(1, 20_000, mean=1.0), normal(2, 20_000))
    assert column.distance == pytest.approx(0.5, abs=0.03)
    assert column.p_value < 1e-100


@pytest.mark.parametrize("unit", [1e-9, 1e-3, 1.0, 1e9])
def test_the_distance_of_numbers_does_not_depend_on_their_unit(unit: float) -> None:
    served, reference = ([unit * value for value in normal(seed, 500, mean)] for seed, mean in ((1, 1.0), (2, 0.0)))
    here = measure("x", "number", "input", served, reference).distance
    assert here == pytest.approx(measure("x", "number", "input", normal(1, 500, 1.0), normal(2, 500)).distance)


def test_classes_that_have_nothing_in_common_are_at_the_largest_distance() -> None:
    assert measure("k", "class", "input", ["a"] * 100, ["b"] * 100).distance == pytest.approx(math.sqrt(math.log(2)))
    assert measure("k", "class", "input", ["a", "b"] * 100, ["b", "a"] * 70).distance == pytest.approx(0.0, abs=1e-9)


def test_the_same_distribution_gives_no_alarm_however_small_or_large_the_sample() -> None:
    alarms = 0
    for seed in range(60):
        for number in (30, 300, 3000):
            alarms += judged("x", "number", normal(seed, number), normal(seed + 1000, 5000)).drifted
            alarms += judged("k", "class", words(seed, number, [0.5, 0.3, 0.2]), words(seed + 1000, 5000, [0.5, 0.3, 0.2])).drifted
    assert alarms <= 4, "360 columns at a level of 1 % each"


def test_a_shift_is_found_and_a_tiny_one_in_a_large_sample_is_not_told() -> None:
    assert judged("x", "number", normal(1, 300, mean=1.0), normal(2, 5000)).drifted
    assert judged("k", "class", words(1, 300, [0.2, 0.3, 0.5]), words(2, 5000, [0.5, 0.3, 0.2])).drifted
    tiny = judged("x", "number", normal(1, 200_000, mean=0.08), normal(2, 200_000))
    assert tiny.p_value < 1e-6
    assert not tiny.drifted


def test_missing_values_are_a_drift_of_their_own() -> None:
    served = [None if index % 5 == 0 else value for index, value in enumerate(normal(1, 500))]
    column = judged("x", "number", served, normal(2, 5000))
    assert column.drifted
    assert "20.0% missing, 0.0% in training" in column.reason
    assert not judged("x", "number", [math.nan] * 3 + normal(1, 500), normal(2, 5000)).drifted


def test_a_constant_column_drifts_when_another_value_comes() -> None:
    assert judged("x", "number", [3.0] * 300, [3.0] * 3000).distance == 0.0
    assert judged("x", "number", [3.5] * 300, [3.0] * 3000).drifted


def test_a_column_that_is_empty_on_one_side_is_measured_all_the_same() -> None:
    column = judged("x", "number", [None] * 300, normal(1, 3000))
    assert (column.distance, column.drifted) == (0.0, True)
    assert not judged("k", "class", [], ["a"] * 10).drifted


def a_column(role: Any, drifted: bool) -> ColumnDrift:
    return ColumnDrift(
        name="c", kind="number", role=role, distance=1.0, p_value=0.0, missing=0, missing_reference=0, missing_p_value=1, drifted=drifted
    )


@pytest.mark.parametrize(
    ("num_drifted", "prediction", "num_rows", "drifted"),
    [(0, False, 1000, False), (3, False, 1000, False), (4, False, 1000, True), (0, True, 1000, True), (10, True, 199, False)],
)
def test_the_verdict(num_drifted: int, prediction: bool, num_rows: int, drifted: bool) -> None:
    columns = [a_column("input", index < num_drifted) for index in range(10)] + [a_column("prediction", prediction)]
    verdict = decide(columns, num_rows, None, BARS)
    assert verdict.drifted == drifted
    assert verdict.enough == (num_rows >= 200)
    assert bool(verdict.reasons) == (drifted or num_rows < 200)


def test_quality_drops_only_when_it_is_more_than_allowed_and_more_than_chance() -> None:
    assert judge_accuracy(60, 40, 0.9, BARS).dropped
    assert not judge_accuracy(6, 4, 0.9, BARS).dropped, "too few"
    assert not judge_accuracy(88, 12, 0.9, BARS).dropped, "within what may be lost"
    assert not judge_accuracy(100, 0, 1.0, BARS).dropped
    errors = (np.random.default_rng(0).normal(0, 2.0, 400) ** 2).tolist()
    assert judge_errors(errors, 1.0, BARS).dropped
    assert judge_errors(errors, 1.0, BARS).value == pytest.approx(2.0, rel=0.1)
    assert not judge_errors(errors, 2.0, BARS).dropped
    assert not judge_errors([], 2.0, BARS).dropped
    assert decide([], 1000, judge_errors(errors, 1.0, BARS), BARS).quality_dropped


def test_the_unsure_are_picked_over_all_classes_and_a_tenth_at_random() -> None:
    labels = ["a"] * 50 + ["b"] * 50
    margins = [index / 100 for index in range(100)]  # all of a are less sure than any of b
    picks = pick_unsure(labels, margins, 20)
    assert len(picks) == 20
    assert [pick.row for pick in picks] == sorted({pick.row for pick in picks})
    assert sum(pick.reason == "at random" for pick in picks) == 2
    sure = Counter(labels[pick.row] for pick in picks if pick.reason != "at random")
    assert sure == {"a": 18}
    assert Counter(labels[pick.row] for pick in pick_unsure(labels, [0.5] * 100, 60))["a"] <= 55
    assert pick_unsure(labels, margins, 20) == picks, "the same rows give the same picks"
    assert pick_unsure([], [], 20) == []
    assert margin({"a": 0.6, "b": 0.3, "c": 0.1}) == pytest.approx(0.3)
    assert margin({"a": 1.0}) == 1.0


def test_of_values_the_unusual_rows_are_picked() -> None:
    picks = pick_outlying([0.0] * 50 + [9.0, 5.0], 10)
    assert {50, 51} <= {pick.row for pick in picks}
    assert len(picks) == 10
