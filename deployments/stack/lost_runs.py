"""Runs whose worker died with them: Prefect still thinks that they run. They are scheduled again, and take up at the stage that did not finish.

To be called while the worker ``up`` is not running: its supervisor ended its runs with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from http.client import HTTPException
from typing import Any, Literal
from urllib.error import URLError

from deployments.stack.health import post
from deployments.stack.options import WORK_POOL, WORKER
from infra.errors import ServiceError

MOST_STARTS = 5
LABEL = "prefect.worker.name"


def fate(run: Mapping[str, Any]) -> Literal["leave", "again", "crashed"]:
    """What becomes of a run that Prefect thinks is running: one of another worker goes on, one that was started often has crashed."""
    if (run.get("labels") or {}).get(LABEL, WORKER) != WORKER:
        return "leave"
    return "again" if int(run.get("run_count") or 0) < MOST_STARTS else "crashed"


def restart_lost_runs(api: str) -> int:
    """Schedule them again; how many there were.

    Raises:
        ServiceError: Prefect's server does not answer.
    """
    lost = 0
    body = {
        "flow_runs": {"state": {"type": {"any_": ["RUNNING", "PENDING"]}}},
        "work_pools": {"name": {"any_": [WORK_POOL]}},
        "sort": "EXPECTED_START_TIME_ASC",
        "limit": 200,
    }
    try:
        for run in post(f"{api}/flow_runs/filter", body):
            becomes = fate(run)
            if becomes == "leave":
                continue
            lost += 1
            state = (
                {"type": "SCHEDULED", "name": "AwaitingRetry", "message": "its worker died"}
                if becomes == "again"
                else {"type": "CRASHED", "message": f"its worker died {MOST_STARTS} times"}
            )
            post(f"{api}/flow_runs/{run['id']}/set_state", {"state": state, "force": True})
    except (URLError, HTTPException, OSError, ValueError) as error:
        raise ServiceError("Prefect's server", f"the runs of the worker that died could not be scheduled again: {error}") from None
    return lost
