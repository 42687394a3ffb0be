"""What one trial may see of the others, so that a study's course depends on its seed and results alone, and not on which trial ended first.

Trial k is sampled, and pruned, in the light of the trials 0 to k - LAG, all of which have ended by then; those between are known by their
parameters only. An Optuna study in memory holds just that.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tasks._tuning.plan import Plan, distributions, make_pruner, make_sampler

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

RUNG = "completed_rung_"  # what Optuna's successive halving notes at a trial while it runs


def lag(parallel: int) -> int:
    """How many trials back a trial looks: as many as run at a time, and a few more, so that short ones need not wait for a long one."""
    return parallel + max(2, parallel // 4) if parallel > 1 else 1


def visible(number: int, back: int) -> int:
    """Trials whose results trial ``number`` sees: 0 up to this one, exclusive."""
    return max(0, number - back + 1)


class View:
    """One trial in the middle of what it may see.

    Attributes:
        number: the trial's.
        params: its parameters, in Optuna's words.
        system_attrs: what the sampler noted, to be kept with the trial.
    """

    def __init__(self, plan: Plan, trials: Sequence[FrozenTrial], number: int, back: int, fixed: dict[str, Any]) -> None:
        import optuna

        self.number = number
        storage = optuna.storages.InMemoryStorage()
        self._study = optuna.create_study(
            study_name=plan.key, storage=storage, sampler=make_sampler(plan, number), pruner=make_pruner(plan), directions=plan.directions
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for trial in trials[:number]:
                self._study.add_trial(trial if trial.number < visible(number, back) else as_begun(trial))
            if fixed:
                self._study.enqueue_trial(fixed)
            self._trial = self._study.ask(distributions(plan.space))
        assert self._trial.number == number, "a view has all the trials before its own"
        self.params = dict(self._trial.params)
        self.system_attrs = dict(self._frozen().system_attrs)

    def report(self, step: int, value: float) -> bool:
        """Note a metric on the way; whether the trial is to be pruned."""
        self._trial.report(value, step)
        return bool(self._trial.should_prune())

    def pruner_attrs(self) -> dict[str, Any]:
        """What the pruner noted at this trial, for the views of later ones."""
        return {name: value for name, value in self._frozen().system_attrs.items() if name not in self.system_attrs}

    def _frozen(self) -> FrozenTrial:
        return self._study.trials[self.number]


def as_begun(trial: FrozenTrial) -> FrozenTrial:
    """The trial as it was when it began: running, with its parameters, without anything that came of it."""
    from optuna.trial import FrozenTrial, TrialState

    return FrozenTrial(
        number=trial.number,
        trial_id=trial._trial_id,
        state=TrialState.RUNNING,
        value=None,
        datetime_start=trial.datetime_start,
        datetime_complete=None,
        params=trial.params,
        distributions=trial.distributions,
        user_attrs={},
        system_attrs={name: value for name, value in trial.system_attrs.items() if not name.startswith(RUNG)},
        intermediate_values={},
    )
