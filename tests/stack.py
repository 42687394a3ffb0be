"""A running local stack for tests: ``atelier up`` in a process of its own, and Prefect's API as its pages use it."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from tests.processes import marked

MARK = "ATELIER_TEST_STACK"
PATIENCE_S = 600.0


def wait_for(what: str, look: Callable[[], Any], limit_s: float = PATIENCE_S, raises: type[Exception] | tuple[()] = ()) -> Any:
    """What ``look`` answers, as soon as that is something; errors of ``raises`` go on, others of the network are waited out."""
    end = time.monotonic() + limit_s
    told = ""
    while time.monotonic() < end:
        try:
            if found := look():
                return found
        except raises:
            raise
        except (URLError, OSError, ValueError) as error:
            told = str(error)
        time.sleep(0.2)
    raise AssertionError(f"{what}: not in {limit_s:.0f} s {told}")


class Stack:
    """A stack that runs.

    Attributes:
        workspace: its folder.
        environment: of a shell beside it.
    """

    def __init__(self, workspace: Path, environment: Mapping[str, str], process: subprocess.Popen[str]) -> None:
        self.workspace, self.environment, self.process = workspace, dict(environment), process
        self.lines: list[str] = []

    @property
    def addresses(self) -> dict[str, str]:
        found: dict[str, str] = json.loads((self.workspace / "stack" / "addresses.json").read_text())
        return found

    @property
    def pids(self) -> dict[str, int]:
        found: dict[str, int] = json.loads((self.workspace / "stack" / "pids.json").read_text())
        return found

    @property
    def serving(self) -> str:
        return self.addresses["serving"].removesuffix("/docs")

    def api(self, path: str, body: Any = None, method: str = "") -> Any:
        """Ask Prefect's API; where its database is busy (503) again, as its pages do."""

        def ask() -> tuple[bytes] | None:
            try:
                with urlopen(request, timeout=60) as answer:
                    return (answer.read(),)
            except HTTPError as error:
                if error.code != 503:
                    raise
                error.close()
                return None

        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        if login := self.environment.get("ATELIER_LOGIN"):
            headers["Authorization"] = "Basic " + base64.b64encode(login.encode()).decode()
        request = Request(f"{self.addresses['api']}{path}", data, headers, method=method or ("POST" if data else "GET"))
        (text,) = wait_for(path, ask, raises=HTTPError)
        return json.loads(text) if text else None

    def start_run(self, deployment: str, parameters: Mapping[str, Any]) -> str:
        """What the button of Prefect's form does; the run's id."""
        found = self.api(f"/deployments/name/{deployment}")
        run = self.api(f"/deployments/{found['id']}/create_flow_run", {"parameters": parameters, "state": {"type": "SCHEDULED"}})
        return str(run["id"])

    def runs_of(self, deployment: str) -> list[dict[str, Any]]:
        number = self.api(f"/deployments/name/{deployment}")["id"]
        body = {"flow_runs": {"deployment_id": {"any_": [number]}}, "sort": "EXPECTED_START_TIME_ASC"}
        return list(self.api("/flow_runs/filter", body))

    def finish(self, run_id: str) -> dict[str, Any]:
        """Wait until the run has ended well."""

        def look() -> dict[str, Any] | None:
            run: dict[str, Any] = self.api(f"/flow_runs/{run_id}")
            return run if run["state_type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED") else None

        run: dict[str, Any] = wait_for(f"the run {run_id}", look)
        assert run["state_type"] == "COMPLETED", f"{run['name']}: {run['state']['message']}\n{self.logs(run_id)}"
        return run

    def logs(self, run_id: str) -> str:
        rows = self.api("/logs/filter", {"logs": {"flow_run_id": {"any_": [run_id]}}, "sort": "TIMESTAMP_ASC"})
        return "\n".join(row["message"] for row in rows)

    def command(self, *words: str) -> str:
        """``atelier WORDS`` beside the stack."""
        done = subprocess.run(
            [sys.executable, "-m", "deployments.cli", *words],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.returncode == 0, f"atelier {' '.join(words)}: {done.stdout}{done.stderr}"
        return done.stdout


@contextmanager
def running_stack(workspace: Path, mark: str, **settings: str) -> Iterator[Stack]:
    """``atelier up --free-ports`` until it is ready; asked to stop at the end, and nothing may be left."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")},
        "ATELIER_WORKSPACE": str(workspace),
        "ATELIER_SLOTS": "1",
        "PREFECT_HOME": str(workspace / "prefect"),
        MARK: mark,
        **settings,
    }
    log = workspace.with_name(f"{workspace.name}-up.log")
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "deployments.cli", "up", "--free-ports"], env=environment, stdout=output, stderr=output, text=True
        )
    stack = Stack(workspace, environment, process)
    try:

        def ready() -> bool:
            assert process.poll() is None, f"status {process.returncode}: {log.read_text()}"
            return (workspace / "stack" / "addresses.json").exists() and "ready; Ctrl-C" in log.read_text()

        wait_for("the stack", ready)
        yield stack
    except BaseException:
        sys.stderr.write(log.read_text())
        for path in sorted((workspace / "logs" / "stack").glob("*.log")):
            sys.stderr.write(f"== {path.name}\n{path.read_text(errors='replace')[-1500:]}\n")
        raise
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=180)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    assert process.returncode == 0, log.read_text()
    assert "stopping" in log.read_text()
    wait_for("the end of all its processes", lambda: not marked(MARK, mark), 30)
