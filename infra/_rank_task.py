"""What a Dask worker does for one rank: a task that holds the slot, starts the rank's process under a supervisor, and relays what it reports.

The task announces itself, waits for its order (``deliver``), and runs until the rank has ended. It looks after itself: cancelling does not
stop a thread of Dask's, so it ends the rank when its own task is no longer wanted or the worker closes.
"""

from __future__ import annotations

import importlib.util
import json
import os
import queue
import selectors
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra._supervisor import start_supervised
from infra.cluster import python_path
from infra.collectives import THREAD_VARIABLES

if TYPE_CHECKING:
    from distributed import Worker

POLL_S = 0.1
RELAY_S = 0.05  # events are sent in batches, so that a chatty rank does not flood the scheduler
MAX_BATCH_BYTES = 2**18
TAIL_BYTES, TAIL_LINES = 2**15, 100
OUTPUT_BYTES = 2**18  # of each rank's output are kept with its run: the last
TASK_VARIABLE = "ATELIER_RANK_TASK"
# What a worker may have in its environment and a rank must not take from there.
FOREIGN = {*THREAD_VARIABLES, "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "ATELIER_STORE_FD"}

# Orders for the tasks of this worker, by task key: {} or "stop". Dask runs `deliver` and the task in one process.
_ORDERS: dict[str, queue.SimpleQueue[dict[str, Any] | None]] = {}


def deliver(orders: dict[str, dict[str, Any] | None]) -> list[str]:
    """Give the tasks of this worker their orders (None: stop); run by ``Client.run``. Returns the keys of tasks that are here."""
    found = [key for key in orders if key in _ORDERS]
    for key in found:
        _ORDERS[key].put(orders[key])
    return found


@dataclass
class Outcome:
    """How a rank ended, as far as its supervisor told."""

    pid: int = 0
    status: int | None = None
    ended: bool = False
    peak_kib: int = 0
    text: bytes = b""

    def read(self, chunk: bytes) -> None:
        self.text += chunk
        for line in self.text.split(b"\n"):
            match line.split():
                case [b"started", pid]:
                    self.pid = int(pid)
                case [b"exited", status, ended, peak]:
                    self.status, self.ended, self.peak_kib = int(status), ended == b"1", int(peak)


@dataclass
class Relay:
    """Sends a rank's events to the driver, in batches, numbered so that the driver knows when it has all."""

    worker: Worker
    topic: str
    key: str
    num_batches: int = 0
    error: dict[str, Any] | None = None
    _events: list[dict[str, Any]] = field(default_factory=list)
    _rest: bytes = b""
    _sent_at: float = 0.0

    def read(self, chunk: bytes) -> None:
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in filter(None, lines):
            self.add(parse_event(line))

    def add(self, event: dict[str, Any]) -> None:
        if event["kind"] == "error":
            self.error = event
        self._events.append(event)

    def send(self, *, now: bool = False) -> None:
        if self._events and (now or time.monotonic() - self._sent_at >= RELAY_S):
            self.worker.log_event(self.topic, {"key": self.key, "number": self.num_batches, "events": json.dumps(self._events)})
            self.num_batches += 1
            self._events = []
            self._sent_at = time.monotonic()


def parse_event(line: bytes) -> dict[str, Any]:
    """A line that a rank wrote as an event; what is none becomes a ``log`` of its text."""
    try:
        event = json.loads(line)
    except ValueError:
        event = None
    if isinstance(event, dict) and isinstance(event.get("kind"), str):
        return event
    return {"kind": "log", "message": line.decode(errors="replace")}


def here_of(worker: Worker) -> dict[str, Any]:
    """What the driver has to know of this worker to plan the job."""
    import psutil
    from dask.system import CPU_COUNT

    host = socket.gethostbyname(worker.address.split("://")[-1].rsplit(":", 1)[0].strip("[]"))
    interfaces = [name for name, addresses in psutil.net_if_addrs().items() if any(a.address == host for a in addresses)]
    horovod = importlib.util.find_spec("horovod")
    folders = horovod.submodule_search_locations or [] if horovod else []
    return {
        "address": worker.address,
        "host": host,
        "interface": interfaces[0] if interfaces else "",
        "cores": CPU_COUNT,
        # Not imported: that takes seconds. The extension is there or it is not.
        "horovod": any(list(Path(folder).glob("torch/mpi_lib*.so")) for folder in folders),
    }


def unwanted(worker: Worker, key: str) -> bool:
    """Whether the task was cancelled or the worker is closing; neither interrupts a task's thread."""
    task = worker.state.tasks.get(key)
    return task is None or task.state != "executing" or worker.status.name not in ("running", "paused", "closing_gracefully")


def _wait_for_order(worker: Worker, key: str) -> dict[str, Any] | None:
    while not unwanted(worker, key):
        try:
            return _ORDERS[key].get(timeout=POLL_S)
        except queue.Empty:
            continue
    return None


def open_log(folder: str, name: str) -> tuple[Path, str]:
    """The rank's log file in the driver's folder; in this machine's own temporary one if that cannot be written here, and why."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with (Path(folder) / name).open("ab"):
            return Path(folder) / name, ""
    except OSError as error:
        own = Path(tempfile.mkdtemp(prefix="atelier-ranks-"))
        return own / name, f"{folder} cannot be written on this worker ({error}); the rank's output is in {own}"


def last_words(log: Path, begin: int = 0) -> str:
    """The last lines of a log, from byte ``begin`` on."""
    with log.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(begin, size - TAIL_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    return "\n".join(lines[-TAIL_LINES:])


def output_of(log: Path) -> str:
    """What a rank printed; of very much the last part, which says so."""
    with log.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - OUTPUT_BYTES))
        text = file.read().decode(errors="replace")
    return text if size <= OUTPUT_BYTES else f"... {size - OUTPUT_BYTES} bytes before this are left out\n{text}"


def _environment(order: dict[str, Any], key: str, events_fd: int, store_fd: int | None) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if name not in FOREIGN and not name.startswith("HOROVOD_")}
    own = {
        "PYTHONPATH": python_path(),
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",
        "ATELIER_EVENTS_FD": str(events_fd),
        TASK_VARIABLE: key,
    }
    if store_fd is not None:
        own["ATELIER_STORE_FD"] = str(store_fd)
    return inherited | own | order["env"]


def _follow(process: subprocess.Popen[bytes], events_fd: int, relay: Relay, worker: Worker, key: str) -> Outcome:
    """Relay the rank's events until its supervisor says how it ended; end it when nobody wants it any more."""
    assert process.stdin is not None
    assert process.stdout is not None
    outcome = Outcome()
    status_fd = process.stdout.fileno()
    os.set_blocking(events_fd, False)
    with selectors.DefaultSelector() as selector:
        for fd in (events_fd, status_fd):
            selector.register(fd, selectors.EVENT_READ)
        while outcome.status is None:
            for ready, _ in selector.select(RELAY_S if relay._events else POLL_S):
                chunk = os.read(ready.fd, MAX_BATCH_BYTES)
                if not chunk:
                    selector.unregister(ready.fd)
                (relay if ready.fd == events_fd else outcome).read(chunk)
            relay.send()
            if not _ORDERS[key].empty() or unwanted(worker, key):
                process.stdin.close()
            if status_fd not in selector.get_map():  # the supervisor was killed, and the kernel killed the rank
                break
    if outcome.status is None:
        _kill_leftovers(key)
    _drain(events_fd, relay)
    relay.read(b"\n")
    relay.send(now=True)
    return outcome


def _kill_leftovers(key: str) -> None:
    """Kill what the rank started, known by the task's key in its environment: its supervisor, which does this otherwise, is dead."""
    import psutil

    for process in psutil.process_iter():
        try:
            if process.environ().get(TASK_VARIABLE) == key:
                process.kill()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue


def _drain(events_fd: int, relay: Relay) -> None:
    """Read what is in the pipe; something that the rank left behind may hold it open, and is not waited for."""
    try:
        while chunk := os.read(events_fd, MAX_BATCH_BYTES):
            relay.read(chunk)
    except BlockingIOError:
        return


def run_rank(topic: str) -> dict[str, Any]:
    """Run one rank to its end, as a Dask task.

    Returns:
        How it ended, JSON values; ``status`` is None if its supervisor was killed too. Without ``rank`` it never started.
    """
    from distributed import get_worker

    worker = get_worker()
    key = str(worker.get_current_task())
    relay = Relay(worker, topic, key)
    _ORDERS[key] = queue.SimpleQueue()
    try:
        here = here_of(worker)
        with socket.create_server((here["host"], 0), family=socket.AF_INET6 if ":" in here["host"] else socket.AF_INET) as store:
            worker.log_event(topic, {"key": key, "ready": {**here, "port": store.getsockname()[1]}})
            order = _wait_for_order(worker, key)
            result = {"num_batches": 0} if order is None else _run(order, worker, key, relay, store.fileno())
        # Also as an event: the result of a task that was cancelled meanwhile is thrown away, and the driver waits to hear that the rank is gone.
        worker.log_event(topic, {"key": key, "result": json.dumps(result)})
        return result
    finally:
        del _ORDERS[key]


def _run(order: dict[str, Any], worker: Worker, key: str, relay: Relay, store_fd: int) -> dict[str, Any]:
    log, complaint = open_log(order["log_dir"], f"rank-{order['rank']}.log")
    if complaint:
        relay.add({"kind": "log", "message": complaint})
    events_fd, write_fd = os.pipe()
    pass_fds = [write_fd, store_fd] if order["needs_store"] else [write_fd]
    env = _environment(order, key, write_fd, store_fd if order["needs_store"] else None)
    command = [sys.executable, "-P", "-m", order["module"], order["argument"]]
    try:
        try:
            with log.open("ab") as output:
                process = start_supervised(command, env=env, output_fd=output.fileno(), pass_fds=pass_fds, grace_s=order["grace_s"])
        finally:
            os.close(write_fd)
        with process:
            outcome = _follow(process, events_fd, relay, worker, key)
    finally:
        os.close(events_fd)
    return {
        "rank": order["rank"],
        "status": outcome.status,
        "ended": outcome.ended,
        "peak_mib": outcome.peak_kib // 1024,
        "error": relay.error,
        "last_words": last_words(log),
        "output": output_of(log),
        "num_batches": relay.num_batches,
        "log": str(log),
    }
