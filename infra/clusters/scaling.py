"""Lets a cluster grow when slots are wanted and shrink when they are idle, between a minimum and a maximum.

Dask's own adaptive scaling guesses from the length of tasks how many workers would finish them soon; a rank or a trial holds a slot for as long as it
takes, so here what counts is how many tasks hold or want one.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from infra.clusters import Pool

if TYPE_CHECKING:
    from distributed import Client

ROUND_S = 0.5

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Demand:
    """What a scheduler says of its slots.

    Attributes:
        num_tasks: how many tasks hold a slot or wait for one.
        present: names of the workers that are there.
        idle: those of them that run nothing and keep no result, the emptiest first.
    """

    num_tasks: int
    present: tuple[str, ...]
    idle: tuple[str, ...]


def slot_demand(dask_scheduler: Any = None) -> Demand:
    """Run on the scheduler by ``Client.run_on_scheduler``."""
    waiting = ("processing", "no-worker", "queued")
    tasks = [task for task in dask_scheduler.tasks.values() if task.state in waiting and "slot" in (task.resource_restrictions or {})]
    workers = list(dask_scheduler.workers.values())
    idle = [worker for worker in workers if not worker.processing and not worker.has_what and not worker.long_running]
    return Demand(len(tasks), tuple(str(worker.name) for worker in workers), tuple(str(worker.name) for worker in idle))


def decide(demand: Demand, *, floor: int, minimum: int, maximum: int, calm_s: float, idle_s: float) -> tuple[int, list[str]]:
    """To which size the cluster shall grow, and who may go.

    Args:
        floor: slots that a job has asked for and not yet taken.
        minimum, maximum: between these the size stays.
        calm_s: for how long fewer slots were wanted than there are, seconds.
        idle_s: how long that has to last.

    Returns:
        The size wanted, and the names of idle workers to be ended.
    """
    size = min(max(demand.num_tasks, floor, minimum), maximum)
    spare = len(demand.present) - size
    return size, list(demand.idle[: max(0, spare)]) if calm_s >= idle_s else []


class Scaling:
    """Looks at the scheduler twice a second, in a thread of its own, and tells the pool."""

    def __init__(self, client: Client, pool: Pool, *, minimum: int, maximum: int, idle_s: float) -> None:
        self._client, self._pool, self.minimum, self.maximum, self._idle_s = client, pool, minimum, maximum, idle_s
        self._floors: list[int] = []
        self._lock = threading.Lock()  # a round that has begun must not end workers that a job counts on from now on
        self._closing = threading.Event()
        self._hurry = threading.Event()
        self._calm_since = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="scaling", daemon=True)
        self._thread.start()

    @contextmanager
    def asking_for(self, num_slots: int) -> Iterator[None]:
        """Inside, the cluster has or will have that many slots, as far as the maximum allows."""
        with self._lock:
            self._floors.append(num_slots)
        self._hurry.set()
        try:
            yield
        finally:
            self._floors.remove(num_slots)

    def _run(self) -> None:
        while not self._closing.is_set():
            self._hurry.wait(ROUND_S)
            self._hurry.clear()
            if self._closing.is_set() or self._client.status != "running":
                return
            with self._lock:
                try:
                    self._act(self._client.run_on_scheduler(slot_demand), time.monotonic())
                except Exception as error:  # noqa: BLE001 - whatever a scheduler, a queue or an operator has; the next round tries again
                    _log.warning("The cluster could not be resized: %s", error)

    def _act(self, demand: Demand, now: float) -> None:
        floor = max(self._floors, default=0)
        if len(demand.present) <= max(demand.num_tasks, floor, self.minimum):
            self._calm_since = now
        size, spare = decide(
            demand, floor=floor, minimum=self.minimum, maximum=self.maximum, calm_s=now - self._calm_since, idle_s=self._idle_s
        )
        if spare:
            self._pool.shrink(spare)
        elif size > len(demand.present):
            self._pool.grow(size)

    def close(self) -> None:
        self._closing.set()
        self._hurry.set()
        self._thread.join(timeout=10)
