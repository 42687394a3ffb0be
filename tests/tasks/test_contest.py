"""Who wins: better by the margin, surely so, and on no slice worse than allowed."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tasks._compare_stats import Answers
from tasks._contest import Outcome, Terms, contest

NUM_ROWS = 400
LABELS = np.arange(NUM_ROWS) % 4
IS_NEW = np.arange(NUM_ROWS) >= 300
NAMES = ["a", "b", "c", "d"]


def answers(wrong: NDArray[np.int64] | list[int]) -> Answers:
    said = LABELS.copy()
    said[np.asarray(wrong, np.int64)] = (said[np.asarray(wrong, np.int64)] + 1) % 4
    return Answers(LABELS, said, None, 4)


def judge(champion: NDArray[np.int64] | list[int], challenger: NDArray[np.int64] | list[int], **terms: float) -> Outcome:
    return contest(answers(champion), answers(challenger), IS_NEW, NAMES, Terms(**terms))  # type: ignore[arg-type]


def test_a_clearly_better_challenger_wins() -> None:
    found = judge(np.arange(300, 380), np.arange(300, 310))
    assert found.winner == "challenger"
    assert (found.champion, found.challenger) == (0.8, 0.975)
    assert found.gain == pytest.approx(0.175)
    assert 0 < found.interval[0] < found.gain < found.interval[1]
    assert {one.name: one.num_rows for one in found.slices} == {
        "the old data": 300,
        "the new data": 100,
        **{f"class {n}": 100 for n in NAMES},
    }


def test_a_gain_that_may_be_chance_is_not_enough() -> None:
    found = judge([1, 2, 3], [1, 2])
    assert found.winner == "champion"
    assert "may be chance" in found.reason


def test_a_gain_below_the_margin_is_not_enough() -> None:
    found = judge(np.arange(300, 340), np.arange(300, 320), min_gain=0.06)
    assert found.winner == "champion"
    assert "at least 0.06 was needed" in found.reason


def test_an_equal_challenger_does_not_win() -> None:
    found = judge([], [])
    assert (found.winner, found.gain, found.interval) == ("champion", 0.0, (0.0, 0.0))


def test_a_challenger_that_forgets_the_old_data_does_not_win() -> None:
    found = judge(np.arange(300, 400), np.arange(0, 30))
    assert found.gain > 0.1
    assert found.winner == "champion"
    assert "the old data" in found.reason
    assert judge(np.arange(300, 400), np.arange(0, 30), max_slice_loss=0.5).winner == "challenger"


def test_a_challenger_that_loses_one_class_does_not_win() -> None:
    class_a = np.flatnonzero(LABELS == 0)[:10]
    found = judge(np.setdiff1d(np.arange(300, 400), np.flatnonzero(LABELS == 0)), class_a, max_slice_loss=0.05)
    assert found.winner == "champion"
    assert "class a" in found.reason


def test_small_slices_are_not_looked_at() -> None:
    found = judge(np.arange(300, 400), [], min_slice=101)
    assert [one.name for one in found.slices] == ["the old data"]


def test_of_numbers_the_lower_error_wins_and_slices_are_ranges_of_the_target() -> None:
    random = np.random.default_rng(0)
    truth = random.normal(size=NUM_ROWS)
    champion = Answers(truth, truth + random.normal(size=NUM_ROWS), None, 0)
    better = Answers(truth, truth + 0.3 * random.normal(size=NUM_ROWS), None, 0)
    found = contest(champion, better, IS_NEW, [], Terms())
    assert (found.winner, found.metric) == ("challenger", "rmse")
    assert found.gain == pytest.approx(found.champion - found.challenger)
    assert 0 < found.interval[0] < found.gain < found.interval[1]
    assert len(found.slices) == 6
    assert contest(better, champion, IS_NEW, [], Terms()).winner == "champion"
    spoiled = better.predictions.copy()
    spoiled[np.argsort(truth)[:100]] += 3
    assert "targets from" in contest(champion, Answers(truth, spoiled, None, 0), IS_NEW, [], Terms(max_slice_loss=0.2)).reason


def test_the_decision_is_the_same_every_time() -> None:
    assert judge([1, 2, 3], [4]) == judge([1, 2, 3], [4])
