"""The Dask cluster: worker processes on this machine, or one that runs already (``ATELIER_CLUSTER=tcp://host:port``).

A worker offers slots (Dask resource ``slot``). Every rank, and every task that keeps a core busy, holds one while it runs:
``client.submit(..., resources={"slot": 1})``. So two jobs never share one.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra._supervisor import start_supervised
from infra.errors import ServiceError, StoreAccessError
from infra.settings import Settings

if TYPE_CHECKING:
    from distributed import Client

START_TIMEOUT_S = 60.0
CONNECT_TIMEOUT_S = 10.0
MAX_STARTS = 20
KEPT_LOG_FOLDERS = 10


@contextmanager
def open_cluster(settings: Settings) -> Iterator[Client]:
    """Give a client of the cluster that the settings name; a local one is started, and is gone afterwards.

    Local workers die within a second when this process dies, however it dies; the terminal's Ctrl-C does not reach them, and what they
    print goes to log files under ``settings.state_dir / "logs"``, not to the terminal.

    Raises:
        ServiceError: the local cluster did not start, or nothing answers at the address.
    """
    with ExitStack() as stack:
        stack.enter_context(_quiet("distributed", logging.CRITICAL))
        client = _start_local(settings, stack) if settings.cluster == "local" else _connect(settings.cluster, stack)
        yield client


def num_slots(client: Client) -> int:
    """Slots of all running workers, taken or free."""
    workers = known_workers(client) or {}
    return int(sum(worker["resources"].get("slot", 0) for worker in workers.values() if worker.get("status", "running") == "running"))


def known_workers(client: Client) -> dict[str, Any] | None:
    """What the scheduler knows of its workers, by address; None if it does not answer.

    Not ``Client.scheduler_info``: every two seconds the client's own heartbeat puts an answer without workers in the place where that one looks, and
    on a busy machine it does so before the answer is read.
    """
    if client.scheduler is None:
        return None
    try:
        found: dict[str, Any] = client.sync(client.scheduler.identity, n_workers=-1)["workers"]
    except OSError:
        return None
    return found


@contextmanager
def _quiet(logger_name: str, level: int) -> Iterator[None]:
    """Raise a logger's level: Dask reports every closed connection, most of all when we close them."""
    logger = logging.getLogger(logger_name)
    before = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)


def _connect(address: str, stack: ExitStack) -> Client:
    from distributed import Client

    try:
        return stack.enter_context(Client(address, timeout=CONNECT_TIMEOUT_S, set_as_default=False))
    except (OSError, ValueError) as error:  # ValueError: an address that is none
        why = f"{error or type(error).__name__}. Check ATELIER_CLUSTER, or leave it out to use this machine."
        raise ServiceError(f"The Dask scheduler at {address}", why) from error


def _start_local(settings: Settings, stack: ExitStack) -> Client:
    workers = _LocalWorkers(settings.slots, _log_folder(settings.state_dir / "logs" / "cluster"))
    stack.callback(workers.close)
    workers.start()  # before the imports below, which take as long as theirs
    from distributed import Client, LocalCluster

    # Without a dashboard the scheduler still opens its HTTP port, and that is 8787 unless it is told otherwise: two clusters would clash.
    no_dashboard = {"dashboard": False, "dashboard_address": "127.0.0.1:0"}
    scheduler = LocalCluster(n_workers=0, host="127.0.0.1", silence_logs=logging.CRITICAL, scheduler_kwargs=no_dashboard)
    stack.enter_context(scheduler)
    client = stack.enter_context(Client(scheduler.scheduler_address, set_as_default=False))
    stack.callback(workers.close)  # first of all: closing the scheduler would wait for running tasks
    workers.join_cluster(scheduler.scheduler_address)
    deadline = time.monotonic() + START_TIMEOUT_S
    while num_slots(client) < settings.slots:
        if workers.failed or time.monotonic() > deadline:
            raise ServiceError(f"The local Dask cluster of {settings.slots} workers", workers.last_words())
        time.sleep(0.02)
    return client


