"""Explain: what the shipped package does well and badly, and advice in words."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from algorithms.analysis.advice_value import Advice
from algorithms.run import RunSpec
from infra.artifacts import Artifact, read_file
from infra.context import StageContext
from infra.datasets.card import DatasetRef
from infra.keys import content_key
from tasks.train import Trained
from tasks.verbs import run_verb

FIGURES = "explain.json"


class Explained(BaseModel):
    """A package that was looked at from many sides."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    artifact: Artifact = Field(description="explain.json (docs/explain.md), timing.json, and of pictures pictures/*.")
    advice: tuple[Advice, ...] = Field(default=(), description="Warnings first.")


def explain(
    algorithm: str,
    config: dict[str, Any],
    data: DatasetRef,
    trained: Trained,
    evaluation: Artifact,
    package: Artifact,
    validation: Artifact | None = None,
    *,
    context: StageContext,
) -> Explained:
    """Ask the package about the test and the valid split, in a process of its own on the cluster.

    Args:
        trained: the network behind the package, for saliency, and its history.
        evaluation: of the trained model.
        package: what ships, compressed or not.
        validation: the report about the data.
    """
    inputs = {"evaluation": evaluation, "package": package} | ({"validation": validation} if validation else {})
    made_from = content_key({"trained": trained.artifact, **inputs})
    spec = RunSpec(
        verb="explain",
        algorithm=algorithm,
        config=config,
        dataset=data,
        workspace=context.settings.workspace_uri,
        output=f"runs/{trained.run_key}/explain-{made_from[:12]}",
        model=trained.artifact,
        inputs=inputs,
    )
    artifact = run_verb(spec, context)
    figures = json.loads(read_file(context.store, artifact, FIGURES))
    return Explained(artifact=artifact, advice=tuple(Advice(**entry) for entry in figures["advice"]))
