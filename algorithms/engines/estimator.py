"""The estimator engine: models that are fitted to a matrix in memory by one process with all its threads."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from algorithms.metrics import primary_metric

if TYPE_CHECKING:
    from algorithms.compression.recipes import Compressible, Variant
    from algorithms.run import Run
    from algorithms.spec import Expectation
    from algorithms.tables.columns import ColumnPlan
    from algorithms.tables.family import Family
    from algorithms.tables.target import Target
    from infra.datasets.card import Card
    from infra.datasets.dataset import Dataset

FITTED_FILE = "columns.json"
PREDICT_ROWS = 65_536


@dataclass(frozen=True)
class EstimatorEngine:
    """See ``algorithms.spec.Engine`` for the verbs.

    Attributes:
        task: what the target is.
        family: dotted name of an ``algorithms.tables.family.Family``, loaded when a verb runs.
        libraries: what the family itself loads when it fits.
    """

    task: Literal["tabular-classification", "tabular-regression"]
    family: str
    libraries: tuple[str, ...] = ()

    @property
    def distributed(self) -> bool:
        return False

    @property
    def modules(self) -> tuple[str, ...]:
        """What a training loads."""
        tables = ("columns", "family", "fitting", "judging", "matrix", "progress")
        return ("threadpoolctl", *(f"algorithms.tables.{name}" for name in tables), self.family.rsplit(".", 1)[0], *self.libraries)

    @property
    def regression(self) -> bool:
        return self.task == "tabular-regression"

    def expectations(self, config: Any, card: Card) -> list[Expectation]:
        from algorithms.tables.requirements import list_expectations

        return list_expectations(config, card, regression=self.regression)

    def compressible(self, config: Any) -> Compressible:
        from algorithms.tables.smaller import tell_compressible

        return tell_compressible(config)

    def train(self, config: Any, data: Dataset, run: Run) -> None:
        """Fit columns and model; leaves ``columns.json``, the model's file and ``history.json``. A variant keeps some of the trees of a
        trained model, or is fitted anew with smaller ones."""
        if run.spec.variant:
            from algorithms.compression.recipes import Variant

            variant = Variant.model_validate(run.spec.variant)
            if variant.trees < 1:
                self._keep_trees(variant, run)
                return
            config = type(config)(**{**config.model_dump(), **variant.options, **variant.student})
        self._fit(config, data, run)

    def _keep_trees(self, variant: Variant, run: Run) -> None:
        """The trained model with its first trees only; leaves what ``train`` leaves."""
        from algorithms.tables.judging import write_json
        from infra.errors import CompressionError

        family, model, _, _ = self._trained(run)
        if family.keep_trees is None:
            raise CompressionError("drop trees", "this model has none")
        kept = family.keep_trees(model, variant.trees)
        family.save(kept, run.output_dir)
        assert run.model_dir is not None
        (run.output_dir / FITTED_FILE).write_bytes((run.model_dir / FITTED_FILE).read_bytes())
        history = json.loads((run.model_dir / "history.json").read_text())
        write_json(run.output_dir / "history.json", {**history, "num_parameters": family.size(kept)})

    def _fit(self, config: Any, data: Dataset, run: Run) -> None:
        from threadpoolctl import threadpool_limits

        from algorithms.augmentation.rows import augment_rows
        from algorithms.tables.family import Learning
        from algorithms.tables.fitting import fit_table
        from algorithms.tables.judging import write_json
        from algorithms.tables.matrix import read_matrix
        from algorithms.tables.progress import Progress

        family = self._family()
        fitted = fit_table(data, config, regression=self.regression, keep_nan=family.keep_nan, scaled=family.scaled)
        plan, target = fitted.plan, fitted.target
        for left in plan.left_out:
            run.report({"kind": "log", "message": f"Column {left.name!r} is not used: {left.reason}."})
        train = read_matrix(data, "train", plan, target, fitted.fold_means)
        valid = read_matrix(data, "valid", plan, target)
        if without := train.num_without_target + valid.num_without_target:
            run.report({"kind": "log", "message": f"{without} rows have no target and are left out."})
        features, labels = augment_rows(config, plan, train.features, train.labels)
        if len(labels) != len(train):
            run.report({"kind": "log", "message": f"Augmentation ({config.augment}): {len(train)} training rows became {len(labels)}."})
        progress = Progress(run, primary_metric(self.task)[0], metric_scale=target.std)
        learning = Learning(
            train=features,
            train_labels=labels if target.is_class else target.standardize(labels),
            valid=valid.features,
            valid_labels=valid.labels if target.is_class else target.standardize(valid.labels),
            weights=_weights(config, labels, len(target.classes)),
            num_classes=len(target.classes),
            threads=run.spec.threads,
        )
        with threadpool_limits(run.spec.threads):
            model = family.fit(config, learning, progress)
        family.save(model, run.output_dir)
        write_json(run.output_dir / FITTED_FILE, {"plan": plan.model_dump(mode="json"), "target": target.model_dump(mode="json")})
        facts = {"num_parameters": family.size(model), "num_features": plan.num_features, "world_size": 1, "precision": "fp32"}
        write_json(run.output_dir / "history.json", {**progress.history(), **facts})

    def evaluate(self, config: Any, data: Dataset, run: Run) -> None:
        """Judge the trained model on the test split; besides the usual files ``importance.json``."""
        from algorithms.tables.columns import stack_features
        from algorithms.tables.judging import predict_split, write_json

        family, model, plan, target = self._trained(run)
        judged = predict_split(data, "test", plan, target, lambda table: _predict(family, model, target, plan.transform(table)))
        write_json(run.output_dir / "metrics.json", judged.metrics())
        judged.write(run.output_dir / "predictions.parquet")
        write_json(run.output_dir / "importance.json", stack_features(plan.sources, family.importance(model, plan.num_features)))

    def export(self, config: Any, data: Dataset, run: Run) -> None:
        """Write the package: columns and model in one graph."""
        from algorithms.tables.export import export_table

        family, model, plan, target = self._trained(run)
        export_table(
            config,
            data,
            run,
            plan=plan,
            target=target,
            head=family.head(model, len(target.classes)),
            predict=lambda features: _predict(family, model, target, features),
        )

    def _family(self) -> Family:
        from importlib import import_module

        module, name = self.family.rsplit(".", 1)
        family: Family = getattr(import_module(module), name)
        return family

    def _trained(self, run: Run) -> tuple[Family, Any, ColumnPlan, Target]:
        from algorithms.tables.columns import ColumnPlan
        from algorithms.tables.target import Target

        assert run.model_dir is not None, "evaluate and export start from a trained model"
        fitted = json.loads((Path(run.model_dir) / FITTED_FILE).read_text())
        family = self._family()
        model = family.load(Path(run.model_dir), run.spec.threads)
        return family, model, ColumnPlan.model_validate(fitted["plan"]), Target.model_validate(fitted["target"])


def _predict(family: Family, model: Any, target: Target, features: NDArray[np.float32]) -> NDArray[np.float64]:
    parts = [family.predict(model, features[start : start + PREDICT_ROWS]) for start in range(0, len(features), PREDICT_ROWS)]
    outputs = np.concatenate(parts)
    return outputs if target.is_class else target.restore(outputs)


def _weights(config: Any, labels: NDArray[Any], num_classes: int) -> NDArray[np.float64] | None:
    """Weight of each training row, 1 on average; None if all are the same."""
    from algorithms.tables.family import balanced_weights

    return None if not num_classes or config.class_weights == "none" else balanced_weights(labels, num_classes)
