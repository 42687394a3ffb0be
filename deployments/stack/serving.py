"""The inference server of the stack: ``python -m deployments.stack.serving HOST PORT CAPTURE``. It serves every model that has a champion.

It waits for the first model; for a further one a second server takes over on the same port before the first one drains.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterable

from deployments.serving.options import ServeOptions
from deployments.stack.health import say_ready
from infra.errors import AtelierError
from infra.registry import CHAMPION, ModelVersion, Registry
from infra.settings import load_settings
from infra.store import open_store

_LOOK_S = 2.0
_START_S = 120.0


def served_names(versions: Iterable[ModelVersion]) -> list[str]:
    """The models that have a champion."""
    return sorted({version.name for version in versions if CHAMPION in version.aliases})


class Server:
    """One server process at a time, or two while one takes over."""

    def __init__(self, host: str, port: int, capture: float) -> None:
        self._host, self._port, self._capture = host, port, capture
        self._process: subprocess.Popen[bytes] | None = None
        self._names: list[str] = []

    def serve(self, names: list[str]) -> None:
        """Let a process that serves these models take over; the present one drains and ends."""
        options = ServeOptions(models=names, host=self._host, port=self._port, capture=self._capture, capture_s=2.0)
        command = [sys.executable, "-m", "deployments.serving.worker", options.model_dump_json()]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdout is not None
        line = process.stdout.readline().decode()
        if not line.startswith("serving "):
            self._end(process)
            print(f"the models {', '.join(names)} cannot be served: {line or 'see above'}", file=sys.stderr, flush=True)
            return
        print(line.strip(), flush=True)
        before, self._process, self._names = self._process, process, names
        if before is not None:
            self._end(before)

    def tend(self, names: list[str]) -> bool:
        """Serve these models, if they are not served yet; False if the server died."""
        if self._process is not None and self._process.poll() is not None:
            return False
        if names and names != self._names:
            self.serve(names)
        return True

    def stop(self) -> None:
        if self._process is not None:
            self._end(self._process)

    @staticmethod
    def _end(process: subprocess.Popen[bytes]) -> None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=45)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def main() -> int:
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    settings = load_settings()
    registry = Registry(settings, open_store(settings.workspace_uri))
    server = Server(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
    told = ""
    try:
        while not stopping.is_set():
            try:
                if not server.tend(served_names(registry.versions())):
                    return 1  # the keeper starts this process again, and says so
                told = ""
            except (AtelierError, OSError) as error:
                if str(error) != told:
                    print(f"the registry cannot be read: {error}", file=sys.stderr, flush=True)
                told = str(error)
            say_ready()
            stopping.wait(_LOOK_S)
        return 0
    finally:
        server.stop()


if __name__ == "__main__":
    sys.exit(main())
