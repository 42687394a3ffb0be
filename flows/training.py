"""The main flow: data in, a proven and registered model out. Order and decisions only; the work is in ``tasks/``."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple

from algorithms.compression.recipes import Mode
from algorithms.spec import Algorithm, Config
from algorithms.user_code import digests
from flows.artifacts import show_data, show_gallery_page, show_progress, show_result
from flows.checks import check_data, check_request, check_slots, version_policy
from flows.embedded import embedded_flow, open_context
from flows.request import RunRequest, make_request
from flows.result import RunResult, trials_in_words
from flows.stages import StageTime, record_stages, run_stage, stage, stage_context
from infra.artifacts import Artifact, fetch
from infra.context import Backend, StageContext
from infra.datasets.card import DatasetRef
from infra.datasets.dataset import open_dataset
from tasks._tuning.plan import Objective, Pruner, Sampler
from tasks.augment import GALLERY, augment, training_gallery
from tasks.compress import TABLE_FILE, Compressed
from tasks.compress import compress as compress_model
from tasks.evaluate import evaluate
from tasks.explain import Explained, explain
from tasks.import_data import import_data, source_key
from tasks.ingest import default_name
from tasks.package import package, read_json
from tasks.register import Registered, current_state, register
from tasks.report import CardExtras, write_card
from tasks.train import Trained, train
from tasks.tune import Tuned, tune
from tasks.validate import QUARANTINED, Validated, validate

import_stage = stage(import_data, name="import")
validate_stage = stage(validate, version=2)
augment_stage = stage(augment)
tune_stage = stage(tune)
train_stage = stage(train)
evaluate_stage = stage(evaluate)
package_stage = stage(package)
compress_stage = stage(compress_model, name="compress")
explain_stage = stage(explain)
register_stage = stage(register)
report_stage = stage(write_card, name="report")


def _lineage(request: RunRequest, source: str, clean: str) -> dict[str, Any]:
    return {"dataset": clean, "source_dataset": source, "source": request.data, "algorithm": request.algorithm}


class _Data(NamedTuple):
    """What is learned from, and how it came to be."""

    name: str
    source: DatasetRef
    checked: Validated
    data: DatasetRef


class _Model(NamedTuple):
    """What was learned, what ships of it, and what is known about it."""

    options: dict[str, Any]
    trained: Trained
    evaluation: Artifact
    shipped: Artifact
    explained: Explained
    tuned: Tuned | None
    compressed: Compressed | None
    gallery: Artifact | None
    card_key: str


Decide = Callable[[StageContext, list[StageTime], dict[str, Any]], Registered]
"""Registers the package that the values describe (those of ``tasks.register.register``), and says what it becomes."""


def run_pipeline(request: RunRequest, context: StageContext, decide: Decide | None = None) -> RunResult:
    """Every stage in order; each is taken from an earlier run where its inputs are the same.

    Args:
        decide: what registers the package, in place of the stage ``register``.
    """
    begin = time.monotonic()
    started = datetime.now(UTC).isoformat(timespec="seconds")
    algorithm, config = check_request(request, context.settings, context.store)
    options = config.model_dump(mode="json")
    times: list[StageTime] = []
    found = get_data(request, algorithm, config, times, context)
    model = _make_model(request, algorithm, options, found, times, context)
    registered = (decide or _register)(
        context,
        times,
        {
            "package": model.shipped,
            "name": found.name,
            "algorithm": algorithm.name,
            "data": found.data,
            "run_id": model.trained.run_id,
            "min_gain": request.min_gain,
            "run_card_key": model.card_key,
        },
    )
    record_stages(context, model.trained.run_key, times, started)
    run_card = _report(request, found, model, registered, times)
    fetch(context.store, model.shipped, context.settings.cache_path)  # what is handed out is whole, also if it was made long ago
    result = RunResult(
        model=registered.name,
        version=registered.version,
        aliases=list(registered.aliases),
        decision=registered.reason,
        algorithm=algorithm.name,
        dataset=found.data.digest,
        metrics=read_json(context, model.shipped, "package.json")["metrics"],
        baseline_metrics=read_json(context, model.evaluation, "metrics.json"),
        trials=trials_in_words(model.tuned) if model.tuned else None,
        compression=read_json(context, model.compressed.table, TABLE_FILE) if model.compressed and model.compressed.table else None,
        advice=[one.model_dump(mode="json") for one in model.explained.advice],
        profile=read_json(context, model.trained.artifact, "history.json").get("profile") if request.profile else None,
        package=where(context, model.shipped),
        run_card=where(context, run_card) + "/index.html",
        stages=times,
        seconds=round(time.monotonic() - begin, 3),
    )
    context.store.write_bytes(f"runs/{model.trained.run_key}/result.json", json.dumps(result.model_dump(mode="json"), indent=2).encode())
    summary = result.model_dump(include={"model", "version", "decision", "algorithm", "dataset", "package", "run_card", "seconds"})
    show_result(found.name, summary, result.metrics, result.baseline_metrics, result.run_card)
    return result


def get_data(request: RunRequest, algorithm: Algorithm, config: Config, times: list[StageTime], context: StageContext) -> _Data:
    """Imported, judged and, where that was asked for, expanded."""
    options = config.model_dump(mode="json")
    source = _import(request, algorithm, options, times, context)
    check_data(request, algorithm, config, open_dataset(context.store, source, context.settings.cache_path).card)
    name = request.name or default_name(source.name or request.data).lower()
    checked = run_stage(
        validate_stage,
        times,
        data=source,
        algorithm=algorithm.name,
        options=options,
        on_invalid=request.on_invalid,
        max_invalid_share=request.max_invalid_share,
        suite=request.suite,
    )
    _tell_broken(checked, context)
    for warning in checked.warnings[:10]:
        context.report({"kind": "log", "message": f"warning: {warning}"})
    card = open_dataset(context.store, checked.data, context.settings.cache_path).card
    show_data(name, card, checked.num_invalid, where(context, checked.report))
    check_slots(request, algorithm, context)
    for left_out in check_data(request, algorithm, config, card):  # again: what was set aside is missing now
        context.report({"kind": "log", "message": f"compress: {left_out}"})
    return _Data(name, source, checked, _augment(request, algorithm, config, checked.data, times, context))


def _make_model(
    request: RunRequest, algorithm: Algorithm, options: dict[str, Any], found: _Data, times: list[StageTime], context: StageContext
) -> _Model:
    """The best options, a trained model, the package that ships, and a closer look at it."""
    data, name = found.data, found.name
    context.also_report(show_progress(name, context.report))
    search, tuned = request.tune_settings(algorithm), None
    if search is not None:
        tuned = run_stage(tune_stage, times, algorithm=algorithm.name, config=options, data=data, settings=search, code=digests(options))
        options = tuned.config
    gallery = _gallery(name, algorithm, options, data, context)
    trained = run_stage(train_stage, times, algorithm=algorithm.name, config=options, data=data, name=name, code=digests(options))
    common: dict[str, Any] = {"algorithm": algorithm.name, "config": options, "data": data, "trained": trained}
    evaluation = run_stage(evaluate_stage, times, **common)
    packaged = run_stage(package_stage, times, **common, lineage=_lineage(request, found.source.digest, data.digest))
    compressed = _compress(request, common, packaged, times)
    shipped = packaged if compressed is None else compressed.package
    explained = run_stage(explain_stage, times, **common, evaluation=evaluation, package=shipped, validation=found.checked.report)
    card_key = f"runs/{trained.run_key}/card-{name}" + ("" if shipped == packaged else f"-{shipped.digest[:12]}")
    return _Model(options, trained, evaluation, shipped, explained, tuned, compressed, gallery, card_key)


def _report(request: RunRequest, found: _Data, model: _Model, registered: Registered, times: list[StageTime]) -> Artifact:
    """The run card."""
    return run_stage(
        report_stage,
        times,
        key=model.card_key,
        request=request.model_dump(mode="json", exclude={"fresh", "workers", "backend", "profile", "timeline"}),
        source=found.source,
        checked=found.checked,
        data=found.data,
        trained=model.trained,
        evaluation=model.evaluation,
        package=model.shipped,
        registered=registered,
        config=model.options,
        extras=CardExtras(
            study=model.tuned.artifact if model.tuned else None,
            compression=model.compressed.table if model.compressed else None,
            gallery=model.gallery,
            explained=model.explained.artifact,
        ),
    )


def _tell_broken(checked: Validated, context: StageContext) -> None:
    """The first of the samples that were set aside, and where all are listed."""
    if not checked.num_invalid:
        return
    broken = read_json(context, checked.report, QUARANTINED)
    for one in broken[:5]:
        context.report({"kind": "log", "message": f"set aside: {one['id']}: {'; '.join(one['reasons'])}"})
    context.report(
        {"kind": "log", "message": f"{checked.num_invalid} set aside; all are in {where(context, checked.report)}/{QUARANTINED}"}
    )


def _augment(
    request: RunRequest, algorithm: Algorithm, config: Config, data: DatasetRef, times: list[StageTime], context: StageContext
) -> DatasetRef:
    """The version with more training samples, where that was asked for."""
    policy, options = version_policy(request, algorithm, config), config.model_dump(mode="json")
    if policy is None:
        return data
    made = run_stage(
        augment_stage,
        times,
        data=data,
        policy=policy,
        balance=request.balance,
        expand=request.expand,
        seed=int(options["seed"]),
        no_flip=list(options.get("no_flip", ())),
    )
    told = policy if isinstance(policy, str) else ", ".join(step["name"] for step in policy)
    context.report({"kind": "log", "message": f"{sum(made.added.values()):,} training samples added by {told}"})
    return made.data


def _gallery(name: str, algorithm: Algorithm, options: dict[str, Any], data: DatasetRef, context: StageContext) -> Artifact | None:
    """Training pictures before and after augmentation, in the store and on Prefect's page."""
    shown = training_gallery(algorithm.name, options, data, context=context)
    if shown is not None:
        show_gallery_page(name, read_json(context, shown, GALLERY))
    return shown


