"""The main flow: data in, a proven and registered model out. Order and decisions only; the work is in ``tasks/``."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from algorithms.spec import Algorithm
from algorithms.user_code import digests
from flows.artifacts import show_data, show_progress, show_result
from flows.embedded import embedded_flow, open_context
from flows.request import RunRequest, check_request, make_request
from flows.stages import StageTime, record_stages, run_stage, stage, stage_context
from infra.artifacts import Artifact, fetch
from infra.context import StageContext
from infra.datasets.card import DatasetRef
from infra.datasets.dataset import open_dataset
from tasks.evaluate import evaluate
from tasks.import_data import import_data, source_key
from tasks.ingest import default_name
from tasks.package import package, read_json
from tasks.register import Registered, current_state, register
from tasks.report import write_card
from tasks.train import train
from tasks.validate import validate

import_stage = stage(import_data, name="import")
validate_stage = stage(validate)
train_stage = stage(train)
evaluate_stage = stage(evaluate)
package_stage = stage(package)
register_stage = stage(register)
report_stage = stage(write_card, name="report")


class RunResult(BaseModel):
    """What a run ends with: a model version, how good it is, and where everything lies."""

    model_config = ConfigDict(frozen=True)

    model: str
    version: int
    aliases: list[str]
    decision: str = Field(description="Why it became champion, or did not.")
    algorithm: str
    dataset: str = Field(description="Digest of the data it was trained on, after quarantine.")
    metrics: dict[str, Any] = Field(description="Of the shipped package on the test split.")
    baseline_metrics: dict[str, Any] = Field(description="Of the trained model before export, same split.")
    package: str = Field(description="Where the package lies.")
    run_card: str = Field(description="Where the run card lies.")
    stages: list[StageTime]
    seconds: float


def _lineage(request: RunRequest, source: str, clean: str) -> dict[str, Any]:
    return {"dataset": clean, "source_dataset": source, "source": request.data, "algorithm": request.algorithm}


def run_pipeline(request: RunRequest, context: StageContext) -> RunResult:
    """Every stage in order; each is taken from an earlier run where its inputs are the same."""
    begin = time.monotonic()
    started = datetime.now(UTC).isoformat(timespec="seconds")
    algorithm, config = check_request(request, context.settings, context.store)
    options = config.model_dump(mode="json")
    times: list[StageTime] = []
    source = _import(request, algorithm, options, times, context)
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
    for warning in checked.warnings[:10]:
        context.report({"kind": "log", "message": f"warning: {warning}"})
    data = checked.data
    card = open_dataset(context.store, data, context.settings.cache_path).card
    show_data(name, card, checked.num_invalid, _where(context, checked.report))
    context.also_report(show_progress(name, context.report))
    trained = run_stage(train_stage, times, algorithm=algorithm.name, config=options, data=data, name=name, code=digests(options))
    common: dict[str, Any] = {"algorithm": algorithm.name, "config": options, "data": data, "trained": trained}
    evaluation = run_stage(evaluate_stage, times, **common)
    # Tuning goes before train, augmentation beside validate, compression here between evaluate and package.
    packaged = run_stage(package_stage, times, **common, lineage=_lineage(request, source.digest, data.digest))
    card_key = f"runs/{trained.run_key}/card-{name}"
    registered = _register(
        context,
        times,
        package=packaged,
        name=name,
        algorithm=algorithm.name,
        data=data,
        run_id=trained.run_id,
        min_gain=request.min_gain,
        run_card_key=card_key,
    )
    record_stages(context, trained.run_key, times, started)
    run_card = run_stage(
        report_stage,
        times,
        key=card_key,
        request=request.model_dump(mode="json", exclude={"fresh", "workers"}),
        source=source,
        checked=checked,
        trained=trained,
        evaluation=evaluation,
        package=packaged,
        registered=registered,
        config=options,
    )
    fetch(context.store, packaged, context.settings.cache_path)  # what is handed out is whole, also if it was made long ago
    result = RunResult(
        model=registered.name,
        version=registered.version,
        aliases=list(registered.aliases),
        decision=registered.reason,
        algorithm=algorithm.name,
        dataset=data.digest,
        metrics=read_json(context, packaged, "package.json")["metrics"],
        baseline_metrics=read_json(context, evaluation, "metrics.json"),
        package=_where(context, packaged),
        run_card=_where(context, run_card) + "/index.html",
        stages=times,
        seconds=round(time.monotonic() - begin, 3),
    )
    context.store.write_bytes(f"runs/{trained.run_key}/result.json", json.dumps(result.model_dump(mode="json"), indent=2).encode())
    summary = result.model_dump(include={"model", "version", "decision", "algorithm", "dataset", "package", "run_card", "seconds"})
    show_result(name, summary, result.metrics, result.baseline_metrics, result.run_card)
    return result


def _import(
    request: RunRequest, algorithm: Algorithm, options: dict[str, Any], times: list[StageTime], context: StageContext
) -> DatasetRef:
    """The data as a version, while the cluster starts."""
    split: dict[str, Any] = {
        "target": options.get("target"),
        "regression": algorithm.task.endswith("regression"),
        "ratios": request.ratios,
        "split_seed": request.split_seed,
    }
    fingerprint = source_key(request.data, **split, context=context)
    context.start_cluster()
    name = default_name(request.data)
    return run_stage(import_stage, times, source=request.data, fingerprint=fingerprint, name=name, kind=algorithm.modality, **split)


def _register(context: StageContext, times: list[StageTime], **registration: Any) -> Registered:
    """The version as it is now: people move aliases and delete versions, which a cached stage does not know."""
    registered = run_stage(register_stage, times, **registration)
    if (now := current_state(registered, context)) is not None:
        return now
    times.pop()  # deleted since
    return run_stage(register_stage, times, again=True, **registration)


def _where(context: StageContext, artifact: Artifact) -> str:
    """The artifact's folder, as a person or another program finds it."""
    path = context.store.local_path(artifact.key)
    return str(path) if path is not None else f"{context.store.uri}/{artifact.key}"


@embedded_flow(name="pipeline")
def pipeline(
    algorithm: str,
    data: str,
    name: str = "",
    workers: int = 1,
    options: dict[str, Any] | None = None,
    on_invalid: str = "quarantine",
    max_invalid_share: float = 0.05,
    suite: dict[str, Any] | None = None,
    ratios: tuple[float, float, float] = (0.7, 0.15, 0.15),
    split_seed: int = 0,
    min_gain: float = 0.001,
    fresh: bool = False,
) -> RunResult:
    """Labelled data to a proven, registered model.

    Args:
        algorithm: A preset's name, such as image-classification/resnet18; `atelier algorithms` lists them.
        data: A path, a URI, or the name or digest of a data set version.
        name: The model's name in the registry; empty: the data's name.
        workers: Ranks of a distributed training, one slot of the cluster each.
        options: Options of the algorithm, such as {"epochs": 20}; for tables {"target": "label"} is required.
        on_invalid: What to do with broken samples: quarantine (set them aside) or fail.
        max_invalid_share: Largest share of samples that may be set aside, 0 to 1.
        suite: A Great Expectations suite of your own, checked beside the algorithm's.
        ratios: Shares of train, valid and test, where the data has no splits of its own.
        split_seed: Seed of the split.
        min_gain: How much better than the champion, in the main metric, a model must be to replace it.
        fresh: Do every stage again, also those done before.

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
        fresh=fresh,
    )
    with open_context(workers=request.workers, fresh=request.fresh) as context, stage_context(context):
        return run_pipeline(request, context)
