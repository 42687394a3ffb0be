"""Train: start the ranks, follow their progress into MLflow, and name what they leave in the store."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, Field

from algorithms.catalog import find_algorithm
from algorithms.run import RunSpec
from algorithms.trial import rank_modules, verb_modules
from infra.artifacts import Artifact, find, read_file
from infra.context import StageContext
from infra.datasets.card import DatasetRef
from infra.errors import AlreadyRunningError
from infra.keys import content_key
from infra.registry import Registry


class Trained(BaseModel):
    """A trained model in the store, and the MLflow run that shows how it came to be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    artifact: Artifact
    run_key: str = Field(description="Names the training: algorithm, options, data and the user's own code; the same on every attempt.")
    run_id: str = Field(description="MLflow run.")
    world_size: int


def training_key(algorithm: str, config: dict[str, Any], data: DatasetRef, code: dict[str, str]) -> str:
    """The identity of a training. The number of workers is not part of it: a killed training may go on with more or fewer."""
    return content_key({"algorithm": algorithm, "config": config, "dataset": data.digest, "code": code})


def train(
    algorithm: str, config: dict[str, Any], data: DatasetRef, *, name: str, code: dict[str, str] | None = None, context: StageContext
) -> Trained:
    """Train on ``context.workers`` ranks; a training that was killed goes on from its last checkpoint.

    Args:
        code: digests of the user's own code and weights that the options name (``algorithms.user_code.digests``): other code, other training.

    Raises:
        AlreadyRunningError: another process on this machine is at the same training.
        NotEnoughSlotsError, RankFailedError, DeadlineExceededError, and whatever error of ours a rank raised.
    """
    run_key = training_key(algorithm, config, data, code or {})
    folder = f"runs/{run_key}"
    registry = Registry(context.settings, context.store)
    with alone(run_key, context):
        if context.fresh:
            for part in ("trained", "checkpoints", "mlflow.json"):
                context.store.delete(f"{folder}/{part}")
        artifact = find(context.store, f"{folder}/trained")
        params = {"algorithm": algorithm, "dataset": data.digest, "run_key": run_key, **config}
        run_id, is_new = _tracking_run(registry, context, folder, name, params)
        if artifact is not None and is_new:  # a trial of a tuning made it, or a machine with an MLflow of its own
            _log_history(registry, run_id, json.loads(read_file(context.store, artifact, "history.json")))
        if artifact is None:
            artifact = _run_ranks(algorithm, config, data, folder, run_id, registry, context)
            context.store.delete(f"{folder}/checkpoints")  # they served to get here
    world_size = json.loads(read_file(context.store, artifact, "history.json")).get("world_size", 1)
    return Trained(artifact=artifact, run_key=run_key, run_id=run_id, world_size=world_size)


def _run_ranks(
    algorithm: str, config: dict[str, Any], data: DatasetRef, folder: str, run_id: str, registry: Registry, context: StageContext
) -> Artifact:
    spec = RunSpec(
        verb="train",
        algorithm=algorithm,
        config=config,
        dataset=data,
        workspace=context.settings.workspace_uri,
        output=f"{folder}/trained",
        checkpoints=f"{folder}/checkpoints",
    )
    told = False

    def on_event(event: dict[str, Any]) -> None:
        nonlocal told
        context.report(event)
        if event.get("kind") != "metrics":
            return
        try:
            registry.log_metrics(run_id, int(event["step"]), event["values"])
        except Exception as error:  # noqa: BLE001 - a tracking server that hiccups must not end a training
            if not told:
                context.report({"kind": "log", "message": f"MLflow does not take the metrics ({error}); history.json has them all"})
            told = True

    status = "FAILED"
    try:
        found = find_algorithm(algorithm)
        engine = found.engine
        num_ranks = context.workers if engine.distributed else 1
        modules = {"preload": verb_modules(engine), "rank_preload": rank_modules(engine, found.config(spec.config))}
        context.launch_ranks(spec, num_ranks=num_ranks, on_event=on_event, output=spec.output, **modules)
        artifact = find(context.store, spec.output)
        assert artifact is not None, f"ranks ended well but left nothing at {spec.output}"
        status = "FINISHED"
        return artifact
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        registry.log_run_end(run_id, status)  # type: ignore[arg-type]


@contextmanager
def alone(run_key: str, context: StageContext) -> Iterator[None]:
    """Keep two processes of this machine from writing the same checkpoints; the lock ends with its process."""
    folder = context.settings.state_dir / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / f"{run_key}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise AlreadyRunningError(run_key) from None
    try:
        yield
    finally:
        lock.release()


def _log_history(registry: Registry, run_id: str, history: dict[str, Any]) -> None:
    """Show a training that is over as if it had been followed."""
    for entry in history["epochs"]:
        registry.log_metrics(run_id, int(entry["epoch"]), {name: value for name, value in entry.items() if name != "epoch"})
    registry.log_run_end(run_id, "FINISHED")


def _tracking_run(registry: Registry, context: StageContext, folder: str, name: str, params: dict[str, Any]) -> tuple[str, bool]:
    """The MLflow run of this training, and whether it is new or that of an earlier, killed attempt."""
    key = f"{folder}/mlflow.json"
    if context.store.exists(key):
        run_id = str(json.loads(context.store.read_bytes(key))["run_id"])
        if registry.has_run(run_id):  # another machine that shares the workspace may have an MLflow of its own
            return run_id, False
    run_id = registry.start_run(name, params, {"atelier.run_key": params["run_key"]})
    context.store.write_bytes(key, json.dumps({"run_id": run_id}).encode())
    return run_id, True