def _compress(request: RunRequest, common: dict[str, Any], packaged: Artifact, times: list[StageTime]) -> Compressed | None:
    """What ships instead of the fp32 package, where that was asked for."""
    if request.compress == "none":
        return None
    return run_stage(compress_stage, times, **common, package=packaged, settings=request.compress_settings)


def _import(
    request: RunRequest, algorithm: Algorithm, options: dict[str, Any], times: list[StageTime], context: StageContext
) -> DatasetRef:
    """The data as a version, while the cluster starts."""
    split: dict[str, Any] = {
        "target": options.get("target"),
        "regression": algorithm.task.endswith("regression"),
        "ratios": request.ratios,
        "split_seed": request.split_seed,
        "mend": request.on_invalid == "repair",
    }
    fingerprint = source_key(request.data, **split, context=context)
    context.start_cluster()
    name = default_name(request.data)
    return run_stage(import_stage, times, source=request.data, fingerprint=fingerprint, name=name, kind=algorithm.modality, **split)


def _register(context: StageContext, times: list[StageTime], registration: dict[str, Any]) -> Registered:
    """The version as it is now: people move aliases and delete versions, which a cached stage does not know."""
    registered = run_stage(register_stage, times, **registration)
    if (now := current_state(registered, registration["package"], context)) is not None:
        return now
    times.pop()  # deleted since
    return run_stage(register_stage, times, again=True, **registration)


