"""Report: the run card, one HTML page that tells how a model came to be; beside it the same as JSON."""

from __future__ import annotations

import json
import shlex
import tempfile
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from algorithms.catalog import find_algorithm
from infra.artifacts import Artifact, publish
from infra.context import StageContext
from infra.datasets.card import DatasetRef
from tasks._card.model import CardData, StageRow
from tasks.register import Registered
from tasks.train import Trained
from tasks.validate import Validated

PAGE, SUMMARY = "index.html", "run.json"


class CardExtras(BaseModel):
    """What some runs have besides."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    study: Artifact | None = Field(default=None, description="study.json of tasks.tune.")
    compression: Artifact | None = Field(default=None, description="compression.json of tasks.compress.")
    gallery: Artifact | None = Field(default=None, description="gallery.json of tasks.augment.")
    explained: Artifact | None = Field(default=None, description="explain.json of tasks.explain.")


class RunCardInputs(BaseModel):
    """Everything that a run card is made from: values and handles, no data."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_key: str
    key: str = Field(default="", description="Where the card is published; empty: runs/<run_key>/card.")
    model: str
    version: int | None = None
    decision: str = Field(default="", description="champion or challenger.")
    reason: str = ""
    algorithm: str
    config: dict[str, Any] = Field(default_factory=dict, description="All options of the algorithm, or those that were given.")
    data: DatasetRef = Field(description="What was trained on.")
    source_data: DatasetRef = Field(description="As it was imported.")
    validation: Artifact | None = None
    trained: Artifact
    evaluation: Artifact
    package: Artifact
    stages: list[StageRow] = Field(default_factory=list)
    command: str = Field(default="", description="Makes the same model again.")
    started: str = Field(default="", description="ISO 8601.")
    environment: dict[str, str] = Field(default_factory=dict)
    extras: CardExtras = CardExtras()


