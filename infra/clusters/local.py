"""Worker processes on this machine, and the scheduler in this process; all listen on loopback only."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack

from infra.cluster import new_log_folder, python_path
from infra.clusters import Opened
from infra.clusters._processes import Place, WorkerProcesses
from infra.clusters._scheduler import start_scheduler
from infra.clusters.tls import read_pems
from infra.settings import Settings

MAX_FAILURES = 20


def _command(order_fd: int) -> list[str]:
    return [sys.executable, "-P", "-m", "infra._dask_worker", str(order_fd)]


def open_kind(settings: Settings, stack: ExitStack) -> Opened:
    pems = read_pems(settings.tls) if settings.tls else None
    places = [Place(f"local-{index}", _command) for index in range(settings.slots)]
    env = {**os.environ, "PYTHONPATH": python_path(), "PYTHONUNBUFFERED": "1"}
    workers = WorkerProcesses(places, new_log_folder(settings), env, most_failures=MAX_FAILURES)
    stack.callback(workers.close)
    workers.start(settings.min_slots or settings.slots)  # before the imports below, which take as long as theirs
    client, order = start_scheduler("127.0.0.1", pems, stack)
    stack.callback(workers.close)  # first of all: closing the scheduler would wait for running tasks
    workers.join_cluster({**order, "host": "127.0.0.1"}, lambda names: client.retire_workers(names=names))
    return Opened(client, workers)
