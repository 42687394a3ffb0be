"""Compress: try recipes, judge each on the validation split, measure all on this host, ship the best that fits the budget."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from algorithms.catalog import find_algorithm
from algorithms.compression.beforehand import compression_fault, uncalibrated
from algorithms.compression.choosing import Budget, Choice, Row, Speed, choose, uncertainty, worst_loss
from algorithms.compression.recipes import BASELINE, Mode, Recipe, Search, next_recipes
from algorithms.metrics import primary_metric
from algorithms.run import RunSpec
from algorithms.spec import Algorithm, Config
from algorithms.trial import rank_modules, verb_modules
from infra.artifacts import Artifact, find, publish
from infra.context import StageContext
from infra.datasets.card import DatasetRef
from infra.datasets.dataset import open_dataset
from infra.errors import (
    BudgetNotMetError,
    CompressionError,
    InvalidOptionError,
    OutOfMemoryError,
    ParityError,
    RankFailedError,
    TrainingDivergedError,
)
from infra.keys import content_key
from infra.processor import processor_name
from tasks.package import read_json
from tasks.train import Trained, alone
from tasks.verbs import run_verb

TABLE_FILE = "compression.json"
_RESULT_FILE = "candidate.json"


class CompressSettings(BaseModel):
    """What is tried, and what a shipped model may cost."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: Mode = Field(
        default="none", description="none, prune, quantize, distill, or auto: all of them and their combinations, the best is kept."
    )
    max_accuracy_loss: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description="Largest loss against fp32 on the validation split: of accuracy, or the growth of the RMSE as a share of it.",
    )
    max_latency_ms: float | None = Field(
        default=None, gt=0, allow_inf_nan=False, description="Largest median latency of one sample on this host, ms."
    )
    max_size_mb: float | None = Field(
        default=None, gt=0, allow_inf_nan=False, description="Largest size of model.onnx, MB (a million bytes)."
    )
    strict: bool = Field(default=False, description="Fail if no compressed model is within the budget, instead of shipping fp32.")

    @property
    def budget(self) -> Budget:
        return Budget(max_accuracy_loss=self.max_accuracy_loss, max_latency_ms=self.max_latency_ms, max_size_mb=self.max_size_mb)


