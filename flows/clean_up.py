"""Cleaning up as a flow: by default it only says what would go."""

from __future__ import annotations

import time
from collections.abc import Collection
from datetime import UTC, datetime, timedelta

from prefect.artifacts import create_table_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterEndTime,
    FlowRunFilterStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import TERMINAL_STATES, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectNotFound
from pydantic import BaseModel, ConfigDict, Field

from algorithms.catalog import list_algorithms
from flows.artifacts import artifact_key
from flows.embedded import embedded_flow, open_context
from flows.presets import flow_name
from infra.audit import write_down
from infra.errors import InvalidOptionError
from infra.in_use import cleaning
from tasks._retention import Item, Plan, parse_age, plan
from tasks._stock_of_data import named_or_awaited
from tasks.clean_up import pointed_at, remove, take_stock

OWN_FLOWS = ("pipeline", "batch-predict", "monitor", "clean-up", "retrain", "tune", "compress", "import-data", "canary")
_PAGE = 200


class CleanedUp(BaseModel):
    """What went, or would go."""

    model_config = ConfigDict(frozen=True)

    done: bool = Field(description="False: nothing was removed, this is what would go.")
    busy: bool = Field(description="A run was going, so what it may need stayed.")
    items: list[Item]
    num_bytes: int
    kept: dict[str, int] = Field(description="How many things stay, by the reason.")
    problems: list[str] = Field(default_factory=list)


@embedded_flow(name="clean-up")
def clean_up(older_than: str = "30d", keep: int = 10, really: bool = False) -> CleanedUp:
    """Remove old runs, checkpoints, data set versions, studies, captures, logs, results of stages, and rows of Prefect and MLflow.

    Args:
        older_than: Age from which things go: a number with m, h, d or w.
        keep: The newest of each kind (of each model, data set's name or algorithm, where things belong to one) stay however old they are.
        really: Remove them. False: say what would go.

    Returns:
        What went, or would go.

    Raises:
        InvalidOptionError: no such age.
    """
    age = parse_age(older_than)
    if not 0 <= keep <= 1_000_000:
        raise InvalidOptionError("clean-up", [f"keep: {keep}: expected 0 or more"])
    with open_context() as context, cleaning(context.settings.state_dir) as alone:
        now = time.time()
        shared = "://" in context.settings.workspace_uri  # a folder is this machine's own, and the lock knows all of its runs
        busy = not alone or (shared and _others_run(context.settings.deadline_s))
        items = take_stock(context, now - age) + _old_runs(now - age)
        kept, named = pointed_at(context), named_or_awaited(context.store)
        found = plan(items, now=now, older_than_s=age, keep=keep, protected=kept, named=named, busy=busy)
        if not really:
            return _shown(CleanedUp(done=False, busy=busy, items=found.remove, num_bytes=found.num_bytes, kept=found.kept))
        gone, problems = remove(found, context, _delete_rows)
        num_bytes = Plan(remove=gone, kept={}).num_bytes
        write_down(context.store, "clean-up", older_than, things=len(gone), bytes=num_bytes, problems=len(problems))
        return _shown(CleanedUp(done=True, busy=busy, items=gone, num_bytes=num_bytes, kept=found.kept, problems=problems))


def _own_id() -> str:
    running = FlowRunContext.get()
    return str(running.flow_run.id) if running is not None and running.flow_run is not None else ""


def _others_run(deadline_s: float) -> bool:
    """Whether this Prefect server knows of a flow that runs, on whatever machine; one older than any run may take was lost by a crash."""
    running = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]))
    recent = FlowRunFilterStartTime.model_validate({"after_": datetime.now(UTC) - timedelta(seconds=deadline_s)})
    with get_client(sync_client=True) as client:
        found = client.read_flow_runs(flow_run_filter=FlowRunFilter(state=running, start_time=recent), sort=FlowRunSort.ID_DESC, limit=10)
    return any(str(run.id) != _own_id() for run in found)


def _old_runs(before: float) -> list[Item]:
    """Flow runs that ended before a moment; those of other projects on a shared server are none of ours."""
    ours = [*OWN_FLOWS, *(flow_name(algorithm.name) for algorithm in list_algorithms()[0])]
    flows = FlowFilter(name=FlowFilterName(any_=ours))
    ended = FlowRunFilterState(type=FlowRunFilterStateType(any_=sorted(TERMINAL_STATES)))
    past = FlowRunFilterEndTime.model_validate({"before_": datetime.fromtimestamp(before, UTC)})
    found: list[Item] = []
    with get_client(sync_client=True) as client:
        while True:
            runs = FlowRunFilter(state=ended, end_time=past)
            page = client.read_flow_runs(flow_filter=flows, flow_run_filter=runs, sort=FlowRunSort.ID_DESC, limit=_PAGE, offset=len(found))
            found += [Item(kind="prefect run", key=str(run.id), written=run.end_time.timestamp()) for run in page if run.end_time]
            if len(page) < _PAGE:
                return found


def _delete_rows(ids: Collection[str]) -> None:
    from uuid import UUID

    with get_client(sync_client=True) as client:
        for one in ids:
            try:
                client.delete_flow_run(UUID(one))
            except ObjectNotFound:
                continue  # somebody else did


def _shown(result: CleanedUp) -> CleanedUp:
    """What went, in Prefect's UI."""
    rows: dict[str, list[int]] = {}
    for item in result.items:
        count = rows.setdefault(item.kind, [0, 0])
        count[0], count[1] = count[0] + 1, count[1] + item.num_bytes
    table = [{"kind": kind, "things": things, "MB": round(size / 1e6, 1)} for kind, (things, size) in sorted(rows.items())]
    words = "removed" if result.done else "would be removed (dry run)"
    create_table_artifact(table=table or [{"kind": "nothing", "things": 0, "MB": 0}], key=artifact_key("clean-up"), description=words)
    return result
