"""``compress``: a registered model made smaller and faster, as a new version of it."""

from __future__ import annotations

import json
import time
from typing import Any, Literal, NamedTuple

from prefect.artifacts import create_markdown_artifact, create_table_artifact
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from algorithms.catalog import find_algorithm
from algorithms.compression.recipes import Mode
from flows.artifacts import artifact_key
from flows.embedded import embedded_flow, open_context
from flows.request import explain
from flows.stages import StageTime, run_stage, stage_context
from flows.training import compress_stage, package_stage, where
from infra.artifacts import find, read_file
from infra.context import StageContext
from infra.datasets import names
from infra.datasets.card import DatasetRef
from infra.datasets.dataset import open_dataset
from infra.errors import InvalidOptionError
from infra.registry import ModelVersion, Registry
from tasks.compress import TABLE_FILE, CompressSettings, check_compression
from tasks.package import read_json
from tasks.register import Registered, enlist_compressed
from tasks.train import Trained


class CompressResult(BaseModel):
    """What a compression ends with."""

    model_config = ConfigDict(frozen=True)

    model: str
    source: int = Field(description="The version that it started from.")
    version: int | None = Field(description="The new version; none: nothing smaller is within the budget.")
    aliases: list[str] = []
    chosen: str = Field(description="Name of the recipe; fp32: the model as it was.")
    reason: str
    compression: dict[str, Any] = Field(description="What was tried, with metric, size and latency before and after.")
    package: str = Field(description="Where the new version's package lies; empty without one.")
    stages: list[StageTime]
    seconds: float


class _Source(NamedTuple):
    """What a version was made from."""

    config: dict[str, Any]
    data: DatasetRef
    trained: Trained
    lineage: dict[str, Any]


@embedded_flow(name="compress")
def compress(
    model: str,
    mode: Mode = "auto",
    max_accuracy_loss: float = 0.01,
    max_latency_ms: float | None = None,
    max_size_mb: float | None = None,
    strict_budget: bool = False,
    promotion: Literal["champion", "challenger", "none"] = "challenger",
    workers: int = 1,
    fresh: bool = False,
) -> CompressResult:
    """Make a registered version smaller and faster, and register the result as the next version of the model.

    Args:
        model: NAME (its champion), NAME@ALIAS or NAME/VERSION; trained in this workspace.
        mode: prune, quantize, distill, or auto: the best of all that fits the budget.
        max_accuracy_loss: Largest loss of accuracy on the valid split, or growth of the RMSE as a share of it.
        max_latency_ms: Largest latency of one sample on this host, ms.
        max_size_mb: Largest size of the model, MB.
        strict_budget: Fail if no compressed model fits the budget, instead of registering none.
        promotion: What the new version becomes: challenger (a canary has the last word), champion at once, or none.
        workers: Ranks of a distributed training, where a recipe trains on.
        fresh: Make every candidate again.

    Returns:
        The new version, and everything that was measured.

    Raises:
        ModelNotFoundError: no such version.
        InvalidOptionError: it was not trained in this workspace, what it was trained from is gone, or there is nothing to try.
        BudgetNotMetError: strict_budget, and nothing fits.
    """
    begin = time.monotonic()
    settings = _settings(
        mode=mode,
        max_accuracy_loss=max_accuracy_loss,
        max_latency_ms=max_latency_ms,
        max_size_mb=max_size_mb,
        strict=strict_budget,
    )
    times: list[StageTime] = []
    with open_context(workers=workers, fresh=fresh) as context, stage_context(context):
        version = Registry(context.settings, context.store).get(model)
        source = _source(version, context)
        common: dict[str, Any] = {
            "algorithm": version.algorithm,
            "config": source.config,
            "data": source.data,
            "trained": source.trained,
        }
        preset = find_algorithm(version.algorithm)
        rows = open_dataset(context.store, source.data, context.settings.cache_path).card.num_rows
        if left_out := check_compression(preset, preset.config(source.config), settings, rows):
            context.report({"kind": "log", "message": f"compress: {left_out}"})
        packaged = run_stage(package_stage, times, **common, lineage=source.lineage)
        found = run_stage(compress_stage, times, **common, package=packaged, settings=settings)
        assert found.table is not None, "mode none was refused"
        registered: Registered | None = None
        if found.package != packaged:
            registered = enlist_compressed(
                found.package, source=version, chosen=found.chosen, reason=found.reason, promotion=promotion, context=context
            )
        result = CompressResult(
            model=version.name,
            source=version.version,
            version=registered.version if registered else None,
            aliases=registered.aliases if registered else [],
            chosen=found.chosen,
            reason=found.reason,
            compression=read_json(context, found.table, TABLE_FILE),
            package=where(context, found.package) if registered else "",
            stages=times,
            seconds=round(time.monotonic() - begin, 3),
        )
        _show(result)
    return result


def _settings(**values: Any) -> CompressSettings:
    """Raises:
    InvalidOptionError: all faults at once.
    """
    try:
        settings = CompressSettings(**values)
    except ValidationError as error:
        raise InvalidOptionError("compress", explain(error, list(CompressSettings.model_fields))) from None
    if settings.mode == "none":
        raise InvalidOptionError("compress", ["mode: none does nothing; take prune, quantize, distill or auto"])
    return settings


def _source(version: ModelVersion, context: StageContext) -> _Source:
    """What the version was trained from, out of its package and the run that made it.

    Raises:
        InvalidOptionError: it was imported, or its run is gone.
    """
    description = read_json(context, version.package, "package.json")
    lineage = dict(description["lineage"])
    key = str(lineage.pop("run_key", ""))
    artifact = find(context.store, f"runs/{key}/trained") if key else None
    if artifact is None:
        problem = "what was trained is not in this workspace: the version was imported, or its run was removed"
        raise InvalidOptionError(f"compressing {version.ref}", [problem], "Train it here, with `atelier run ... --compress`.")
    world_size = json.loads(read_file(context.store, artifact, "history.json")).get("world_size", 1)
    fields = find_algorithm(version.algorithm).config_type.model_fields
    return _Source(
        config={name: value for name, value in description["config"].items() if name in fields},
        data=names.resolve(context.store, version.dataset),
        trained=Trained(artifact=artifact, run_key=key, run_id=version.run_id, world_size=world_size),
        lineage=lineage,
    )


def _show(result: CompressResult) -> None:
    """The decision and all candidates in Prefect's UI."""
    told = "nothing smaller" if result.version is None else f"version {result.version} is {result.chosen}"
    create_markdown_artifact(
        markdown=f"# {result.model}/{result.source}: {told}\n\n{result.reason}", key=artifact_key(result.model, "compress")
    )
    rows = [
        {
            "recipe": row["name"],
            "what": row.get("failure") or row["done"],
            result.compression["metric"]: row["metric"],
            "MB": round((row["size_bytes"] or 0) / 1e6, 4),
            "ms": (row["speed"].get("1") or {}).get("p50_ms"),
        }
        for row in result.compression["rows"]
    ]
    create_table_artifact(table=rows, key=artifact_key(result.model, "candidates"), description=result.reason)
