"""What a Dask worker does for one member of an elastic job: a task that holds the slot, has a warm process fork the rank, and looks after it.

The warm process outlives the rank, so the successor of one that was killed is there in a fraction of a second; and the rank's last commit lies in
memory that this Dask worker holds (``infra.elastic.memory``), so the successor goes on from it.
"""

from __future__ import annotations

import os
import selectors
import signal
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra import wire
from infra._rank_task import MAX_BATCH_BYTES, POLL_S, RELAY_S, Relay, here_of, last_words, open_log, output_of, unwanted
from infra._warm_task import Heard, Warm, give_back, start_warm, take, thread_variables
from infra.elastic import memory

if TYPE_CHECKING:
    from distributed import Worker

LEAVE_S = 8.0  # how long a rank may take to get to a commit when its Dask worker closes
DUMP_S = 1.0  # for a rank to write down its stacks before it is killed

_lock = threading.Lock()
_wakes: dict[str, tuple[int, dict[str, Any]]] = {}  # by task key: what wakes the task up, and where its new order goes
_memories: dict[str, list[tuple[int, int]]] = defaultdict(list)  # by job: pairs of files that no rank uses at the moment
_forgotten: set[str] = set()


def tell(key: str, order: dict[str, Any]) -> bool:
    """Have the task of this worker end its rank (``dump``: with its stacks in its log before); run by ``Client.run``. Whether it is here."""
    with _lock:
        if key not in _wakes:
            return False
        fd, box = _wakes[key]
        box.update(order)
        os.write(fd, b"o")
        return True


def forget_job(job: str) -> None:
    """Free the memory of a job; run by ``Client.run`` when it has ended."""
    with _lock:
        _forgotten.add(job)
        pairs = _memories.pop(job, [])
    _close(pairs)


def _close(pairs: list[tuple[int, int]]) -> None:
    for pair in pairs:
        for fd in pair:
            os.close(fd)


def _borrow(job: str) -> tuple[int, int]:
    with _lock:
        waiting = _memories[job]
        return waiting.pop() if waiting else memory.make_files("atelier-commit")


def oom_kills() -> int:
    """How often the kernel killed a process of this container, or of this machine, for want of memory; 0 where that is not told."""
    for path, name in (("/sys/fs/cgroup/memory.events", "oom_kill"), ("/proc/vmstat", "oom_kill")):
        try:
            for line in Path(path).read_text().splitlines():
                if line.split()[0] == name:
                    return int(line.split()[1])
        except OSError:
            continue
    return 0


def how_it_ended(status: int | None, peak_kib: int, oom: int) -> str:
    """The end of a rank in words: what is known, and what is only likely."""
    if status is None:
        return "the process from which it was forked is gone, and it went with it"
    if status >= 0:
        return f"it ended with status {status}"
    words = f"it was killed by signal {-status} ({signal.Signals(-status).name})" if -status in set(signal.Signals) else f"signal {-status}"
    if status == -signal.SIGKILL:
        words += f", having used up to {peak_kib / 2**20:.2f} GiB"
        words += (
            "; the kernel killed a process for want of memory meanwhile: out of memory"
            if oom
            else "; not by the kernel's out-of-memory killer"
        )
    return words


def run_member(topic: str, order: dict[str, Any]) -> dict[str, Any]:
    """Run one member to its end, as a Dask task.

    Returns:
        ``status`` (None: its warm process is gone), ``asked`` (the job ended it, or its slot was wanted back), ``error`` (its own last ``error``
        event), ``how`` (its end in words), ``last_words``, ``output``, ``num_batches``; the same goes to the topic.
    """
    from distributed import get_worker

    worker = get_worker()
    key = str(worker.get_current_task())
    relay = Relay(worker, topic, key)
    wake_fd, wake_write_fd = os.pipe()
    box: dict[str, Any] = {}
    with _lock:
        _wakes[key] = wake_write_fd, box
    files = _borrow(order["job"])
    try:
        here = here_of(worker)
        worker.log_event(topic, {"key": key, "began": here})
        result = _run(order, here, files, relay, (wake_fd, box), worker, key)
        worker.log_event(topic, {"key": key, "result": result})
        return result
    finally:
        with _lock:
            del _wakes[key]
            ended = order["job"] in _forgotten
            if not ended:
                _memories[order["job"]].append(files)
        if ended:
            _close([files])
        os.close(wake_fd)
        os.close(wake_write_fd)


