"""What a trial may see of the others."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import optuna
import pytest

from algorithms.search_space import Choice, Float, SearchSpace
from infra.store import open_store
from tasks._tuning.journal import open_storage
from tasks._tuning.plan import Plan, TuneSettings, distributions, from_optuna, make_pruner
from tasks._tuning.record import Record
from tasks._tuning.view import View

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

SPACE: SearchSpace = {"a": Float(low=0.0, high=1.0), "b": Choice(values=("x", (1, 2)))}


def _plan(**changes: Any) -> Plan:
    values: dict[str, Any] = {
        "algorithm": "image-classification/small-cnn",
        "config": {"epochs": 9},
        "dataset": "d",
        "code": {},
        "space": SPACE,
    }
    values |= {"sampler": "tpe", "pruner": "median", "objectives": ("metric",), "grid_points": 3, "seed": 1}
    return Plan.model_validate(values | changes)


@pytest.fixture
def record(tmp_path: Any) -> Record:
    storage = open_storage("", open_store(f"memory://{tmp_path.name}"), "t", print)
    return Record(_plan(), storage, {"parallel": 2, "first": []})


def _fill(record: Record, metrics: Sequence[float]) -> list[FrozenTrial]:
    """Complete trials with these metrics, the same at each of three steps."""
    for metric in metrics:
        number = len(record.trials())
        view = View(_plan(), record.trials(), number, 4, {})
        record.begin(view)
        for step in (1, 2, 3):
            record.report(number, step, metric)
        record.complete(number, [metric], view)
    return record.trials()


def test_a_trial_depends_on_those_far_enough_back_only(record: Record) -> None:
    trials = _fill(record, [0.1, 0.9, 0.5, 0.4, 0.3, 0.2, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3])
    seen = View(_plan(), trials, 12, 4, {}).params
    changed = [*trials[:9], *(_with_value(trial, 0.99) for trial in trials[9:])]
    assert View(_plan(), changed, 12, 4, {}).params == seen
    assert View(_plan(), [_with_value(trials[0], 0.99), *trials[1:]], 12, 4, {})._study.trials[0].value == 0.99
    assert View(_plan(seed=2), trials, 12, 4, {}).params != seen


def _with_value(trial: FrozenTrial, value: float) -> FrozenTrial:
    changed = copy.copy(trial)
    changed.value = value
    return changed


def test_the_median_pruner_stops_what_is_below_the_median_of_what_it_sees(record: Record) -> None:
    trials = _fill(record, [0.9, 0.8, 0.7, 0.6, 0.0, 0.0, 0.0])
    good, bad = (View(_plan(), trials, 7, 4, {"a": 0.5, "b": "x"}) for _ in range(2))
    assert not good.report(1, 0.76)
    assert bad.report(1, 0.74)  # the median of the four that it sees is 0.75; of all seven it would be 0.6


def test_the_quartile_pruner_stops_only_what_is_worse_than_three_quarters(record: Record) -> None:
    trials = _fill(record, [0.9, 0.8, 0.7, 0.6, 0.0, 0.0, 0.0])
    plan = _plan(pruner="quartile")
    good, bad = (View(plan, trials, 7, 4, {"a": 0.5, "b": "x"}) for _ in range(2))
    assert not good.report(1, 0.69)
    assert bad.report(1, 0.66)  # the lower quartile of the four that it sees is 0.675


def test_hyperband_keeps_its_rungs_on_record(record: Record) -> None:
    plan = _plan(pruner="hyperband")
    assert isinstance(make_pruner(plan), optuna.pruners.HyperbandPruner)
    view = View(plan, [], 0, 4, {})
    record.begin(view)
    view.report(9, 0.5)
    assert any(name.startswith("completed_rung_") for name in view.pruner_attrs())
    record.complete(0, [0.5], view)
    assert set(view.pruner_attrs()) <= set(record.trials()[0].system_attrs)
    later = View(plan, record.trials(), 1, 4, {})
    assert not any(name.startswith("completed_rung_") for name in later._study.trials[0].system_attrs)  # trial 0 is too near
    assert set(view.pruner_attrs()) <= set(View(plan, record.trials(), 1, 1, {})._study.trials[0].system_attrs)


def test_a_trial_that_was_killed_begins_again_with_its_own_parameters(record: Record) -> None:
    view = View(_plan(), [], 0, 4, {})
    record.begin(view)
    (trial,) = record.trials()
    assert trial.params == view.params
    assert View(_plan(), [], 0, 4, trial.params).params == view.params


def test_lists_survive_as_choices() -> None:
    assert set(distributions(SPACE)["b"].choices) == {"x", "[1, 2]"}  # type: ignore[attr-defined]
    assert from_optuna(SPACE, {"a": 0.5, "b": "[1, 2]"}) == {"a": 0.5, "b": (1, 2)}


def test_every_setting_says_what_it_is() -> None:
    assert all(field.description for field in TuneSettings.model_fields.values())


def test_the_number_of_trials_is_no_part_of_a_studys_name() -> None:
    assert _plan().key == _plan().key
    assert _plan().key != _plan(sampler="random").key
    assert "trials" not in Plan.model_fields
