"""Which members of a job leave it at the next commit; a part of ``infra.elastic.policy``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from infra.elastic.policy import Job, Member


def goes(job: Job, member: Member) -> bool:
    """Whether it will not be of the next generation."""
    worker = job.workers.get(member.worker)
    return member.leaving or member.released or (worker is not None and worker.closing)


def without_worker(job: Job, now: float) -> list[str]:
    """Members whose Dask worker has gone and for whom there is nothing to wait any more: they have left, or went with it.

    One that works and lives may commit first, so that no step is done again. Where the worker was killed the others, who meet its end, break the group.
    """
    limits = job.limits
    return [
        member.name
        for member in job.members.values()
        if member.alone_since is not None
        and (
            member.left
            or member.phase != "working"
            or job.broken
            or now - member.beat_at > limits.silent_s
            or now - member.alone_since > limits.leave_s
        )
    ]


def surplus_of(job: Job, living: Sequence[Member]) -> set[str]:
    """Members whose slots others want; never so many that fewer than the least are left, or too few of those that have what was learned so far.

    Who has no place in the group goes first, then the youngest. From a broken group nobody goes before the next one has formed: it may have the
    newest commit.
    """
    ranks = {name: rank for rank, name in enumerate(job.group)}
    there: dict[str, list[Member]] = {}
    for member in living:
        if not goes(job, member):
            there.setdefault(member.worker, []).append(member)

    def dear(member: Member) -> tuple[int, float]:
        return ranks.get(member.name, len(ranks)), member.since

    over: list[Member] = []
    for address, worker in job.workers.items():
        if worker.keep is not None:
            over += sorted(there.get(address, ()), key=dear)[worker.keep :]
    all_of_them = [member for members in there.values() for member in members]
    spare = len(all_of_them) - job.limits.least
    spare_of_group = 0 if job.broken else sum(member.name in ranks for member in all_of_them) - job.limits.least
    found: set[str] = set()
    for member in sorted(over, key=dear, reverse=True):
        if spare > 0 and (member.name not in ranks or spare_of_group > 0):
            found.add(member.name)
            spare -= 1
            spare_of_group -= member.name in ranks
    return found
