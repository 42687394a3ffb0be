"""Tune: search an algorithm's options with Optuna, many short trainings at a time, and hand the best options to the training stage."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from algorithms.catalog import find_algorithm
from algorithms.search_space import default_values, inside, narrow
from algorithms.trial import warm_modules
from infra.artifacts import MANIFEST, Artifact, fetch, find, publish
from infra.context import StageContext
from infra.datasets.card import DatasetRef
from infra.datasets.dataset import open_dataset
from infra.errors import AtelierError, InputError, InvalidOptionError, TuningFailedError
from infra.warm import WarmJobs
from tasks._tuning.choose import Chosen, choose
from tasks._tuning.journal import close_storage, open_storage
from tasks._tuning.plan import Plan, TuneSettings, check_settings, from_optuna, to_optuna
from tasks._tuning.record import Record
from tasks._tuning.search import Search
from tasks._tuning.summary import earlier_best, note_best, study_document
from tasks.train import alone, training_key

__all__ = ["TuneSettings", "Tuned", "check_tuning", "tune"]


class Tuned(BaseModel):
    """What a tuning found: options for the training stage, and where the study is told."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    artifact: Artifact = Field(description="study.json: everything about the study, for the run card.")
    study: str = Field(description="The study's name in its storage.")
    config: dict[str, Any] = Field(description="All options, the best ones among them.")
    params: dict[str, Any] = Field(description="The tuned options of the best trial.")
    trial: int = Field(description="Number of the best trial.")
    metric: str
    value: float = Field(description="The best trial's metric on the valid split.")
    values: dict[str, float] = Field(description="By objective: metric, latency (ms), size (MiB).")
    num_complete: int
    num_pruned: int
    num_failed: int
    reason: str = Field(description="Why this trial, in words.")


def check_tuning(
    algorithm: str, config: dict[str, Any], data: DatasetRef, settings: TuneSettings, *, code: dict[str, str] | None = None
) -> Plan:
    """The plan of a study, once everything that can be known beforehand is known to be right.

    Raises:
        UnknownAlgorithmError, InvalidOptionError: all faults of the space, or of the settings, at once.
    """
    check_settings(settings)
    preset = find_algorithm(algorithm)
    space = narrow(preset, config, settings.space, settings.fixed)
    several = len(settings.objectives) > 1
    pruner = ("none" if several else "quartile") if settings.pruner == "auto" else settings.pruner
    return Plan(
        algorithm=algorithm,
        config=config,
        dataset=data.digest,
        code=code or {},
        space=space,
        sampler=settings.sampler,
        pruner=pruner,
        objectives=settings.objectives,
        grid_points=settings.grid_points,
        seed=settings.seed,
    )


def check_valid_split(num_valid: int) -> None:
    """Raise if there is nothing to compare trials by.

    Raises:
        InvalidOptionError: no sample in the valid split.
    """
    if not num_valid:
        problem = "trials: the data has no valid split, by which trials are compared"
        raise InvalidOptionError("the tuning", [problem], "Give the valid split a share (`ratios`), or leave out `trials`.")


def tune(
    algorithm: str,
    config: dict[str, Any],
    data: DatasetRef,
    settings: TuneSettings,
    *,
    code: dict[str, str] | None = None,
    context: StageContext,
) -> Tuned:
    """Run the trials that the study does not have yet, and choose.

    The objective is the metric on the valid split of the weights that a training keeps; the test split is never looked at. With one worker the
    model of the winning trial is put where the training stage looks for it, so that the final training with these options costs nothing.

    Args:
        config: all options; where they lie in the search space they are the first trial.
        code: as for ``tasks.train.train``.

    Raises:
        InvalidOptionError: settings, space or data that cannot be tuned.
        AlreadyRunningError: another process on this machine is at the same study.
        DamagedStudyError: the study's journal is damaged before its end.
        TuningFailedError: no trial completed.
    """
    plan = check_tuning(algorithm, config, data, settings, code=code)
    check_valid_split(open_dataset(context.store, data, context.settings.cache_path).num_rows("valid"))
    folder = f"tuning/{plan.key}"
    with alone(f"tuning-{plan.key}", context), _open_search(plan, folder, data, settings, context) as search:
        if search.has_work:
            with _jobs(plan, search.parallel, context) as jobs:
                search.run(jobs)
        values = search.complete()
        if not values:
            raise _nothing(search)
        chosen = choose(
            values, metric=plan.metric, higher=plan.higher, objectives=plan.objectives, max_metric_loss=settings.max_metric_loss
        )
        return _conclude(plan, search, chosen, folder, data, settings, context)


