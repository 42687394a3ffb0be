"""Package: export to ONNX, compare with the trained model, judge on the test split by onnxruntime alone."""

from __future__ import annotations

import json
from typing import Any

from algorithms.run import RunSpec
from infra.artifacts import Artifact, read_file
from infra.context import StageContext
from infra.datasets.card import DatasetRef
from infra.keys import content_key
from tasks.train import Trained
from tasks.verbs import run_verb


def package(
    algorithm: str, config: dict[str, Any], data: DatasetRef, trained: Trained, lineage: dict[str, Any], *, context: StageContext
) -> Artifact:
    """The package's artifact.

    Raises:
        ParityError: onnxruntime's output differs from the trained model's; nothing is published.
    """
    lineage = {**lineage, "run_key": trained.run_key}
    made_from = content_key({"trained": trained.artifact, "lineage": lineage})
    spec = RunSpec(
        verb="export",
        algorithm=algorithm,
        config=config,
        dataset=data,
        workspace=context.settings.workspace_uri,
        output=f"runs/{trained.run_key}/package-{made_from[:12]}",
        model=trained.artifact,
        lineage=lineage,
    )
    return run_verb(spec, context)


def read_json(context: StageContext, artifact: Artifact, name: str) -> Any:
    """One JSON file of an artifact, verified."""
    return json.loads(read_file(context.store, artifact, name))