class Compressed(BaseModel):
    """What is shipped, and why."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    package: Artifact = Field(description="The package to register: a compressed one, or the fp32 one that came.")
    chosen: str = Field(description="Name of the recipe; fp32 if nothing better fits.")
    reason: str
    table: Artifact | None = Field(description="compression.json: everything that was measured. None for mode none.")


def compress(
    algorithm: str,
    config: dict[str, Any],
    data: DatasetRef,
    trained: Trained,
    package: Artifact,
    settings: CompressSettings,
    *,
    context: StageContext,
) -> Compressed:
    """Make a model smaller and faster, if that is worth it on this host.

    Every candidate is an artifact under the key of what it is made from, so a search that was killed makes none a second time; its
    latencies are measured once, together. Lineage and the user's own code come with ``trained`` and ``package``.

    Args:
        package: the fp32 package of ``trained``.

    Raises:
        InvalidOptionError: see ``check_compression``.
        BudgetNotMetError: ``settings.strict``, and no compressed model is within the budget; the table is there nevertheless.
    """
    if settings.mode == "none":
        return Compressed(package=package, chosen=BASELINE.name, reason="fp32: compression was not asked for", table=None)
    search = _Search(algorithm, config, data, trained, package, settings, context)
    with alone(trained.run_key, context):
        table = search.table()
    content = read_json(context, table, TABLE_FILE)
    if settings.strict and not content["met"]:
        where = f"{context.store.uri}/{table.key}/{TABLE_FILE}"
        raise BudgetNotMetError(_in_words(settings), content["reason"], where)
    return Compressed(package=Artifact(**content["package"]), chosen=content["chosen"], reason=content["reason"], table=table)


def check_compression(algorithm: Algorithm, config: Config, settings: CompressSettings, num_rows: Mapping[str, int]) -> str:
    """Refuse a compression that cannot come to anything, before a model is trained for it; what will be left out, in words.

    Args:
        num_rows: samples by split, as the model is going to learn from them.

    Raises:
        InvalidOptionError: there is nothing to measure it on, too little to calibrate with, or nothing to try and `strict`.
    """
    if settings.mode == "none":
        return ""
    search = _search(algorithm, config, settings)
    fault = compression_fault(search, num_rows, strict=settings.strict)
    if fault is not None:
        raise InvalidOptionError("the compression", [fault[0]], fault[1])
    num_train = num_rows.get("train", 0)
    return f"{num_train} training samples are too few to calibrate int8, which is left out" if uncalibrated(search, num_train) else ""


def _search(algorithm: Algorithm, config: Config, settings: CompressSettings) -> Search:
    can = algorithm.engine.compressible(config)
    options = config.model_dump(mode="json")
    return Search(mode=settings.mode, can=can, config=options, max_loss=settings.max_accuracy_loss, gpu=can.fp16 and _has_gpu())


def _in_words(settings: CompressSettings) -> str:
    parts = [f"accuracy loss at most {settings.max_accuracy_loss:g}"]
    parts += [f"latency at most {settings.max_latency_ms:g} ms"] if settings.max_latency_ms is not None else []
    parts += [f"size at most {settings.max_size_mb:g} MB"] if settings.max_size_mb is not None else []
    return ", ".join(parts)


class _Search:
    """One search: its inputs, and the candidates in the store."""

    def __init__(
        self,
        algorithm: str,
        config: dict[str, Any],
        data: DatasetRef,
        trained: Trained,
        package: Artifact,
        settings: CompressSettings,
        context: StageContext,
    ) -> None:
        self.algorithm, self.config, self.data = find_algorithm(algorithm), config, data
        self.trained, self.package, self.settings, self.context = trained, package, settings, context
        self.higher = primary_metric(self.algorithm.task)[1]
        self.folder = f"runs/{trained.run_key}/compression"
        self.candidates: dict[str, Artifact] = {}
        self.results: dict[str, dict[str, Any]] = {}
        self.killed: list[str] = []  # candidates that the next call tries again

    def table(self) -> Artifact:
        """The finished table: there already, or made now."""
        # `strict` decides what a table means, not what is in it.
        identity = {"package": self.package, "trained": self.trained.artifact, "settings": self.settings.model_dump(exclude={"strict"})}
        key = f"{self.folder}/table-{content_key(identity)[:12]}"
        if self.context.fresh:
            self.context.store.delete(self.folder)
        found = find(self.context.store, key)
        return found if found is not None else self._publish(key)

    def _publish(self, key: str) -> Artifact:
        self._try_all()
        if self.killed:
            key = f"{key}-without-{content_key(self.killed)[:6]}"  # the next call makes another table
        rows, host = self._measured()
        choice = choose(rows, self.settings.budget)
        shipped = self.package if choice.name == BASELINE.name else self._ship(choice.name)
        return self._publish_json(key, TABLE_FILE, self._content(choice, shipped, host), kind="compression")

    def _content(self, choice: Choice, shipped: Artifact, host: dict[str, Any]) -> dict[str, Any]:
        metric = primary_metric(self.algorithm.task)[0]
        return {
            "mode": self.settings.mode,
            "budget": self.settings.budget.model_dump(),
            "chosen": choice.name,
            "reason": choice.reason,
            "met": choice.met,
            "metric": metric,
            "rows": [row.model_dump(mode="json") for row in choice.rows],
            "test": {
                "fp32": read_json(self.context, self.package, "package.json")["metrics"].get(metric),
                "shipped": read_json(self.context, shipped, "package.json")["metrics"].get(metric),
            },
            "host": host,
            "package": shipped.model_dump(mode="json"),
        }

    def _try_all(self) -> None:
        """Make and judge candidates until there is nothing more to try."""
        card = open_dataset(self.context.store, self.data, self.context.settings.cache_path).card
        config = self.algorithm.config_type(**self.config)
        check_compression(self.algorithm, config, self.settings, card.num_rows)
        self._make(BASELINE)
        search = _search(self.algorithm, config, self.settings)
        known: dict[str, float | None] = {}
        while recipes := next_recipes(search, known):
            for recipe in recipes:
                self._make(recipe)
                known[recipe.name] = worst_loss(self._row(recipe.name, {}))
                self._tell(recipe.name)

    def _make(self, recipe: Recipe) -> None:
        """The candidate's package, judged on the validation split; or why there is none. One that is in the store already is not made again."""
        made_from = {"trained": self.trained.artifact, "reference": self.package, "recipe": recipe}
        key = f"{self.folder}/candidate-{content_key(made_from)[:12]}"
        artifact = find(self.context.store, key)
        if artifact is None:
            try:
                base = self._fp32(recipe)
                spec = self._spec("compress", key, model=base, reference=self.package, recipe=recipe.model_dump(mode="json"))
                artifact = self._run(spec)
            except (CompressionError, TrainingDivergedError, ParityError, InvalidOptionError) as error:
                artifact = self._publish_json(key, _RESULT_FILE, {"name": recipe.name, "failure": str(error)}, kind="compress")
            except (RankFailedError, OutOfMemoryError) as error:
                if recipe.name == BASELINE.name or (isinstance(error, RankFailedError) and error.exit_code >= 0):
                    raise
                # No memory, or killed, mostly for want of it: the search goes on without it, and the next call tries it again.
                self.results[recipe.name] = {"name": recipe.name, "failure": str(error).splitlines()[0]}
                self.killed.append(recipe.name)
                return
        self.candidates[recipe.name] = artifact
        self.results[recipe.name] = read_json(self.context, artifact, _RESULT_FILE)

    def _publish_json(self, key: str, name: str, content: dict[str, Any], kind: str) -> Artifact:
        with tempfile.TemporaryDirectory(prefix="atelier-") as folder:
            (Path(folder) / name).write_text(json.dumps(content, indent=1, allow_nan=False))
            return publish(self.context.store, Path(folder), key, kind=kind)

    def _fp32(self, recipe: Recipe) -> Artifact:
        """The package that the recipe's number format is made from: the one that came, or that of a model trained on."""
        if not recipe.tunings:
            return self.package
        start = self.trained.artifact
        for variant in recipe.tunings:
            told = variant.model_dump(mode="json", exclude_defaults=True)
            key = content_key({"start": start, "teacher": self.trained.artifact, "variant": told})[:12]
            output = f"{self.folder}/tuned-{key}"
            found = find(self.context.store, output)
            if found is None:
                checkpoints = f"{self.folder}/checkpoints-{key}"
                spec = self._spec("train", output, model=start, reference=self.trained.artifact, **told)
                num_ranks = self.context.workers if self.algorithm.engine.distributed else 1
                spec = spec.model_copy(update={"checkpoints": checkpoints})
                engine = self.algorithm.engine
                modules = {
                    "preload": verb_modules(engine),
                    "rank_preload": rank_modules(engine, self.algorithm.config(self.config)),
                }
                self.context.launch_ranks(spec, num_ranks=num_ranks, on_event=self._report, output=spec.output, **modules)
                found = find(self.context.store, output)
                assert found is not None, f"the ranks ended well but left nothing at {output}"
                self.context.store.delete(checkpoints)
            start = found
        lineage = read_json(self.context, self.package, "package.json")["lineage"]
        key = content_key({"tuned": start, "lineage": lineage})[:12]
        spec = self._spec("export", f"{self.folder}/package-{key}", model=start)
        return self._run(spec.model_copy(update={"lineage": lineage}))

    def _ship(self, name: str) -> Artifact:
        """The chosen candidate, judged on the test split."""
        candidate = self.candidates[name]
        key = f"runs/{self.trained.run_key}/package-{content_key({'candidate': candidate})[:12]}"
        recipe = Recipe(name=name).model_dump(mode="json")
        return self._run(self._spec("compress", key, model=candidate, recipe=recipe, ship=True))

    def _measured(self) -> tuple[list[Row], dict[str, Any]]:
        """A row for every candidate, fp32 first, with its latency; and the host on which it was measured.

        Latencies of another kind of processor, which shares the workspace, are not taken for this one's.
        """
        packages = {name: self.candidates[name] for name, result in self.results.items() if not result.get("failure")}
        here = {"processor": processor_name(), "cores": os.cpu_count()}
        key = f"{self.folder}/latency-{content_key({'packages': packages, 'host': here})[:12]}"
        told = {name: artifact.model_dump(mode="json") for name, artifact in packages.items()}
        latency = read_json(self.context, self._run(self._spec("measure", key, packages=told)), "latency.json")
        return [self._row(name, latency["speed"].get(name, {})) for name in self.results], latency["host"]

    def _row(self, name: str, speed: dict[str, Any]) -> Row:
        result = self.results[name]
        if result.get("failure"):
            return Row(name=name, failure=result["failure"])
        return Row(
            name=name,
            done=result["done"],
            metric=result["metric"],
            loss=self._loss(name),
            size_bytes=result["size_bytes"],
            num_parameters=result["num_parameters"],
            macs=result["macs"],
            agreement=result["parity"].get("agreement"),
            uncertainty=uncertainty(result["parity"].get("agreement"), result["parity"]["samples"]),
            speed={size: Speed(**values) for size, values in speed.items()},
        )

    def _loss(self, name: str) -> float | None:
        """What a candidate loses against fp32; None if it could not be made."""
        found, base = self.results[name].get("metric"), self.results[BASELINE.name]["metric"]
        if found is None:
            return None
        return float(base - found) if self.higher else float((found - base) / max(base, 1e-12))

    def _spec(self, verb: Any, output: str, *, model: Artifact | None = None, reference: Artifact | None = None, **variant: Any) -> RunSpec:
        return RunSpec(
            verb=verb,
            algorithm=self.algorithm.name,
            config=self.config,
            dataset=self.data,
            workspace=self.context.settings.workspace_uri,
            output=output,
            model=model,
            reference=reference,
            variant=variant,
        )

    def _run(self, spec: RunSpec) -> Artifact:
        # `fresh` has done its work when the search's folder was deleted: what this search makes it may find again.
        return run_verb(spec, self.context, fresh=False)

    def _report(self, event: dict[str, Any]) -> None:
        # Epochs of a candidate are not those of the run's own training: MLflow does not get them.
        if event.get("kind") != "metrics":
            self.context.report(event)

    def _tell(self, name: str) -> None:
        result = self.results[name]
        words = result.get("failure") or f"{result['metric_name']} {result['metric']:.4f} (valid), {result['size_bytes'] / 1e6:.3g} MB"
        self.context.report({"kind": "log", "message": f"compress {name}: {words}"})


def _has_gpu() -> bool:
    from algorithms._package_runtime import has_gpu

    return has_gpu()