def where(context: StageContext, artifact: Artifact) -> str:
    """The artifact's folder, as a person or another program finds it."""
    path = context.store.local_path(artifact.key)
    return str(path) if path is not None else f"{context.store.uri}/{artifact.key}"


@embedded_flow(name="pipeline")
def pipeline(
    algorithm: str,
    data: str,
    name: str = "",
    workers: int | str = 1,
    options: dict[str, Any] | None = None,
    on_invalid: str = "quarantine",
    max_invalid_share: float = 0.05,
    suite: dict[str, Any] | None = None,
    ratios: tuple[float, float, float] = (0.7, 0.15, 0.15),
    split_seed: int = 0,
    min_gain: float = 0.001,
    balance: bool = False,
    expand: int = 1,
    trials: int | None = None,
    time_limit: float | None = None,
    sampler: Sampler = "tpe",
    pruner: Pruner = "auto",
    objectives: tuple[Objective, ...] = ("metric",),
    space: dict[str, Any] | None = None,
    compress: Mode = "none",
    max_accuracy_loss: float = 0.01,
    max_latency_ms: float | None = None,
    max_size_mb: float | None = None,
    strict_budget: bool = False,
    profile: bool = False,
    timeline: str = "",
    fresh: bool = False,
    backend: Backend | None = None,
) -> RunResult:
    """Labelled data to a proven, registered model.

    Args:
        algorithm: A preset's name, such as image-classification/resnet18; `atelier algorithms` lists them.
        data: A path, a URI, or the name or digest of a data set version.
        name: The model's name in the registry; empty: the data's name.
        workers: Ranks of a distributed training, one slot of the cluster each: N, or MIN:MAX for as many as there are.
        options: Options of the algorithm, such as {"epochs": 20}; for tables {"target": "label"} is required.
        on_invalid: What to do with broken samples: quarantine (set them aside), repair (mend what can be mended first) or fail.
        max_invalid_share: Largest share of samples that may be set aside, 0 to 1.
        suite: A Great Expectations suite of your own, checked beside the algorithm's.
        ratios: Shares of train, valid and test, where the data has no splits of its own.
        split_seed: Seed of the split.
        min_gain: How much better than the champion, in the main metric, a model must be to replace it.
        balance: Fill every class of the training split up to the size of the largest, by augmentation.
        expand: Times as many training samples, by augmentation, as a data set of their own.
        trials: Trials of a search for better options; none: no search.
        time_limit: Seconds after which no trial of the search is started; at least one completes.
        sampler: How trials are chosen: tpe, random, grid, gp, cmaes or nsga2.
        pruner: How hopeless trials are stopped: quartile, median, hyperband, none, or auto.
        objectives: metric, and besides latency or size: the smallest or fastest model of nearly the best metric.
        space: Ranges by option, in place of the preset's own search space.
        compress: none, prune, quantize, distill, or auto: the best of all that fits the budget.
        max_accuracy_loss: Budget of compression: largest loss of accuracy, or growth of the RMSE as a share of it.
        max_latency_ms: Budget of compression: largest latency of one sample on this host, ms.
        max_size_mb: Budget of compression: largest size of the model, MB.
        strict_budget: Fail if no compressed model fits the budget, instead of shipping fp32.
        profile: Tell in the result where the time of a training step goes (networks only).
        timeline: Local file for Horovod's timeline of the training, which chrome://tracing opens.
        fresh: Do every stage again, also those done before.
        backend: How ranks talk: auto, horovod or torch; none: as ATELIER_BACKEND says.

    Returns:
        The model version, its metrics, and where package and run card lie.

    Raises:
        InputError: what was asked for cannot be done as it is; nothing was registered.
        AtelierError: the run failed; the same call goes on where it stopped.
    """
    request = make_request(
        algorithm=algorithm,
        data=data,
        name=name,
        workers=workers,
        options=options or {},
        on_invalid=on_invalid,
        max_invalid_share=max_invalid_share,
        suite=suite,
        ratios=ratios,
        split_seed=split_seed,
        min_gain=min_gain,
        balance=balance,
        expand=expand,
        trials=trials,
        time_limit=time_limit,
        sampler=sampler,
        pruner=pruner,
        objectives=objectives,
        space=space,
        compress=compress,
        max_accuracy_loss=max_accuracy_loss,
        max_latency_ms=max_latency_ms,
        max_size_mb=max_size_mb,
        strict_budget=strict_budget,
        profile=profile,
        timeline=timeline,
        fresh=fresh,
        backend=backend,
    )
    with (
        open_context(workers=request.workers, backend=request.backend, fresh=request.fresh, timeline=request.timeline) as context,
        stage_context(context),
    ):
        return run_pipeline(request, context)
