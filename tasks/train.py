"""Train: start the ranks, follow their progress into MLflow, and name what they leave in the store."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from algorithms.catalog import find_algorithm
from algorithms.run import RunSpec
from infra.artifacts import Artifact, find
from infra.context import StageContext
from infra.datasets.card import DatasetRef
from infra.keys import content_key
from infra.registry import Registry


class Trained(BaseModel):
    """A trained model in the store, and the MLflow run that shows how it came to be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    artifact: Artifact
    run_key: str = Field(description="Names the training: algorithm, options and data; the same on every attempt.")
    run_id: str = Field(description="MLflow run.")
    world_size: int


def training_key(algorithm: str, config: dict[str, Any], data: DatasetRef) -> str:
    """The identity of a training. The number of workers is not part of it: with a global batch the result does not depend on it."""
    return content_key({"algorithm": algorithm, "config": config, "dataset": data.digest})


def train(algorithm: str, config: dict[str, Any], data: DatasetRef, *, name: str, context: StageContext) -> Trained:
    """Train on ``context.workers`` ranks; a training that was killed goes on from its last checkpoint.

    Raises:
        NotEnoughSlotsError, RankFailedError, DeadlineExceededError, and whatever error of ours a rank raised.
    """
    run_key = training_key(algorithm, config, data)
    folder = f"runs/{run_key}"
    output = f"{folder}/trained"
    num_ranks = context.workers if find_algorithm(algorithm).engine.distributed else 1
    registry = Registry(context.settings, context.store)
    run_id = _tracking_run(registry, context, folder, name, {"algorithm": algorithm, "dataset": data.digest, "run_key": run_key, **config})
    artifact = find(context.store, output)
    if artifact is None:
        spec = RunSpec(
            verb="train",
            algorithm=algorithm,
            config=config,
            dataset=data,
            workspace=context.settings.workspace_uri,
            output=output,
            checkpoints=f"{folder}/checkpoints",
        )

        def on_event(event: dict[str, Any]) -> None:
            if event.get("kind") == "metrics":
                registry.log_metrics(run_id, int(event["step"]), event["values"])
            context.report(event)

        context.launch_ranks(spec, num_ranks=num_ranks, on_event=on_event)
        artifact = find(context.store, output)
        assert artifact is not None, f"ranks ended well but left nothing at {output}"
    registry.log_run_end(run_id, "FINISHED")
    return Trained(artifact=artifact, run_key=run_key, run_id=run_id, world_size=num_ranks)


def _tracking_run(registry: Registry, context: StageContext, folder: str, name: str, params: dict[str, Any]) -> str:
    """The MLflow run of this training: the one of an earlier, killed attempt, or a new one."""
    key = f"{folder}/mlflow.json"
    if context.store.exists(key):
        run_id = str(json.loads(context.store.read_bytes(key))["run_id"])
        if registry.has_run(run_id):  # another machine that shares the workspace may have an MLflow of its own
            return run_id
    run_id = registry.start_run(name, params, {"atelier.run_key": params["run_key"]})
    context.store.write_bytes(key, json.dumps({"run_id": run_id}).encode())
    return run_id
