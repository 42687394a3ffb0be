"""What a Dask worker does for one job: a task that holds the slot, takes a warm process (or starts one), and relays what the job reports.

Warm processes outlive a task and wait for the next one of the same pool, at most ``IDLE_S``; each runs under a supervisor, so it ends with
the Dask worker, however that ends.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra._rank_task import FOREIGN, MAX_BATCH_BYTES, POLL_S, Outcome, Relay, last_words, open_log, parse_event, unwanted
from infra._supervisor import start_supervised
from infra.cluster import python_path
from infra.collectives import THREAD_VARIABLES

if TYPE_CHECKING:
    from distributed import Worker

IDLE_S = 60.0
_lock = threading.Lock()
_idle: dict[str, list[Warm]] = {}
_stops: dict[str, int] = {}  # by task key: what wakes the task up to stop its job


@dataclass
class Warm:
    """A warm process and the lines to it."""

    process: subprocess.Popen[bytes]
    control_fd: int
    events_fd: int
    log: Path
    timer: threading.Timer | None = None

    def order(self, order: dict[str, Any]) -> None:
        data = json.dumps(order).encode() + b"\n"
        while data:
            data = data[os.write(self.control_fd, data) :]

    def close(self) -> None:
        """End it and wait until it is gone."""
        if self.timer is not None:
            self.timer.cancel()
        os.close(self.control_fd)
        os.close(self.events_fd)
        with self.process:  # closes its standard input, which ends it, and waits
            pass


@dataclass
class Heard:
    """What is heard of a job while it runs."""

    relay: Relay
    status: int | None = None
    peak_kib: int = 0
    ended: bool = False
    stopped: bool = False
    late: bool = False
    rest: bytes = b""
    outcome: Outcome = field(default_factory=Outcome)

    def read(self, chunk: bytes) -> None:
        *lines, self.rest = (self.rest + chunk).split(b"\n")
        for line in filter(None, lines):
            event = parse_event(line)
            if event["kind"] == "ended":
                self.status, self.peak_kib, self.ended = event["status"], event["peak_kib"], True
            elif event["kind"] != "warm":
                self.relay.add(event)
        self.relay.send(now=True)  # a pruner waits for it


def stop(key: str) -> bool:
    """Stop the job of a task of this worker; run by ``Client.run``. Whether the task is here."""
    with _lock:
        if key in _stops:
            os.write(_stops[key], b"s")
        return key in _stops


def end_idle(pool: str) -> int:
    """End the waiting processes of a pool; run by ``Client.run`` when nothing more will come. Returns how many there were."""
    with _lock:
        found = _idle.pop(pool, [])
    for warm in found:
        warm.close()
    return len(found)


def run_job(topic: str, order: dict[str, Any]) -> dict[str, Any]:
    """Run one job to its end, as a Dask task.

    Returns:
        ``status`` (None: the warm process itself died), ``stopped`` (it was asked to), ``late`` (it ran past its deadline), ``error`` (its own
        last ``error`` event), ``last_words``, ``num_batches``; the same goes to the topic.
    """
    from distributed import get_worker

    worker = get_worker()
    key = str(worker.get_current_task())
    relay = Relay(worker, topic, key)
    stop_fd, stop_write_fd = os.pipe()
    with _lock:
        _stops[key] = stop_write_fd
    try:
        worker.log_event(topic, {"key": key, "began": worker.address})
        warm = take(order["pool"]) or start_warm(order, key)
        begin = warm.log.stat().st_size
        job = Heard(relay)
        try:
            warm.order({"argument": order["argument"], "env": order["env"]})
            _follow(warm, job, stop_fd, worker, key, time.monotonic() + order["deadline_s"])
        except BrokenPipeError:
            job.ended = False  # it died between two jobs
        words = "" if job.status == 0 else last_words(warm.log, begin)
        give_back(order["pool"], warm) if job.ended else warm.close()
        result = {
            "status": job.status,
            "stopped": job.stopped,
            "late": job.late,
            "error": relay.error,
            "last_words": words,
            "num_batches": relay.num_batches,
        }
        worker.log_event(topic, {"key": key, "result": json.dumps(result)})
        return result
    finally:
        with _lock:
            del _stops[key]
        os.close(stop_fd)
        os.close(stop_write_fd)


def take(pool: str) -> Warm | None:
    """A waiting process of the pool, if there is one."""
    with _lock:
        waiting = _idle.get(pool, [])
        warm = waiting.pop() if waiting else None
    if warm is None:
        return None
    if warm.timer is not None:
        warm.timer.cancel()
    if warm.process.poll() is None:
        return warm
    warm.close()
    return take(pool)


def give_back(pool: str, warm: Warm) -> None:
    """Keep the process for the next job of its pool, for a while."""

    def expire() -> None:
        with _lock:
            if warm not in _idle.get(pool, []):
                return  # taken in the last moment
            _idle[pool].remove(warm)
        warm.close()

    warm.timer = threading.Timer(IDLE_S, expire)
    warm.timer.daemon = True
    with _lock:
        _idle.setdefault(pool, []).append(warm)
    warm.timer.start()


def start_warm(order: dict[str, Any], key: str, grace_s: float = 0.2) -> Warm:
    """A new process that loads ``order["preload"]``; it takes orders at once, and follows them when it is ready."""
    log, _ = open_log(order["log_dir"], f"{key}.log")
    control_fd, control_write_fd = os.pipe()
    events_fd, events_write_fd = os.pipe()
    inherited = {name: value for name, value in os.environ.items() if name not in FOREIGN and not name.startswith("HOROVOD_")}
    env = {
        **inherited,
        **order["env"],
        "PYTHONPATH": python_path(),
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",
        "ATELIER_EVENTS_FD": str(events_write_fd),
    }
    command = [sys.executable, "-P", "-m", "infra._warm_process", order["module"], str(control_fd), *order["preload"]]
    try:
        with log.open("ab") as output:
            process = start_supervised(command, env=env, output_fd=output.fileno(), pass_fds=[control_fd, events_write_fd], grace_s=grace_s)
    finally:
        os.close(control_fd)
        os.close(events_write_fd)
    os.set_blocking(events_fd, False)
    return Warm(process, control_write_fd, events_fd, log)


def _follow(warm: Warm, job: Heard, stop_fd: int, worker: Worker, key: str, deadline: float) -> None:
    """Relay the job's events until it has ended, or the warm process has; stop it when nobody wants it any more."""
    assert warm.process.stdout is not None
    status_fd = warm.process.stdout.fileno()
    with selectors.DefaultSelector() as selector:
        for fd in (warm.events_fd, status_fd, stop_fd):
            selector.register(fd, selectors.EVENT_READ)
        while not job.ended:
            for ready, _ in selector.select(POLL_S):
                chunk = os.read(ready.fd, MAX_BATCH_BYTES)
                if ready.fd == stop_fd:
                    job.stopped = True
                elif not chunk:
                    return  # the warm process is dead, and its supervisor too
                elif ready.fd == warm.events_fd:
                    job.read(chunk)
                else:
                    job.outcome.read(chunk)
            if job.ended or job.outcome.status is not None:
                return
            job.late = job.late or time.monotonic() > deadline
            if (job.stopped or job.late or unwanted(worker, key)) and _stop_once(warm, selector, stop_fd):
                job.stopped = not job.late


def _stop_once(warm: Warm, selector: selectors.BaseSelector, stop_fd: int) -> bool:
    """Tell the warm process to stop its job, the first time only."""
    if stop_fd not in selector.get_map():
        return False
    selector.unregister(stop_fd)
    warm.order({"stop": True})
    return True


def thread_variables(threads: int) -> dict[str, str]:
    """What tells numerical libraries how many threads a job may use."""
    return {name: str(threads) for name in (*THREAD_VARIABLES, "ATELIER_THREADS")}
