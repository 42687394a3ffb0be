"""Stages as Prefect tasks: typed parameters, results kept in the workspace, cache keys by digest.

The stages themselves are the plain functions of ``tasks/``; they become Prefect tasks here and not there, so that Dask workers, which
import ``tasks/``, never import Prefect.
"""

from __future__ import annotations

import functools
import inspect
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from prefect import Task
from prefect.cache_policies import CacheKeyFnPolicy
from prefect.context import TaskRunContext
from prefect.filesystems import WritableFileSystem
from pydantic import BaseModel, ConfigDict, Field

from flows._result_guard import check_result
from infra.artifacts import Artifact, find
from infra.context import StageContext
from infra.datasets.card import DatasetRef
from infra.errors import ArtifactNotFoundError
from infra.in_use import using
from infra.keys import content_key
from infra.store import open_store
from tasks.sealing import is_exposed

Result = TypeVar("Result")

_context: ContextVar[StageContext] = ContextVar("atelier_stage_context")
_results: ContextVar[WorkspaceResults] = ContextVar("atelier_stage_results")


class StageTime(BaseModel):
    """How one stage went: ``completed`` now, or ``cached`` from an earlier run."""

    model_config = ConfigDict(frozen=True)

    name: str
    state: str
    seconds: float
    work_seconds: float = Field(exclude=True, description="How long it took when it was really done.")


class WorkspaceResults(WritableFileSystem):
    """Prefect results in the workspace itself, so that a run resumes wherever the workspace can be reached."""

    workspace: str

    # Prefect calls the plain names with `_sync=True` from synchronous flows, and the names with an `a` from others.
    def read_path(self, path: str, _sync: bool = True) -> bytes:  # type: ignore[override]
        try:
            return check_result(open_store(self.workspace).read_bytes(f"prefect/results/{path}"))
        except ArtifactNotFoundError as error:
            raise ValueError(str(error)) from error  # what Prefect takes as "no result yet"

    def write_path(self, path: str, content: bytes, _sync: bool = True) -> None:  # type: ignore[override]
        open_store(self.workspace).write_bytes(f"prefect/results/{path}", content)

    async def aread_path(self, path: str) -> bytes:
        return self.read_path(path)

    async def awrite_path(self, path: str, content: bytes) -> None:
        self.write_path(path, content)


@contextmanager
def stage_context(context: StageContext) -> Iterator[StageContext]:
    """Make ``context`` the one that stages get, and its workspace the place of their results; call it inside a flow."""
    workspace = context.settings.workspace_uri
    results = WorkspaceResults(workspace=workspace)
    results.save(f"atelier-{content_key(workspace)[:16]}", overwrite=True)  # Prefect takes no storage that its server does not know
    token, results_token = _context.set(context), _results.set(results)
    try:
        with using(context.settings.state_dir):
            yield context
    finally:
        _context.reset(token)
        _results.reset(results_token)


def stage(function: Callable[..., Result], *, name: str = "", version: int = 1) -> Task[..., Result]:
    """``function`` as a Prefect task that is skipped when the same inputs were done before.

    The key is the stage's name and version and the values of its parameters, which are digests, names and options, never data. Raise
    ``version`` when the meaning of a stage's result changes.
    """
    name = name or function.__name__

    def cache_key(run: TaskRunContext, parameters: dict[str, Any]) -> str:
        return f"{name}-{content_key({'stage': name, 'version': version, 'values': parameters})}"

    @functools.wraps(function)
    def call(*args: Any, **values: Any) -> Result:
        return function(*args, **values, context=_context.get())

    # Prefect reads the signature: the stage's own typed parameters, without the context, which is no value.
    signature = inspect.signature(function)
    call.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[parameter for parameter in signature.parameters.values() if parameter.name != "context"]
    )

    return Task(
        call,
        name=name,
        description=(function.__doc__ or "").strip().split("\n")[0],
        cache_policy=CacheKeyFnPolicy(cache_key_fn=cache_key),
        persist_result=True,
        result_serializer="json",
    )


def _handles(value: Any) -> Iterator[Artifact | DatasetRef]:
    if isinstance(value, Artifact | DatasetRef):
        yield value
    elif isinstance(value, BaseModel):
        for field in type(value).model_fields:
            yield from _handles(getattr(value, field))


def is_intact(context: StageContext, result: Any) -> bool:
    """Whether everything that a cached result names is still in the store, and no package of it is plain that should be sealed."""
    for handle in _handles(result):
        if isinstance(handle, DatasetRef):
            if find(context.store, handle.key) is None:
                return False
        elif find(context.store, handle.key) != handle or is_exposed(handle, context):
            return False
    return True


def run_stage(stage_task: Task[..., Result], times: list[StageTime], /, again: bool = False, **values: Any) -> Result:
    """Run one stage, or take its earlier result if everything that names is still there; tell about it, and note its time."""
    context = _context.get()
    name = stage_task.name
    context.report({"kind": "stage", "name": name, "state": "running"})
    begin = time.monotonic()
    configured = stage_task.with_options(result_storage=_results.get(), refresh_cache=again or context.fresh)
    try:
        state = configured(**values, return_state=True)
        result = state.result()
        if state.name == "Cached" and not is_intact(context, result):
            state = configured.with_options(refresh_cache=True)(**values, return_state=True)
            result = state.result()
    except BaseException as error:
        ended = "failed" if isinstance(error, Exception) else "stopped"
        context.report({"kind": "stage", "name": name, "state": ended, "seconds": time.monotonic() - begin})
        raise
    seconds = round(time.monotonic() - begin, 3)
    time_key = f"prefect/times/{name}-{content_key(values)}"
    if state.name == "Cached":
        work_seconds = float(context.store.read_bytes(time_key)) if context.store.exists(time_key) else seconds
        done = StageTime(name=name, state="cached", seconds=seconds, work_seconds=work_seconds)
    else:
        context.store.write_bytes(time_key, str(seconds).encode())
        done = StageTime(name=name, state="completed", seconds=seconds, work_seconds=seconds)
    times.append(done)
    context.report({"kind": "stage", **done.model_dump()})
    return result


def record_stages(context: StageContext, run_key: str, times: list[StageTime], started: str) -> None:
    """Note beside the run, for its card, when it was first begun and how long each stage took when it was really done."""
    key = f"runs/{run_key}/stages.json"
    before: dict[str, Any] = {}
    if context.store.exists(key):
        noted = json.loads(context.store.read_bytes(key))
        started, before = noted["started"], noted["stages"]
    stages = {
        one.name: before[one.name]
        if one.state == "cached" and one.name in before
        else {"name": one.name, "state": one.state, "seconds": one.work_seconds}
        for one in times
    }
    context.store.write_bytes(key, json.dumps({"started": started, "stages": stages}, indent=2).encode())
