"""Runs whose worker died with them: Prefect still thinks that they run. ``python -m deployments.stack.lost_runs`` lets them begin again.

A run takes up at the stage that did not finish. It is called while no run of the worker ``up`` can be alive: its supervisor ended them with it.
"""

from __future__ import annotations

from infra.prefect_server import quieten

quieten()

from prefect.client.orchestration import get_client  # noqa: E402
from prefect.client.schemas.filters import (  # noqa: E402
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import FlowRun, StateType  # noqa: E402
from prefect.states import Crashed, Scheduled  # noqa: E402

from deployments.stack.options import WORK_POOL  # noqa: E402

MOST_STARTS = 5


def is_lost(run: FlowRun) -> bool:
    """Whether the worker of the stack had it: a run that another worker of the pool has goes on."""
    return run.labels.get("prefect.worker.name", "up") == "up"


def restart_lost_runs() -> int:
    """Schedule them again, or call them crashed if they were started often; how many."""
    states = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING]))
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(state=states),
            work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[WORK_POOL])),
            limit=200,
        )
        lost = [run for run in runs if is_lost(run)]
        for run in lost:
            if run.run_count >= MOST_STARTS:
                client.set_flow_run_state(run.id, Crashed(message=f"its worker died {run.run_count} times"), force=True)
            else:
                client.set_flow_run_state(run.id, Scheduled(name="AwaitingRetry", message="its worker died"), force=True)
    return len(lost)


if __name__ == "__main__":
    if number := restart_lost_runs():
        print(f"{number} runs that died with their worker begin again")
