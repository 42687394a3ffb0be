"""What a study leaves: ``study.json`` for the run card, and a note of its best options for the next study of the preset."""

from __future__ import annotations

import json
import warnings
from typing import TYPE_CHECKING, Any

from infra.store import Store
from tasks._tuning.choose import UNITS, Chosen, front
from tasks._tuning.plan import Plan, TuneSettings, from_optuna
from tasks._tuning.record import Record, now

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

MOST_EARLIER = 3
LEAST_FOR_IMPORTANCE = 4


def _folder(plan: Plan) -> str:
    return f"tuning/best/{plan.algorithm.replace('/', '_')}"


def note_best(store: Store, plan: Plan, params: dict[str, Any], value: float) -> None:
    """For ``earlier_best``; a study has one note."""
    note = {"dataset": plan.dataset, "study": plan.key, "params": params, "metric": plan.metric, "value": value, "time": now()}
    store.write_bytes(f"{_folder(plan)}/{plan.key}.json", json.dumps(note, indent=1).encode())


def earlier_best(store: Store, plan: Plan) -> list[dict[str, Any]]:
    """The best options of the latest studies of the preset on other data, the newest first."""
    notes = [json.loads(store.read_bytes(key)) for key in store.list(f"{_folder(plan)}/")]
    others = sorted(
        (note for note in notes if note["dataset"] != plan.dataset), key=lambda note: (note["time"], note["study"]), reverse=True
    )
    return [dict(note["params"]) for note in others[:MOST_EARLIER]]


def study_document(plan: Plan, record: Record, chosen: Chosen, settings: TuneSettings) -> dict[str, Any]:
    """The whole study as JSON values.

    Keys: ``algorithm``, ``dataset``, ``study``, ``sampler``, ``pruner``, ``seed``, ``parallel``, ``time``; ``objectives`` (``name``, ``label``,
    ``unit``, ``higher``); ``space`` by option; ``first`` (trials that did not come from the sampler: the config's own options, and the best of
    earlier studies); ``trials`` (``number``, ``state``, ``params``, ``values``, ``steps`` {step: metric}, ``seconds``, ``error``); ``best``
    (a number), ``reason``, ``front`` (numbers), ``importance`` {option: share of the metric's variance, by fANOVA}.
    """
    trials = record.trials()
    complete = {trial.number: list(trial.values) for trial in trials if trial.state.name == "COMPLETE"}
    labels = {"metric": plan.metric, "latency": "latency", "size": "size"}
    return {
        "format": 1,
        "algorithm": plan.algorithm,
        "dataset": plan.dataset,
        "study": plan.key,
        "sampler": plan.sampler,
        "pruner": plan.pruner,
        "seed": plan.seed,
        "parallel": record.course["parallel"],
        "time": now(),
        "objectives": [
            {"name": name, "label": labels[name], "unit": UNITS.get(name, ""), "higher": name == "metric" and plan.higher}
            for name in plan.objectives
        ],
        "max_metric_loss": settings.max_metric_loss,
        "space": {name: found.model_dump(mode="json") for name, found in plan.space.items()},
        "num_first": min(len(record.course["first"]), len(trials)),
        "trials": [_trial(plan, trial) for trial in trials],
        "best": chosen.number,
        "reason": chosen.reason,
        "front": front(complete, higher=plan.higher) if len(plan.objectives) > 1 else [],
        "importance": importance(record, len(complete)),
    }


def _trial(plan: Plan, trial: FrozenTrial) -> dict[str, Any]:
    state = {"FAIL": "failed", "RUNNING": "unfinished"}.get(trial.state.name, trial.state.name.lower())
    return {
        "number": trial.number,
        "state": state,
        "params": from_optuna(plan.space, trial.params),
        "values": list(trial.values) if trial.values is not None else [],
        "steps": {str(step): value for step, value in sorted(trial.intermediate_values.items())},
        "seconds": trial.user_attrs.get("seconds"),
        "error": trial.user_attrs.get("error", ""),
    }


def importance(record: Record, num_complete: int) -> dict[str, float]:
    """Share of the variance of the metric that each option explains, most first (fANOVA: Hutter et al., ICML 2014).

    Empty for too few trials, or equally good ones.
    """
    if num_complete < LEAST_FOR_IMPORTANCE:
        return {}
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    several = len(record.study.directions) > 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = get_param_importances(
                record.study, evaluator=FanovaImportanceEvaluator(seed=0), target=(lambda trial: trial.values[0]) if several else None
            )
        except RuntimeError:  # fANOVA's word for trials that are all equally good
            return {}
    return {name: round(float(share), 4) for name, share in found.items() if share == share}
