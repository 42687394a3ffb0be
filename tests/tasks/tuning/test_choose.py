"""Which trial wins: the rule, on numbers."""

from __future__ import annotations

from tasks._tuning.choose import choose, front, kept, next_trial
from tasks._tuning.view import lag, visible

TWO = ("metric", "size")
POINTS = {0: (0.90, 10.0), 1: (0.95, 20.0), 2: (0.945, 5.0), 3: (0.80, 1.0), 4: (0.95, 20.0), 5: (0.93, 6.0)}


def test_one_objective_takes_the_best_and_the_first_of_equals() -> None:
    values = {0: (0.5,), 3: (0.9,), 7: (0.9,)}
    assert choose(values, metric="accuracy", higher=True, objectives=("metric",), max_metric_loss=0).number == 3
    assert choose(values, metric="rmse", higher=False, objectives=("metric",), max_metric_loss=0).number == 0


def test_the_front_holds_what_nothing_beats_and_the_first_of_equals() -> None:
    assert front(POINTS, higher=True) == [1, 2, 3]
    assert front({0: (1.0, 5.0), 1: (2.0, 4.0), 2: (2.0, 6.0)}, higher=False) == [0, 1]


def test_the_smallest_within_the_allowed_loss_wins() -> None:
    def chosen(loss: float) -> int:
        return choose(POINTS, metric="accuracy", higher=True, objectives=TWO, max_metric_loss=loss).number

    assert chosen(0.0) == 1
    assert chosen(0.01) == 2
    assert chosen(0.2) == 3


def test_a_loss_of_rmse_is_a_share_of_the_best() -> None:
    values = {0: (10.0, 5.0), 1: (10.9, 1.0), 2: (11.2, 0.5)}
    found = choose(values, metric="rmse", higher=False, objectives=("metric", "latency"), max_metric_loss=0.1)
    assert found.number == 1
    assert found.reason.startswith("of 2 trials on the front")
    assert "within 10.0% of the best (10)" in found.reason
    assert "latency 1 ms" in found.reason


def test_only_what_can_still_win_is_kept() -> None:
    assert kept({}, higher=True, num_objectives=1) == set()
    assert kept({0: (0.5,), 1: (0.7,), 2: (0.7,)}, higher=True, num_objectives=1) == {1}
    assert kept(POINTS, higher=True, num_objectives=2) == {1, 2, 3}


def test_a_trial_begins_when_those_it_looks_at_have_ended() -> None:
    back = lag(2)
    assert [lag(parallel) for parallel in (1, 2, 4, 16)] == [1, 4, 6, 20]
    assert [visible(number, back) for number in range(6)] == [0, 0, 0, 0, 1, 2]
    assert visible(5, lag(1)) == 5
    assert next_trial(set(), 3, 10, visible(3, back))
    assert not next_trial({1, 2, 3}, 4, 10, visible(4, back))
    assert next_trial({0}, 4, 10, visible(4, back))
    assert not next_trial(set(range(10)), 10, 10, visible(10, back))