def _log_folder(parent: Path) -> Path:
    """A new folder for the logs of one cluster; the oldest ones go."""
    folder = parent / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}-{time.monotonic_ns() % 10**6:06d}"
    try:
        folder.mkdir(parents=True)
        for old in sorted(parent.iterdir())[:-KEPT_LOG_FOLDERS]:
            shutil.rmtree(old, ignore_errors=True)  # another process may be doing the same
    except OSError as error:
        raise StoreAccessError(
            str(folder), error.strerror or str(error), "Choose a folder that can be written: ATELIER_WORKSPACE."
        ) from error
    return folder


def python_path() -> str:
    """``PYTHONPATH`` under which another Python finds our packages first, then what this process finds."""
    root = str(Path(__file__).resolve().parent.parent)
    own = (sys.prefix, sys.base_prefix)
    extra = [str(Path(entry).absolute()) for entry in sys.path if not entry.startswith(own) or entry == root]
    return os.pathsep.join(dict.fromkeys([root, *extra]))


class _LocalWorkers:
    """The worker processes; a thread of this object starts a new one where one died."""

    def __init__(self, num_workers: int, log_dir: Path) -> None:
        self._num_workers, self._log_dir = num_workers, log_dir
        self._address = ""
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._address_fds: dict[int, int] = {}
        self._num_starts = 0
        self._closing = threading.Event()
        self._watcher: threading.Thread | None = None

    def start(self) -> None:
        for index in range(self._num_workers):
            self._start_one(index)

    def join_cluster(self, address: str) -> None:
        """Tell the waiting processes where the scheduler is, and watch them from now on."""
        self._address = address
        for fd in self._address_fds.values():
            self._tell_address(fd)
        self._address_fds.clear()
        self._watcher = threading.Thread(target=self._watch, name="local workers", daemon=True)
        self._watcher.start()

    def _tell_address(self, fd: int) -> None:
        with os.fdopen(fd, "w") as pipe:
            try:
                pipe.write(self._address + "\n")
                pipe.flush()
            except BrokenPipeError:
                return  # it died in its imports; the watcher starts another one, and the log says why

    def _start_one(self, index: int) -> None:
        self._num_starts += 1
        read_fd, write_fd = os.pipe()
        command = [sys.executable, "-P", "-m", "infra._dask_worker", f"local-{index}-{self._num_starts}", str(read_fd)]
        with (self._log_dir / f"worker-{index}.log").open("ab") as log:
            self._processes[index] = start_supervised(
                command,
                env={**os.environ, "PYTHONPATH": python_path(), "PYTHONUNBUFFERED": "1"},
                output_fd=log.fileno(),
                pass_fds=[read_fd],
                grace_s=0.5,
            )
        os.close(read_fd)
        if self._address:
            self._tell_address(write_fd)
        else:
            self._address_fds[index] = write_fd

    @property
    def failed(self) -> bool:
        """Whether they die as fast as they are started."""
        return self._num_starts >= self._num_workers + MAX_STARTS

    def _watch(self) -> None:
        while not self._closing.wait(0.2):
            for index, process in list(self._processes.items()):
                if process.poll() is not None and not self.failed:
                    self._release(process)
                    self._start_one(index)

    def _release(self, process: subprocess.Popen[bytes]) -> None:
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()

    def last_words(self) -> str:
        logs = [path.read_text(errors="replace").strip().splitlines()[-15:] for path in sorted(self._log_dir.glob("*.log"))]
        return "\n".join(next((lines for lines in logs if lines), ["the workers did not answer in time"])) + f"\nLogs: {self._log_dir}"

    def close(self) -> None:
        if self._closing.is_set():
            return
        self._closing.set()
        if self._watcher is not None:
            self._watcher.join()
        for fd in self._address_fds.values():
            os.close(fd)
        for process in self._processes.values():
            if process.stdin is not None:
                process.stdin.close()
        for process in self._processes.values():
            process.wait(timeout=10)
            self._release(process)
