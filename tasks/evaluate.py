"""Evaluate: the trained model, as it is, on the test split."""

from __future__ import annotations

from typing import Any

from algorithms.run import RunSpec
from infra.artifacts import Artifact
from infra.context import StageContext
from infra.datasets.card import DatasetRef
from tasks.train import Trained
from tasks.verbs import run_verb


def evaluate(algorithm: str, config: dict[str, Any], data: DatasetRef, trained: Trained, *, context: StageContext) -> Artifact:
    """The artifact with ``metrics.json`` and ``predictions.parquet`` of the trained model (no export, no compression): the baseline."""
    spec = RunSpec(
        verb="evaluate",
        algorithm=algorithm,
        config=config,
        dataset=data,
        workspace=context.settings.workspace_uri,
        output=f"runs/{trained.run_key}/evaluation-{trained.artifact.digest[:12]}",
        model=trained.artifact,
    )
    return run_verb(spec, context)