@contextmanager
def _open_search(plan: Plan, folder: str, data: DatasetRef, settings: TuneSettings, context: StageContext) -> Iterator[Search]:
    def tell(message: str) -> None:
        context.report({"kind": "log", "message": message})

    if context.fresh:
        context.store.delete(folder)
    preset = find_algorithm(plan.algorithm)
    first = [default_values(preset, plan.config, plan.space)] if plan.sampler != "grid" else []
    if settings.warm_start and plan.sampler != "grid":
        found = [inside(plan.space, one) for one in earlier_best(context.store, plan)]
        first += [one for one in found if one and one not in first]
    in_optuna = [{name: to_optuna(plan.space[name], value) for name, value in one.items()} for one in first]
    parallel = settings.parallel or _num_slots(context)
    storage = open_storage(context.settings.optuna_storage, context.store, folder, tell)
    try:
        if context.fresh:
            _forget(storage, plan.key)
        record = Record(plan, storage, {"parallel": parallel, "first": in_optuna})
        yield Search(
            plan=plan,
            record=record,
            store=context.store,
            data=data,
            folder=folder,
            num_trials=settings.trials,
            parallel=min(parallel, int(record.course["parallel"])),
            time_limit_s=settings.time_limit_s,
            tell=context.report,
        )
    finally:
        close_storage(storage)


def _forget(storage: Any, name: str) -> None:
    """Delete a study from a database; a journal is a file that is gone already."""
    import optuna

    if any(study.study_name == name for study in storage.get_all_studies()):
        optuna.delete_study(study_name=name, storage=storage)


def _num_slots(context: StageContext) -> int:
    if context.settings.cluster == "local":
        return context.settings.slots
    from infra.cluster import most_slots

    return max(1, most_slots(context.client()))


def _jobs(plan: Plan, parallel: int, context: StageContext) -> WarmJobs:
    threads = max(1, context.settings.slots // parallel) if context.settings.cluster == "local" else 1
    return WarmJobs(
        client=context.client(),
        module="algorithms.trial",
        preload=warm_modules(find_algorithm(plan.algorithm).engine, measures=len(plan.objectives) > 1),
        threads=threads,
        deadline_s=context.settings.deadline_s,
        log_dir=context.settings.state_dir / "logs" / "trials",
    )


def _nothing(search: Search) -> AtelierError:
    if isinstance(search.error, InputError):
        return search.error
    trials = search.record.trials()
    errors = [str(trial.user_attrs["error"]) for trial in trials if "error" in trial.user_attrs]
    return TuningFailedError(len(trials), str(search.error or (errors[0] if errors else "")))


def _conclude(
    plan: Plan, search: Search, chosen: Chosen, folder: str, data: DatasetRef, settings: TuneSettings, context: StageContext
) -> Tuned:
    """Keep the winner, write down the study, and leave nothing of the others."""
    trials = search.record.trials()
    best = trials[chosen.number]
    params = from_optuna(plan.space, best.params)
    config = find_algorithm(plan.algorithm).config({**plan.config, **params}).model_dump(mode="json")
    if context.workers == 1:  # with more, the final training has them all
        _adopt(plan, config, search.output(chosen.number), data, context)
    document = study_document(plan, search.record, chosen, settings)
    with tempfile.TemporaryDirectory(prefix="atelier-") as scratch:
        (Path(scratch) / "study.json").write_text(json.dumps(document, indent=1))
        artifact = publish(context.store, Path(scratch), f"{folder}/result", kind="tune")
    note_best(context.store, plan, params, best.values[0])
    context.store.delete(f"{folder}/trials")
    states = [trial.state.name for trial in trials]
    return Tuned(
        artifact=artifact,
        study=plan.key,
        config=config,
        params=params,
        trial=chosen.number,
        metric=plan.metric,
        value=float(best.values[0]),
        values=dict(zip(plan.objectives, map(float, best.values), strict=True)),
        num_complete=states.count("COMPLETE"),
        num_pruned=states.count("PRUNED"),
        num_failed=states.count("FAIL"),
        reason=chosen.reason,
    )


def _adopt(plan: Plan, config: dict[str, Any], key: str, data: DatasetRef, context: StageContext) -> None:
    """Put the winner's model where the training stage will look for it, unless there is one."""
    target = f"runs/{training_key(plan.algorithm, config, data, plan.code)}/trained"
    trained = find(context.store, key)
    if trained is None or find(context.store, target) is not None:
        return
    source = fetch(context.store, trained, context.settings.cache_path)
    with tempfile.TemporaryDirectory(prefix="atelier-") as scratch:
        folder = Path(scratch) / "trained"
        shutil.copytree(source, folder, ignore=shutil.ignore_patterns(MANIFEST))
        spec = json.loads((folder / "spec.json").read_text())
        (folder / "spec.json").write_text(json.dumps({**spec, "output": target}, indent=2, sort_keys=True))
        publish(context.store, folder, target, kind="train", replace=False)