def _run(
    order: dict[str, Any],
    here: dict[str, Any],
    files: tuple[int, int],
    relay: Relay,
    wake: tuple[int, dict[str, Any]],
    worker: Worker,
    key: str,
) -> dict[str, Any]:
    warm = take(order["pool"]) or start_warm(order, key, LEAVE_S + 1)
    log, complaint = open_log(order["log_dir"], f"{order['name']}.log")
    if complaint:
        relay.add({"kind": "log", "message": complaint})
    oom = oom_kills()
    heard = Heard(relay)
    threads = order["threads"] or max(1, here["cores"] // order["neighbours"])
    env = {
        **thread_variables(threads),
        **order["env"],
        "ATELIER_COLLECTIVES": "elastic",
        wire.HOST_VARIABLE: here["host"],
        wire.MEMORY_VARIABLE: memory.path_of(files),
        **dict.fromkeys(("HOROVOD_GLOO_IFACE", "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"), here["interface"]),
    }
    try:
        warm.order({"argument": order["argument"], "env": env, "grace_s": LEAVE_S, "log": str(log)})
        asked = _follow(warm, heard, wake, worker, key)
    except BrokenPipeError:
        asked = False  # it died between two jobs
    ended_well = heard.ended
    words = "" if heard.status == 0 else last_words(log) or last_words(warm.log)
    give_back(order["pool"], warm) if ended_well else warm.close()
    relay.send(now=True)
    return {
        "status": heard.status,
        "asked": asked,
        "error": relay.error,
        "how": how_it_ended(heard.status, heard.peak_kib, oom_kills() - oom),
        "last_words": words,
        "output": output_of(log),
        "log": str(log),
        "num_batches": relay.num_batches,
    }


def _follow(warm: Warm, heard: Heard, wake: tuple[int, dict[str, Any]], worker: Worker, key: str) -> bool:
    """Relay the rank's events until it has ended; end it when nobody wants it any more. Returns whether that was so."""
    assert warm.process.stdout is not None
    status_fd = warm.process.stdout.fileno()
    wake_fd, box = wake
    kill_at: float | None = None
    asked = closing = False
    with selectors.DefaultSelector() as selector:
        for fd in (warm.events_fd, status_fd, wake_fd):
            selector.register(fd, selectors.EVENT_READ)
        while not _is_over(heard):
            for ready, _ in selector.select(RELAY_S if asked else POLL_S):
                chunk = os.read(ready.fd, MAX_BATCH_BYTES)
                if ready.fd == warm.events_fd:
                    if not chunk:
                        return asked
                    heard.read(chunk)
                elif ready.fd == status_fd:
                    if not chunk:
                        return asked
                    heard.outcome.read(chunk)
            if _is_over(heard):
                break
            now = time.monotonic()
            if not asked and box:
                asked, kill_at = True, now + (DUMP_S if box.get("dump") else 0.0)
                if box.get("dump"):
                    warm.order({"signal": int(signal.SIGUSR1)})
            elif not asked and _is_closing(worker, key):
                asked, closing, kill_at = True, True, now + LEAVE_S
                warm.order({"signal": int(signal.SIGTERM)})
            elif (not asked or closing) and unwanted(worker, key) and not _is_closing(worker, key):
                asked, kill_at = True, now
            if kill_at is not None and now >= kill_at:
                kill_at = None
                warm.order({"signal": int(signal.SIGCONT)})  # a stopped process is killed all the same; its children may not be
                warm.order({"stop": True})
    return asked


def _is_over(heard: Heard) -> bool:
    return heard.ended or heard.outcome.status is not None


def _is_closing(worker: Worker, key: str) -> bool:
    """Whether the Dask worker closes while the task is still wanted."""
    task = worker.state.tasks.get(key)
    return task is not None and task.state == "executing" and worker.status.name in ("closing", "closing_gracefully")
