"""``atelier serve`` itself: one worker in this process, or several processes that share the port, each started again when it dies."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from deployments.serving.options import ServeOptions
from infra.audit import write_down
from infra.errors import AtelierError, ServiceError, from_wire
from infra.settings import load_settings
from infra.store import open_store

_FIRST_WAIT_S, _LONGEST_WAIT_S, _STEADY_S = 0.5, 30.0, 60.0


def serve(options: ServeOptions) -> int:
    """Serve until asked to stop; the exit status."""
    from deployments.serving.access import check_access
    from deployments.serving.worker import address_of, bind, run

    settings = load_settings()
    check_access(options.host, settings, "atelier serve")
    bound = bind(options.host, options.port)

    def tell(address: str) -> None:
        """The audit log has servers that serve: those whose models are not there never started."""
        try:
            write_down(open_store(settings.workspace_uri), "serve", ", ".join(options.models), address=address, capture=options.capture)
        except AtelierError as error:  # a server may have a workspace that it can only read
            print(f"the audit log cannot be written: {error}", file=sys.stderr, flush=True)

    if options.workers == 1:
        return run(options, bound, tell)
    port = bound.getsockname()[1]
    bound.close()  # nobody else has the port; now it can be shared
    # This socket only keeps the port; the workers' own ones listen.
    with bind(options.host, port, shared=True) as bound:
        address = address_of(bound)
        return Supervisor(options.model_copy(update={"port": port}), address, tell).run()


def seconds_until_restart(lived_s: float, deaths: int) -> float:
    """How long to wait before a worker that died is started again: at once after a long life, longer and longer if it dies at once."""
    return 0.0 if lived_s >= _STEADY_S else min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2 ** max(0, deaths - 1))


class Supervisor:
    """Several workers. They end with it: each watches the pipe that is its standard input."""

    def __init__(self, options: ServeOptions, address: str, before_serving: Callable[[str], None]) -> None:
        self._options, self._address, self._before_serving = options, address, before_serving
        self._folder = Path(tempfile.mkdtemp(prefix="atelier-serving-"))  # workers' metrics
        self._workers: dict[int, subprocess.Popen[bytes]] = {}
        self._stopping = threading.Event()

    def run(self) -> int:
        """Start all, keep them up, and stop them on SIGTERM or SIGINT."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._asked_to_stop)
        try:
            begun = {slot: self._start(slot) for slot in range(self._options.workers)}
            for slot in range(self._options.workers):
                self._wait_until_ready(slot)
            self._before_serving(self._address)
            print(f"serving {self._address}", flush=True)
            self._keep_up(begun)
            return 0
        finally:
            self._stop()
            shutil.rmtree(self._folder, ignore_errors=True)

    def _asked_to_stop(self, number: int, frame: FrameType | None) -> None:
        self._stopping.set()

    def _start(self, slot: int) -> float:
        command = [sys.executable, "-m", "deployments.serving.worker", self._options.model_dump_json()]
        environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(self._folder)}
        self._workers[slot] = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        return time.monotonic()

    def _wait_until_ready(self, slot: int) -> None:
        """Raises:
        AtelierError: the worker's own error, if it could not start.
        """
        worker = self._workers[slot]
        assert worker.stdout is not None
        line = worker.stdout.readline().decode()
        if line.startswith("failed "):
            raise from_wire(json.loads(line.removeprefix("failed ")))
        if not line.startswith("serving "):
            raise ServiceError("A worker of the inference server", f"it ended with status {worker.wait()}; its log is above")

    def _keep_up(self, begun: dict[int, float]) -> None:
        deaths = dict.fromkeys(begun, 0)
        due: dict[int, float] = {}
        while not self._stopping.wait(0.1):
            for slot, worker in list(self._workers.items()):
                if slot not in due and worker.poll() is not None:
                    deaths[slot] = 1 if time.monotonic() - begun[slot] >= _STEADY_S else deaths[slot] + 1
                    wait_s = seconds_until_restart(time.monotonic() - begun[slot], deaths[slot])
                    print(f"worker {worker.pid} ended with status {worker.returncode}; another one starts", file=sys.stderr, flush=True)
                    self._forget(worker.pid)
                    due[slot] = time.monotonic() + wait_s
                if slot in due and time.monotonic() >= due[slot]:
                    del due[slot]
                    begun[slot] = self._start(slot)

    def _forget(self, pid: int) -> None:
        from prometheus_client.multiprocess import mark_process_dead

        mark_process_dead(pid, str(self._folder))

    def _stop(self) -> None:
        for worker in self._workers.values():
            if worker.poll() is None:
                worker.send_signal(signal.SIGTERM)
        for worker in self._workers.values():
            try:
                worker.wait(timeout=self._options.drain_s + 60)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()
            for pipe in (worker.stdin, worker.stdout):
                if pipe is not None:
                    pipe.close()
