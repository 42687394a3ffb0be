"""How the slots of one cluster are divided among the elastic jobs that run on it: a function of values, without processes, clocks or a cluster.

Everybody's smallest number comes first, in the order of arrival; what is left is filled up from below (max-min fairness: nobody has more while
somebody who wants it has less). So what nobody else wants is lent to whoever can use it, and is given back when somebody comes: a job that holds more
than its share loses the surplus from its grant and leaves those slots at its next commit. No job that has begun is ever taken below its smallest number.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

PATIENCE_S = 600.0  # how long smaller jobs that came later may pass one for which there is no room


@dataclass(frozen=True)
class Claim:
    """What one job wants and has.

    Attributes:
        least, most: slots that it needs, and can use.
        arrived: time at which it came, seconds of the clock of ``now``.
        held: the worker of each slot that it holds, the one that it would give up last first.
        promised: slots that it was granted and may be about to take.
    """

    name: str
    least: int
    most: int
    arrived: float
    held: tuple[str, ...] = ()
    promised: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tasks:
    """Tasks of one client that hold slots, or wait for them, and are no job's: single trials, evaluations, parts of a data stage.

    Attributes:
        running: how many hold one; they end by themselves.
        waiting: for each of the others the worker at which it waits.
    """

    name: str
    running: int
    waiting: tuple[str, ...] = ()


def shares(capacity: int, claims: Sequence[Claim], tasks: Sequence[Tasks] = (), *, now: float) -> dict[str, int]:
    """How many slots each job, and each client's single tasks, should have.

    Args:
        capacity: all slots of workers that can be used, taken or free.

    Returns:
        By name; 0: it has to wait.
    """
    claims = sorted(claims, key=lambda claim: (claim.arrived, claim.name))
    share = {claim.name: min(claim.least, len(claim.held)) for claim in claims} | {one.name: one.running for one in tasks}
    left = capacity - sum(share.values())
    for claim in claims:
        if claim.held:  # it has lost some of what it needs
            more = max(0, min(claim.least - share[claim.name], left))
            share[claim.name] += more
            left -= more
    for claim in claims:
        if claim.held:
            continue
        if claim.least <= left:
            share[claim.name] = claim.least
            left -= claim.least
        elif now - claim.arrived > PATIENCE_S:
            break  # what comes free is collected for this one
    for one in tasks:
        if not one.running and left > 0:
            share[one.name] = 1
            left -= 1
    most = {claim.name: claim.most for claim in claims} | {one.name: one.running + len(one.waiting) for one in tasks}
    levels = [(share[name], order, name) for order, name in enumerate(most) if 0 < share[name] < most[name]]
    heapq.heapify(levels)
    while left > 0 and levels:
        level, order, name = heapq.heappop(levels)
        share[name] = level + 1
        left -= 1
        if level + 1 < most[name]:
            heapq.heappush(levels, (level + 1, order, name))
    return share


def allocate(
    slots: Mapping[str, int],
    claims: Sequence[Claim],
    tasks: Sequence[Tasks] = (),
    taken: Mapping[str, int] | None = None,
    *,
    now: float,
    lend: bool,
) -> dict[str, tuple[str, ...]]:
    """Which slots each job may hold from now on.

    Args:
        slots: of each worker that can be used.
        taken: how many of them single tasks want or have (those of ``tasks``).
        lend: whether jobs that have what they need may have more; not for a moment after a job has ended, whose successor may be about to come.

    Returns:
        By job, the worker of each slot. What it holds beyond that it has to give back; what it does not hold yet is free, and nobody else's.
    """
    taken = taken or {}
    share = shares(sum(slots.values()), claims, tasks, now=now)
    wanted = Counter(worker for one in tasks for worker in one.waiting[: max(0, share[one.name] - one.running)])
    free = Counter({worker: count - taken.get(worker, 0) for worker, count in slots.items()})
    granted: dict[str, list[str]] = {}
    by_arrival = sorted(claims, key=lambda claim: (claim.arrived, claim.name))
    for claim in by_arrival:
        held = [worker for worker in claim.held if worker in slots]
        free.subtract(held)
        granted[claim.name] = _kept(held, share[claim.name], wanted)
    # Those who lack what they need come first, in their order; then those who could use more.
    for claim in sorted(by_arrival, key=lambda claim: len(granted[claim.name]) >= claim.least):
        mine = granted[claim.name]
        for worker in (Counter(claim.promised) - Counter(claim.held)).elements():
            if len(mine) < share[claim.name] and free[worker] > 0:
                mine.append(worker)
                free[worker] -= 1
        if len(mine) >= claim.least and claim.held and not lend:
            continue
        _fill(mine, share[claim.name], free)
    return {name: tuple(found) for name, found in granted.items()}


def _kept(held: list[str], share: int, wanted: Counter[str]) -> list[str]:
    """What of the held slots stays: those go first at which a task waits, then the least dear."""
    surplus = len(held) - share
    going: list[int] = []
    for index in reversed(range(len(held))):
        if len(going) < surplus and wanted[held[index]] > 0:
            wanted[held[index]] -= 1
            going.append(index)
    for index in reversed(range(len(held))):
        if len(going) < surplus and index not in going:
            going.append(index)
    return [worker for index, worker in enumerate(held) if index not in going]


def _fill(mine: list[str], share: int, free: Counter[str]) -> None:
    """Add free slots up to the share, spread over the workers."""
    places = [(index, worker) for worker, count in sorted(free.items()) for index in range(mine.count(worker), mine.count(worker) + count)]
    for _, worker in sorted(places)[: max(0, share - len(mine))]:
        mine.append(worker)
        free[worker] -= 1