def report(inputs: RunCardInputs, *, context: StageContext) -> Artifact:
    """Publish the run card: ``index.html`` and ``run.json``.

    Raises:
        ArtifactNotFoundError, CorruptArtifactError: something that the card tells about is missing or damaged.
    """
    from tasks._card.render import render_card

    data = gather(inputs, context=context)
    with tempfile.TemporaryDirectory(prefix="atelier-card-") as scratch:
        folder = Path(scratch)
        (folder / PAGE).write_text(render_card(data), encoding="utf-8")
        (folder / SUMMARY).write_text(json.dumps(_summary(data), indent=2, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")
        return publish(context.store, folder, _key(inputs), kind="run-card")


def _key(inputs: RunCardInputs) -> str:
    return inputs.key or f"runs/{inputs.run_key}/card"


def gather(inputs: RunCardInputs, *, context: StageContext) -> CardData:
    """What the card shows, read from the store."""
    from algorithms.metrics import primary_metric
    from infra.datasets.dataset import open_dataset
    from tasks._card import gather as parts
    from tasks._card.extras import extra_sections

    store = context.store
    algorithm = find_algorithm(inputs.algorithm)
    dataset = open_dataset(store, inputs.data, context.settings.cache_path)
    validation = parts.ArtifactFiles(store, inputs.validation) if inputs.validation else None
    package = parts.ArtifactFiles(store, inputs.package)
    description = package.json("package.json")
    evaluation, strip = parts.evaluation_part(parts.ArtifactFiles(store, inputs.evaluation), description, dataset)
    metric, higher_is_better = primary_metric(algorithm.task)
    seconds = next((stage.seconds for stage in inputs.stages if stage.name == "train" and stage.state == "completed"), None)
    seed = {"seed": str(inputs.config["seed"])} if "seed" in inputs.config else {}
    return CardData(
        run_key=inputs.run_key,
        evaluation_key=inputs.evaluation.key,
        explanation_key=inputs.extras.explained.key if inputs.extras.explained else "",
        model=inputs.model,
        version=inputs.version,
        decision=inputs.decision,
        reason=inputs.reason,
        algorithm=inputs.algorithm,
        summary=algorithm.summary,
        metric=metric,
        higher_is_better=higher_is_better,
        started=inputs.started,
        data=parts.data_part(store, dataset, inputs.source_data, validation).model_copy(update={"pictures": strip}),
        validation=parts.validation_part(validation, inputs.validation, _key(inputs)) if validation and inputs.validation else None,
        training=parts.training_part(parts.ArtifactFiles(store, inputs.trained), algorithm, inputs.config, seconds),
        evaluation=evaluation,
        package=parts.package_part(package, inputs.package, description),
        environment={**inputs.environment, **seed},
        stages=inputs.stages,
        command=inputs.command,
        sections=extra_sections(store, inputs.extras, inputs.validation, inputs.trained),
    )


def _summary(data: CardData) -> dict[str, Any]:
    """The card as JSON, without its pictures and points: those are in the stages' own artifacts."""
    return data.model_dump(mode="json", exclude={"data": {"pictures"}, "evaluation": {"mistakes", "points"}, "sections": True})


def write_card(
    key: str,
    request: dict[str, Any],
    source: DatasetRef,
    checked: Validated,
    data: DatasetRef,
    trained: Trained,
    evaluation: Artifact,
    package: Artifact,
    registered: Registered,
    config: dict[str, Any],
    extras: CardExtras | None = None,
    *,
    context: StageContext,
) -> Artifact:
    """The run card of a pipeline's run, published at ``key``.

    Args:
        request: what was asked for (``flows.request.RunRequest``), as JSON.
        data: what was trained on.
        config: all options of the algorithm.
    """
    from tasks._card.environment import describe_environment

    noted = _noted_stages(trained.run_key, context)
    inputs = RunCardInputs(
        run_key=trained.run_key,
        key=key,
        model=registered.name,
        version=registered.version,
        decision=registered.decision,
        reason=registered.reason,
        algorithm=request["algorithm"],
        config=config,
        data=data,
        source_data=source,
        validation=checked.report,
        trained=trained.artifact,
        evaluation=evaluation,
        package=package,
        stages=[StageRow(name=one["name"], state=one["state"], seconds=one["seconds"]) for one in noted.get("stages", {}).values()],
        command=command_line(request, trained.world_size),
        started=noted.get("started", ""),
        environment=describe_environment(),
        extras=extras or CardExtras(),
    )
    return report(inputs, context=context)


def _noted_stages(run_key: str, context: StageContext) -> dict[str, Any]:
    """What the flow noted about its stages beside the run; nothing if the stages were called by hand."""
    key = f"runs/{run_key}/stages.json"
    found: dict[str, Any] = json.loads(context.store.read_bytes(key)) if context.store.exists(key) else {}
    return found


_SWITCHES = {"balance": "--balance", "strict_budget": "--strict-budget"}
_FLAGS = {
    "name": "--name",
    "on_invalid": "--on-invalid",
    "max_invalid_share": "--max-invalid-share",
    "split_seed": "--split-seed",
    "min_gain": "--min-gain",
    "expand": "--expand",
    "trials": "--trials",
    "time_limit": "--time-limit",
    "sampler": "--sampler",
    "pruner": "--pruner",
    "compress": "--compress",
    "max_accuracy_loss": "--max-accuracy-loss",
    "max_latency_ms": "--max-latency-ms",
    "max_size_mb": "--max-size-mb",
}
_DEFAULTS = {
    "name": "",
    "on_invalid": "quarantine",
    "max_invalid_share": 0.05,
    "split_seed": 0,
    "min_gain": 0.001,
    "expand": 1,
    "sampler": "tpe",
    "pruner": "auto",
    "compress": "none",
    "max_accuracy_loss": 0.01,
}


def command_line(request: dict[str, Any], num_workers: int) -> str:
    """The ``atelier run`` command that asks for the same; what has its default is left out."""
    words = ["atelier", "run", request["algorithm"], "--data", request["data"]]
    for field, flag in _FLAGS.items():
        default = _DEFAULTS.get(field)
        if (value := request.get(field, default)) != default:
            words += [flag, str(value)]
    words += [flag for field, flag in _SWITCHES.items() if request.get(field)]
    words += [word for name in list(request.get("objectives") or ())[1:] for word in ("--objective", name)]
    if request.get("space"):
        words += ["--space", "SPACE.json"]
    ratios = list(request.get("ratios") or (0.7, 0.15, 0.15))
    if ratios != [0.7, 0.15, 0.15]:
        words += ["--splits", "/".join(f"{ratio * 100:g}" for ratio in ratios)]
    if request.get("suite"):
        words += ["--suite", "SUITE.json"]
    if num_workers > 1:
        words += ["--workers", str(num_workers)]
    for option, value in (request.get("options") or {}).items():
        words += ["--set", f"{option}={value if isinstance(value, str) else json.dumps(value)}"]
    return shlex.join(words)
