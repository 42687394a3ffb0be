"""The parts of the stack as values: what to start, with which environment, and how to see that it is well. Nothing is started here."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, SecretStr

from deployments.stack import health
from deployments.stack.addresses import names_of, seen_from_outside
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
        outside: the same for a person at another machine, where that is something else.
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
    outside: str = ""
    listens: tuple[str, int] | None = None
    start_s: float = 600.0  # on a machine that is busy with other things MLflow alone was seen to take 150
    grace_s: float = 10.0
    after: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class _Plan:
    """What the parts have in common."""

    options: UpOptions
    settings: Settings
    ports: Mapping[str, int]
    databases: Databases
    common: dict[str, str | None]

    @property
    def host(self) -> str:
        return reachable(self.options.host)

    @property
    def api(self) -> str:
        return str(self.common["PREFECT_API_URL"])

    def outside(self, name: str, path: str = "") -> str:
        """The URL for other machines of what listens on every address; empty: it is the same as for this one, or there is none."""
        host = seen_from_outside(self.options.host)
        return f"http://{host}:{self.ports[name]}{path}" if host else ""

    def ready_file(self, name: str) -> Path:
        """What a part without a port writes once it works."""
        return self.settings.state_dir / "stack" / f"{name}.ready"

    def announced_by_file(self, name: str) -> dict[str, str | None]:
        return {**self.common, "ATELIER_READY_FILE": str(self.ready_file(name))}


def make_parts(options: UpOptions, settings: Settings, ports: Mapping[str, int], databases: Databases) -> list[Part]:
    """All parts, in the order in which they start."""
    common: dict[str, str | None] = {
        **quiet_environment(),
        **_as_variables(settings),
        **prefect_client_variables(settings),
        **mlflow_client_variables(settings),
        "PYTHONUNBUFFERED": "1",
        "ATELIER_WORKSPACE": settings.workspace_uri,
        "ATELIER_REGISTRY": databases.registry or None,
        "ATELIER_CLUSTER": f"tcp://{LOOPBACK}:{ports['scheduler']}",
        "PREFECT_API_URL": f"http://{reachable(options.host)}:{ports['prefect']}/api",
        "PREFECT_HOME": str(settings.state_dir / "prefect"),
    }
    plan = _Plan(options, settings, ports, databases, common)
    slots = [_dask_worker(plan, f"slot-{number}", number) for number in range(settings.slots)]
    return [_prefect(plan), _scheduler(plan), _mlflow(plan), *slots, _prefect_worker(plan), _triggers(plan), _serving(plan)]


def _prefect(plan: _Plan) -> Part:
    return Part(
        name="prefect",
        title="Prefect",
        command=[*_python("uvicorn"), "--factory", "deployments.stack.prefect_app:create_app", "--fd", "{fd}", "--log-level", "error"],
        environment={
            **plan.common,
            **_prefect_server(plan.api if is_loopback(plan.options.host) else "/api", plan.databases),
            **prefect_server_variables(plan.settings),
            "PREFECT_LOGGING_SETTINGS_PATH": str(SERVER_LOGGING_CONFIG),
            "PREFECT_API_URL": None,
            "OMP_NUM_THREADS": None,
        },
        check=health.http_ok(f"{plan.api}/health"),
        address=plan.api.removesuffix("/api"),
        outside=plan.outside("prefect"),
        listens=(plan.options.host, plan.ports["prefect"]),
    )


def _scheduler(plan: _Plan) -> Part:
    dashboard = f"{LOOPBACK}:{plan.ports['dashboard']}"
    return Part(
        name="scheduler",
        title="Dask",
        command=[
            *_python("distributed.cli.dask_scheduler"),
            *("--host", LOOPBACK, "--port", str(plan.ports["scheduler"])),
            *("--dashboard-address", dashboard, "--no-show"),
        ],
        environment=plan.common,
        check=health.http_ok(f"http://{dashboard}/health"),
        address=f"http://{dashboard}/status",
    )


def _mlflow(plan: _Plan) -> Part:
    address = f"http://{plan.host}:{plan.ports['mlflow']}"
    return Part(
        name="mlflow",
        title="MLflow",
        command=[
            *_python("mlflow", "server"),
            *("--host", plan.options.host, "--port", str(plan.ports["mlflow"]), "--workers", "1"),
            *mlflow_server_arguments(plan.settings),
            *("--backend-store-uri", plan.databases.mlflow),
            *("--artifacts-destination", str(plan.settings.state_dir / "mlflow-artifacts")),
        ],
        environment={
            **plan.common,
            **mlflow_server_variables(plan.settings),
            **_mlflow_names(plan),
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        },
        check=health.http_ok(f"{address}/health"),
        address=address,
        outside=plan.outside("mlflow"),
    )


def _mlflow_names(plan: _Plan) -> dict[str, str | None]:
    """MLflow refuses who calls it by another name than it expects, and what a page of such a name sends; what the user set comes first."""
    if is_loopback(plan.options.host):
        return {}
    hosts = [f"{name}:{plan.ports['mlflow']}" for name in names_of(plan.options.host)]
    found = {"MLFLOW_SERVER_ALLOWED_HOSTS": hosts, "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": [f"http://{host}" for host in hosts]}
    return {name: os.environ.get(name) or ",".join(values) for name, values in found.items()}


def _dask_worker(plan: _Plan, name: str, number: int) -> Part:
    return Part(
        name=name,
        title=f"Dask worker {number}",
        command=[sys.executable, "-P", "-m", "deployments.stack.dask_worker", name, str(plan.common["ATELIER_CLUSTER"])],
        environment=plan.announced_by_file(name),
        check=health.file_there(plan.ready_file(name)),
        after=("scheduler",),
    )


def _prefect_worker(plan: _Plan) -> Part:
    return Part(
        name="worker",
        title="Prefect worker",
        command=[
            *_python("prefect", "worker", "start", "--pool", WORK_POOL, "--type", "process", "--name", WORKER),
            *("--limit", str(plan.options.max_runs), "--install-policy", "never", "--create-pool-if-not-found"),
        ],
        environment={**plan.common, _LOOKS_FOR_RUNS: os.environ.get(_LOOKS_FOR_RUNS, "2")},
        check=health.worker_online(plan.api, WORK_POOL, WORKER),
        after=("prefect",),
    )


def _triggers(plan: _Plan) -> Part:
    return Part(
        name="triggers",
        title="Triggers",
        command=_python("deployments.triggering"),
        environment=plan.announced_by_file("triggers"),
        check=health.file_there(plan.ready_file("triggers")),
        after=("prefect",),
    )


def _serving(plan: _Plan) -> Part:
    options, port = plan.options, plan.ports["serving"]
    return Part(
        name="serving",
        title="Inference",
        command=_python("deployments.stack.serving", options.host, str(port), str(options.capture)),
        environment=plan.announced_by_file("serving"),
        check=health.file_there(plan.ready_file("serving")),
        address=f"http://{plan.host}:{port}/docs",
        outside=plan.outside("serving", "/docs"),
        grace_s=60.0,
    )


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
