"""What the elastic jobs of one cluster know of each other: a ledger in the Dask scheduler's process, which every driver reads and writes when it looks.

There is no server besides, and nothing is installed on the scheduler: each look is one call that is run there (as any ``run_on_scheduler``), and
the scheduler runs them one after the other, so all jobs decide from one state. An entry lives as long as its driver: it goes with the driver's
connection, when nothing was heard for ``LEASE_S``, and when the job says that it leaves. A scheduler that starts anew has an empty ledger; the jobs say their
age with every look, so the order is the same again.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from infra.elastic.discovery import ANSWER_TIMEOUT_S, DaskDiscovery, keep_out_of_log, run_on_scheduler_aside, unreachable
from infra.elastic.policy import Worker
from infra.elastic.sharing import Claim, Tasks, allocate

if TYPE_CHECKING:
    from collections.abc import Iterable

    from distributed import Client

LEASE_S = 15.0  # without a word: its driver is frozen or cut off
CALM_S = 1.0  # after a job's end: its slots may be wanted by the next one, and are not lent so long
TASKS = "atelier-elastic-"  # how the tasks of elastic jobs are called; the job's name follows


@dataclass
class Entry:
    """A job as the ledger knows it; times are seconds of the scheduler's monotonic clock."""

    client: str
    least: int
    most: int
    arrived: float
    heard_at: float
    held: tuple[str, ...] = ()
    granted: tuple[str, ...] = ()  # as it was told last
    called: bool = False  # was told to look again, and has not yet


@dataclass
class Ledger:
    jobs: dict[str, Entry] = field(default_factory=dict)
    left_at: float = -CALM_S
    gone: deque[str] = field(default_factory=lambda: deque(maxlen=1000))  # a last look of theirs may still be on its way


_LEDGERS: WeakKeyDictionary[Any, Ledger] = WeakKeyDictionary()


def look(word: dict[str, Any], dask_scheduler: Any = None) -> dict[str, Any]:
    """Write down what a job wants and has, and read what it may have; run on the scheduler.

    Args:
        word: ``job``, ``client``, ``least``, ``most``, ``age_s`` and ``held`` (see ``Claim``).

    Returns:
        ``workers``: of each worker ``size`` (its slots), ``slots`` (those that the job may hold) and ``closing``; ``jobs``: how many share the cluster.
    """
    keep_out_of_log(look.__name__)
    ledger, now = _ledger(dask_scheduler), time.monotonic()
    job = word["job"]
    if job not in ledger.gone:
        entry = ledger.jobs.setdefault(job, Entry(word["client"], word["least"], word["most"], now - word["age_s"], now))
        entry.client, entry.heard_at, entry.held, entry.called = word["client"], now, tuple(word["held"]), False
    grants = _decide(ledger, dask_scheduler, now, job)
    mine = Counter(grants.get(job, ()))
    if job in ledger.jobs:
        ledger.jobs[job].granted = grants[job]
    return {
        "workers": {
            address: {"size": int(worker.resources["slot"]), "slots": mine[address], "closing": _is_closing(worker)}
            for address, worker in dask_scheduler.workers.items()
            if worker.resources.get("slot", 0) > 0
        },
        "jobs": len(ledger.jobs),
    }


def leave(job: str, dask_scheduler: Any = None) -> None:
    """Forget a job that has ended, and let the others look at once; run on the scheduler."""
    ledger, now = _ledger(dask_scheduler), time.monotonic()
    if ledger.jobs.pop(job, None) is not None:
        ledger.left_at = now
        ledger.gone.append(job)
        _decide(ledger, dask_scheduler, now)


def _ledger(dask_scheduler: Any) -> Ledger:
    return _LEDGERS.setdefault(dask_scheduler, Ledger())


def _decide(ledger: Ledger, dask_scheduler: Any, now: float, looking: str = "") -> dict[str, tuple[str, ...]]:
    """Everybody's slots; jobs for which they have changed are called."""
    for name, entry in list(ledger.jobs.items()):
        if entry.client not in dask_scheduler.clients or now - entry.heard_at > LEASE_S:
            del ledger.jobs[name]
    slots = {
        address: int(worker.resources["slot"])
        for address, worker in dask_scheduler.workers.items()
        if worker.resources.get("slot", 0) > 0 and not _is_closing(worker)
    }
    claims = [Claim(name, one.least, one.most, one.arrived, one.held, one.granted) for name, one in ledger.jobs.items()]
    held = Counter(worker for claim in claims for worker in claim.held)
    tasks, taken = _single_tasks(ledger, dask_scheduler, slots, held)
    grants = allocate(slots, claims, tasks, taken, now=now, lend=now - ledger.left_at >= CALM_S)
    for name, entry in ledger.jobs.items():
        if name != looking and Counter(grants[name]) != Counter(entry.granted) and not entry.called:
            entry.called = True
            dask_scheduler.log_event(TASKS + name, {"look": True})
    return grants


def _single_tasks(ledger: Ledger, dask_scheduler: Any, slots: dict[str, int], held: Counter[str]) -> tuple[list[Tasks], dict[str, int]]:
    """By client what is no elastic job's and holds a slot or waits at a worker for one, and how much of it there is at each worker."""
    running: Counter[str] = Counter()
    waiting: dict[str, list[str]] = {}
    taken: Counter[str] = Counter()
    for address, count in slots.items():
        room = count - held[address]
        for task in dask_scheduler.workers[address].processing:
            if "slot" not in (task.resource_restrictions or {}) or _job_of(str(task.key)) in ledger.jobs:
                continue
            client = min((client.client_key for client in task.who_wants or ()), default="")
            taken[address] += 1
            if room > 0:
                running[client] += 1
                room -= 1
            else:
                waiting.setdefault(client, []).append(address)
    names = sorted({*running, *waiting})
    return [Tasks(f"client {name}", running[name], tuple(waiting.get(name, ()))) for name in names], dict(taken)


def _job_of(key: str) -> str:
    """The job of an elastic job's task."""
    return key.removeprefix(TASKS).rsplit("-", 1)[0] if key.startswith(TASKS) else ""


def _is_closing(worker: Any) -> bool:
    return worker.status.name not in ("running", "paused")


class SharedDiscovery(DaskDiscovery):
    """What the scheduler offers one job of several; use it as a context manager, which ends the job's entry in the ledger.

    Args:
        job: the job's name, as in its tasks' keys.
    """

    def __init__(self, client: Client, job: str, *, least: int, most: int) -> None:
        super().__init__(client)
        self.job, self.least, self.most = job, least, most
        self.num_jobs = 1
        self._began = time.monotonic()

    def workers(self, held: Iterable[str]) -> dict[str, Worker] | None:
        client = self.client
        if client.scheduler is None or client.status != "running":
            return None
        word = {"job": self.job, "client": client.id, "least": self.least, "most": self.most, "held": list(held)}
        word["age_s"] = time.monotonic() - self._began
        try:
            found = client.sync(client._run_on_scheduler, look, word, callback_timeout=ANSWER_TIMEOUT_S)
        except unreachable():
            return None
        self.num_jobs = found["jobs"]
        return {
            address: Worker(here["slots"], here["closing"], keep=here["slots"], size=here["size"])
            for address, here in found["workers"].items()
        }

    def __enter__(self) -> SharedDiscovery:
        return self

    def __exit__(self, *error: object) -> None:
        """Without waiting: a scheduler that does not answer has forgotten us, or will."""
        if self.client.status == "running":
            run_on_scheduler_aside(self.client, leave, self.job)
