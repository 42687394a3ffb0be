"""A real PostgreSQL server for tests, on a free port of loopback; without PostgreSQL on the machine the tests that want one are skipped."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

START_S = 30.0


def find_program(name: str) -> str | None:
    """On the path, or where Debian keeps it."""
    return shutil.which(name) or next(map(str, sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True)), None)


def as_other_user() -> dict[str, Any]:
    """PostgreSQL refuses to run as root: arguments of ``subprocess`` that make it nobody's."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


@pytest.fixture(scope="session")
def postgres_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """``postgresql://`` URL of an empty database."""
    initdb, postgres = find_program("initdb"), find_program("postgres")
    if initdb is None or postgres is None:
        pytest.skip("this machine has no PostgreSQL (initdb and postgres)")
    # Not in pytest's own folder, which another user may not enter.
    folder = Path(f"/tmp/atelier-postgres-{os.getpid()}")
    folder.mkdir(mode=0o700)
    user = as_other_user()
    try:
        if user:
            os.chown(folder, user["user"], user["group"])
        command = [initdb, "--no-sync", "--auth=trust", "--username=atelier", "-D", str(folder / "data")]
        subprocess.run(command, check=True, capture_output=True, timeout=60, cwd=folder, **user)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [postgres, "-D", str(folder / "data"), "-h", "127.0.0.1", "-p", str(port), "-k", str(folder), "-F"]
        log = tmp_path_factory.mktemp("postgres") / "log"
        with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output, cwd=folder, **user) as server:
            try:
                _wait(server, port, log)
                yield f"postgresql://atelier@127.0.0.1:{port}/postgres"
            finally:
                server.send_signal(signal.SIGINT)  # fast shutdown: open connections are closed
                server.wait(20)
    finally:
        shutil.rmtree(folder)


def _wait(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    limit = time.monotonic() + START_S
    while "ready to accept connections" not in log.read_text():
        assert server.poll() is None, log.read_text()
        assert time.monotonic() < limit, f"PostgreSQL did not answer on port {port} in {START_S:.0f} s: {log.read_text()}"
        time.sleep(0.05)
