"""A study on record: its trials in Optuna's storage, each written so that a kill at any moment leaves something to go on from."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from tasks._tuning.plan import Plan
from tasks._tuning.view import View

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

_COURSE = "course"


class Record:
    """The study of a plan; made if it is not there.

    Attributes:
        course: what the study fixed when it began: ``parallel`` and the parameters of its ``first`` trials.
    """

    def __init__(self, plan: Plan, storage: BaseStorage, course: dict[str, Any]) -> None:
        import optuna

        self._storage = storage
        self.study = optuna.create_study(study_name=plan.key, storage=storage, directions=plan.directions, load_if_exists=True)
        attrs = self.study.user_attrs
        if _COURSE not in attrs:
            self.study.set_user_attr("algorithm", plan.algorithm)
            self.study.set_user_attr("dataset", plan.dataset)
            self.study.set_user_attr(_COURSE, course)
            attrs = self.study.user_attrs
        self.course: dict[str, Any] = attrs[_COURSE]

    def trials(self) -> list[FrozenTrial]:
        """All trials, by number; not to be changed."""
        return list(self.study.get_trials(deepcopy=False))

    def begin(self, view: View) -> None:
        """Note a new trial with all its parameters, in one record."""
        from optuna.trial import create_trial

        storage, study_id = self._storage, self.study._study_id
        trial = create_trial(
            state=_state("RUNNING"),
            params=view.params,
            distributions=view._trial.distributions,
            system_attrs=view.system_attrs,
        )
        storage.create_new_trial(study_id, template_trial=trial)

    def report(self, number: int, step: int, value: float) -> None:
        """Note a metric on the way."""
        self._storage.set_trial_intermediate_value(self._id(number), step, value)

    def complete(self, number: int, values: list[float], view: View, **attrs: Any) -> None:
        self._finish(number, "COMPLETE", values, view, attrs)

    def prune(self, number: int, value: float, view: View) -> None:
        """``value`` is the last metric: Optuna's samplers learn from it."""
        self._finish(number, "PRUNED", [value], view, {})

    def fail(self, number: int, view: View, error: str) -> None:
        self._finish(number, "FAIL", None, view, {"error": error})

    def _finish(self, number: int, state: str, values: list[float] | None, view: View, attrs: dict[str, Any]) -> None:
        """The state goes last: without it the trial is run again."""
        trial_id = self._id(number)
        for name, value in view.pruner_attrs().items():
            self._storage.set_trial_system_attr(trial_id, name, value)
        for name, value in attrs.items():
            self._storage.set_trial_user_attr(trial_id, name, value)
        self._storage.set_trial_state_values(trial_id, _state(state), values)

    def _id(self, number: int) -> int:
        return int(self._storage.get_trial_id_from_study_id_trial_number(self.study._study_id, number))


def _state(name: str) -> Any:
    from optuna.trial import TrialState

    return TrialState[name]


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
