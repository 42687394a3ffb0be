"""What jobs do in the tests of warm processes: ``run('{"do": NAME, ...}', report)``."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from infra.errors import CorruptArtifactError, to_wire

Report = Callable[[dict[str, Any]], None]


def where(report: Report) -> None:
    """Tell about the process."""
    folder = tempfile.mkdtemp()
    (Path(folder) / "file").write_text("left")
    threads = os.environ["OMP_NUM_THREADS"]
    report({"kind": "where", "pid": os.getpid(), "parent": os.getppid(), "threads": threads, "folder": folder})


def steps(report: Report, count: int, pause_s: float) -> None:
    for step in range(1, count + 1):
        report({"kind": "metrics", "step": step, "values": {}})
        time.sleep(pause_s)


def leave_a_child(report: Report) -> None:
    child = subprocess.Popen(["sleep", "1000"])
    report({"kind": "child", "pid": child.pid})


def crash(report: Report) -> None:
    print("about to crash", flush=True)
    os.kill(os.getpid(), signal.SIGSEGV)


def own_error(report: Report) -> int:
    report({"kind": "error", "error": to_wire(CorruptArtifactError("model.bin", "a" * 64, "b" * 64))})
    return 2


def kill_parent(report: Report) -> None:
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(1000)


DO: dict[str, Callable[..., int | None]] = {
    "where": where,
    "steps": steps,
    "leave a child": leave_a_child,
    "crash": crash,
    "own error": own_error,
    "kill parent": kill_parent,
}


def run(argument: str, report: Report) -> int:
    order = json.loads(argument)
    return DO[order.pop("do")](report, **order) or 0
