"""Worker processes that this process starts, watches and ends: those of this machine, and ``ssh`` with one behind it on another."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from infra._supervisor import start_supervised

LONG_LIFE_S = 30.0
LONGEST_PAUSE_S = 30.0
WATCH_S = 0.2
RETIRE_S = 10.0  # for a worker that was retired to end by itself: a rank on it commits first


@dataclass(frozen=True)
class Place:
    """Where one worker may be.

    Attributes:
        name: begin of the workers' names, and name of the log file.
        command: starts a worker there, given the file descriptor from which it is told where the scheduler is.
    """

    name: str
    command: Callable[[int], list[str]]


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    order_fd: int
    started: float = field(default_factory=time.monotonic)
    end_at: float = 0.0  # when it is ended if it is not wanted

    def close(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        if self.order_fd >= 0:
            os.close(self.order_fd)
            self.order_fd = -1


def restart_pause_s(num_short_lives: int) -> float:
    """How long to wait before a worker is started again whose last ``num_short_lives`` (at least 1) ended within half a minute, seconds."""
    return 0.0 if num_short_lives <= 3 else float(min(LONGEST_PAUSE_S, 2 ** (num_short_lives - 3)))


class WorkerProcesses:
    """A ``Pool`` of processes; a thread of this object starts a new one where one died.

    A worker's name is ``PLACE-NUMBER``: every start has a name of its own, since the scheduler may not have noticed yet that the one before is gone.
    """

    def __init__(self, places: Sequence[Place], log_dir: Path, env: Mapping[str, str], *, most_failures: int) -> None:
        self._places, self._log_dir, self._env, self._most_failures = places, log_dir, env, most_failures
        self._order: dict[str, Any] = {}
        self._workers: dict[int, _Worker] = {}
        self._wanted: set[int] = set()
        self._num_starts = [0] * len(places)
        self._num_short_lives = [0] * len(places)
        self._start_at = [0.0] * len(places)
        self._settled = False
        self._last_failed = ""
        self._retire: Callable[[list[str]], object] = lambda names: None
        self._closing = threading.Event()
        self._lock = threading.RLock()
        self._watcher: threading.Thread | None = None

    def start(self, num_workers: int) -> None:
        """Start processes that wait for ``join_cluster``."""
        with self._lock:
            for index in range(num_workers):
                self._wanted.add(index)
                self._start_one(index)

    def join_cluster(self, order: dict[str, Any], retire: Callable[[list[str]], object]) -> None:
        """Tell the waiting processes where the scheduler is (see ``infra._dask_worker``), and watch them from now on.

        Args:
            order: for all of them; each gets its name besides.
            retire: lets the scheduler take leave of workers, given their names, before they are ended.
        """
        with self._lock:
            self._retire = retire
            self._order = order
            for index in self._workers:
                self._tell(index)
        self._watcher = threading.Thread(target=self._watch, name="workers", daemon=True)
        self._watcher.start()

    def settle(self) -> None:
        """All have come once: from now on, what fails is tried again without end."""
        self._settled = True

    def grow(self, num_workers: int) -> None:
        with self._lock:
            free = [index for index in range(len(self._places)) if index not in self._wanted]
            for index in free[: max(0, num_workers - len(self._wanted))]:
                self._wanted.add(index)
                if index not in self._workers:
                    self._start_one(index)

    def shrink(self, names: list[str]) -> None:
        self._retire(names)
        with self._lock:
            for index, worker in self._workers.items():
                if self._name(index) in names:
                    self._wanted.discard(index)
                    worker.end_at = time.monotonic() + RETIRE_S

    def _name(self, index: int) -> str:
        return f"{self._places[index].name}-{self._num_starts[index]}"

    def _tell(self, index: int) -> None:
        line = json.dumps({**self._order, "name": self._name(index)}) + "\n"
        try:
            os.write(self._workers[index].order_fd, line.encode())
        except BrokenPipeError:
            return  # it died in its imports; the watcher starts another one, and the log says why

    def _start_one(self, index: int) -> None:
        self._num_starts[index] += 1
        read_fd, write_fd = os.pipe()
        place = self._places[index]
        with (self._log_dir / f"{place.name}.log").open("ab") as log:
            process = start_supervised(place.command(read_fd), env=self._env, output_fd=log.fileno(), pass_fds=[read_fd], grace_s=0.5)
        os.close(read_fd)
        self._workers[index] = _Worker(process, write_fd)
        if self._order:
            self._tell(index)

    @property
    def failed(self) -> bool:
        """Whether they die as fast as they are started; never, once all have come."""
        return not self._settled and sum(self._num_short_lives) > self._most_failures

    def _watch(self) -> None:
        while not self._closing.wait(WATCH_S):
            with self._lock:
                for index in list(self._workers):
                    self._look_at(index)
                now = time.monotonic()
                for index in self._wanted - set(self._workers):
                    if now >= self._start_at[index] and not self.failed:
                        self._start_one(index)

    def _look_at(self, index: int) -> None:
        worker, now = self._workers[index], time.monotonic()
        if worker.process.poll() is None:
            over = index not in self._wanted and now > worker.end_at
            if over and worker.process.stdin is not None and not worker.process.stdin.closed:
                worker.process.stdin.close()  # the supervisor ends it
            return
        worker.close()
        del self._workers[index]
        retired = worker.end_at > 0  # and wanted again before it was gone
        short = index in self._wanted and not retired and now - worker.started < LONG_LIFE_S
        if short:
            self._last_failed = self._places[index].name
        self._num_short_lives[index] = self._num_short_lives[index] + 1 if short else 0
        self._start_at[index] = now + (restart_pause_s(self._num_short_lives[index]) if short else 0.0)

    def last_words(self) -> str:
        paths = sorted(self._log_dir.glob("*.log"), key=lambda path: (path.stem != self._last_failed, path.name))
        logs = [path.read_text(errors="replace").strip().splitlines()[-15:] for path in paths]
        return "\n".join(next((lines for lines in logs if lines), ["the workers did not answer in time"])) + f"\nLogs: {self._log_dir}"

    def close(self) -> None:
        if self._closing.is_set():
            return
        self._closing.set()
        if self._watcher is not None:
            self._watcher.join()
        for worker in self._workers.values():
            if worker.process.stdin is not None and not worker.process.stdin.closed:
                worker.process.stdin.close()
        for worker in self._workers.values():
            worker.process.wait(timeout=10)
            worker.close()
