"""The parts of the stack as values: what to start, with which environment, and how to see that it is well. Nothing is started here."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, SecretStr

from deployments.stack import health
from deployments.stack.databases import Databases
from deployments.stack.health import Check
from deployments.stack.options import LOOPBACK, WORK_POOL, WORKER, UpOptions, reachable
from infra.access import (
    is_loopback,
    mlflow_client_variables,
    mlflow_server_arguments,
    mlflow_server_variables,
    prefect_client_variables,
    prefect_server_variables,
)
from infra.prefect_server import SERVER_LOGGING_CONFIG, quiet_environment
from infra.settings import Settings

# Prefect's worker looks for runs every 10 s, as suits a server that many share; this server is its own, and whoever starts a run waits for it.
_LOOKS_FOR_RUNS = "PREFECT_WORKER_QUERY_SECONDS"


@dataclass(frozen=True)
class Part:
    """One process of the stack.

    Attributes:
        title: for people.
        command, environment: what is started; the environment comes over this process' own, None takes a variable away.
        check: answers why the part is not well yet; empty: it is.
        address: what a person opens, if anything.
        listens: host and port that the keeper binds and hands down, so that callers queue up while the part restarts.
        start_s: longest time until it is well.
        grace_s: time to end in good order.
    """

    name: str
    title: str
    command: list[str]
    environment: Mapping[str, str | None] = field(repr=False)  # it may hold the login
    check: Check
    address: str = ""
    listens: tuple[str, int] | None = None
    start_s: float = 600.0  # on a machine that is busy with other things MLflow alone was seen to take 150
    grace_s: float = 10.0
    after: tuple[str, ...] = field(default=())


def make_parts(options: UpOptions, settings: Settings, ports: Mapping[str, int], databases: Databases) -> list[Part]:
    """All parts, in the order in which they start."""
    home = settings.state_dir / "prefect"
    folder = settings.state_dir / "stack"
    host = reachable(options.host)
    api = f"http://{host}:{ports['prefect']}/api"
    scheduler = f"tcp://{LOOPBACK}:{ports['scheduler']}"
    common: dict[str, str | None] = {
        **quiet_environment(),
        **_as_variables(settings),
        **prefect_client_variables(settings),
        **mlflow_client_variables(settings),
        "PYTHONUNBUFFERED": "1",
        "ATELIER_WORKSPACE": settings.workspace_uri,
        "ATELIER_REGISTRY": databases.registry or None,
        "ATELIER_CLUSTER": scheduler,
        "PREFECT_API_URL": api,
        "PREFECT_HOME": str(home),
    }
    parts = [
        Part(
            name="prefect",
            title="Prefect",
            command=[*_python("uvicorn"), "--factory", "deployments.stack.prefect_app:create_app", "--fd", "{fd}", "--log-level", "error"],
            environment={
                **common,
                **_prefect_server(api if is_loopback(options.host) else "/api", databases),
                **prefect_server_variables(settings),
                "PREFECT_LOGGING_SETTINGS_PATH": str(SERVER_LOGGING_CONFIG),
                "PREFECT_API_URL": None,
                "OMP_NUM_THREADS": None,
            },
            check=health.http_ok(f"{api}/health"),
            address=f"http://{host}:{ports['prefect']}",
            listens=(options.host, ports["prefect"]),
        ),
        Part(
            name="scheduler",
            title="Dask",
            command=[
                *_python("distributed.cli.dask_scheduler"),
                *("--host", LOOPBACK, "--port", str(ports["scheduler"])),
                *("--dashboard-address", f"{LOOPBACK}:{ports['dashboard']}", "--no-show"),
            ],
            environment=common,
            check=health.http_ok(f"http://{LOOPBACK}:{ports['dashboard']}/health"),
            address=f"http://{LOOPBACK}:{ports['dashboard']}/status",
        ),
        Part(
            name="mlflow",
            title="MLflow",
            command=[
                *_python("mlflow", "server"),
                *("--host", options.host, "--port", str(ports["mlflow"]), "--workers", "1"),
                *mlflow_server_arguments(settings),
                *("--backend-store-uri", databases.mlflow, "--artifacts-destination", str(settings.state_dir / "mlflow-artifacts")),
            ],
            environment={
                **common,
                **mlflow_server_variables(settings),
                "MLFLOW_DISABLE_TELEMETRY": "true",
                "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            },
            check=health.http_ok(f"http://{host}:{ports['mlflow']}/health"),
            address=f"http://{host}:{ports['mlflow']}",
        ),
    ]
    parts += [
        Part(
            name=f"slot-{number}",
            title=f"Dask worker {number}",
            command=[sys.executable, "-P", "-m", "deployments.stack.dask_worker", f"slot-{number}", scheduler],
            environment={**common, "ATELIER_READY_FILE": str(folder / f"slot-{number}.ready")},
            check=health.file_there(folder / f"slot-{number}.ready"),
            after=("scheduler",),
        )
        for number in range(settings.slots)
    ]
    parts += [
        Part(
            name="worker",
            title="Prefect worker",
            command=[
                *_python("prefect", "worker", "start", "--pool", WORK_POOL, "--type", "process", "--name", WORKER),
                *("--limit", str(options.max_runs), "--install-policy", "never", "--create-pool-if-not-found"),
            ],
            environment={**common, _LOOKS_FOR_RUNS: os.environ.get(_LOOKS_FOR_RUNS, "2")},
            check=health.worker_online(api, WORK_POOL, WORKER),
            after=("prefect",),
        ),
        Part(
            name="triggers",
            title="Triggers",
            command=_python("deployments.triggering"),
            environment={**common, "ATELIER_READY_FILE": str(folder / "triggers.ready")},
            check=health.file_there(folder / "triggers.ready"),
            after=("prefect",),
        ),
        Part(
            name="serving",
            title="Inference",
            command=_python("deployments.stack.serving", options.host, str(ports["serving"]), str(options.capture)),
            environment={**common, "ATELIER_READY_FILE": str(folder / "serving.ready")},
            check=health.file_there(folder / "serving.ready"),
            address=f"http://{host}:{ports['serving']}/docs",
            grace_s=60.0,
        ),
    ]
    return parts


def _as_variables(settings: Settings) -> dict[str, str]:
    """What was set, also by ``atelier.toml``: runs have a working folder of their own and would not find that file."""
    found = {}
    for name in settings.model_fields_set:
        value = getattr(settings, name)
        if isinstance(value, BaseModel):  # a section
            text = value.model_dump_json()
        else:
            text = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
        found[f"ATELIER_{name.upper()}"] = text
    return found


def _python(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", module, *arguments]


def _prefect_server(api: str, databases: Databases) -> dict[str, str | None]:
    return {
        "PREFECT_API_DATABASE_CONNECTION_URL": databases.prefect,
        "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
        "PREFECT_UI_ENABLED": "1",
        "PREFECT_UI_API_URL": api,
        "PREFECT_API_BLOCKS_REGISTER_ON_START": "false",
        "PREFECT__SERVER_FINAL": "1",
    }


def log_of(settings: Settings, name: str) -> Path:
    """Where a part's output goes."""
    return settings.state_dir / "logs" / "stack" / f"{name}.log"
