"""Who is which rank in a new group, and what each has to know to find the others."""

from __future__ import annotations

import itertools
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from infra._rendezvous import assign_ranks

if TYPE_CHECKING:
    from distributed import Future

    from infra.elastic.policy import Worker


@dataclass
class Process:
    """What the driver knows of a member besides what the policy does."""

    key: str
    worker: str
    place: int
    future: Future
    here: dict[str, Any] | None = None
    rank: int = -1
    port: int = 0
    num_batches: int = 0
    ended: bool = False
    why: str = ""
    end_at: float | None = None
    released: bool = False

    def runs_on(self, workers: Container[str]) -> bool:
        """Whether it has begun, has not ended, and its Dask worker is one of these."""
        return self.here is not None and not self.ended and self.worker in workers


def host_of(address: str) -> str:
    """The host in a Dask address."""
    return address.split("://")[-1].rsplit(":", 1)[0].strip("[]")


def free_place(processes: Iterable[Process], worker: str) -> int:
    """The lowest place on the machine of a worker that no living member has."""
    taken = {process.place for process in processes if not process.ended and host_of(process.worker) == host_of(worker)}
    return next(number for number in itertools.count() if number not in taken)


def make_order(job_order: Mapping[str, Any], job_env: Mapping[str, str], *, name: str, job: str, env: Mapping[str, str]) -> dict[str, Any]:
    """A member's order: the job's with its own name and variables. Warm processes with the same modules and variables can fork it."""
    pool = f"elastic-{job_order['module']}-{'-'.join(sorted(job_env))}-{hash(tuple(job_order['preload']))}"
    return {**job_order, "name": f"rank-{name}", "job": job, "pool": pool, "env": {**job_env, **env}}


def num_neighbours(workers: Mapping[str, Worker], worker: str) -> int:
    """How many members the machine of a worker may come to have; at least 1."""
    return max(1, sum(max(found.slots, found.size) for address, found in workers.items() if host_of(address) == host_of(worker)))


def make_plans(
    names: Sequence[str], processes: Sequence[Process], *, backend: str, generation: int, source: str | None, last: bool
) -> dict[str, dict[str, Any]]:
    """The plan of each member, as ``infra.elastic.member.Plan`` takes it. Members of one machine get neighbouring ranks; the first is rank 0."""
    heres = [process.here or {} for process in processes]
    slots = assign_ranks([here["host"] for here in heres])
    ranks = {name: slot.rank for name, slot in zip(names, slots, strict=True)}
    first = next(number for number, slot in enumerate(slots) if slot.rank == 0)
    master = heres[first]["host"], processes[first].port
    plans = {}
    for name, here, slot in zip(names, heres, slots, strict=True):
        both = {**slot.torch_env(here["interface"], master), **slot.horovod_env(here["interface"])}
        plans[name] = {
            "generation": generation,
            "rank": slot.rank,
            "size": slot.size,
            "backend": backend,
            "environment": {key: value for key, value in both.items() if key != "ATELIER_COLLECTIVES"},
            "source": ranks[source] if source is not None else None,
            "last": last,
        }
    return plans
