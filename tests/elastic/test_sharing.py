"""How the slots of a cluster are divided, as tables; and what a job does when it is to give some back, without any process."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from infra.elastic.policy import Form, Job, Limits, Regroup, Release, Start, Worker, decide, formed
from infra.elastic.sharing import PATIENCE_S, Claim, Tasks, allocate, shares

HOSTS = ("w0", "w1", "w2", "w3", "w4", "w5", "w6", "w7")


def claim(name: str, least: int, most: int, held: int | str = 0, arrived: float | None = None, promised: str = "") -> Claim:
    """``held``: a number, of slots somewhere; or the workers of them, as ``0 1 2``. Jobs arrive in the order of their names unless it is said."""
    where = tuple(f"w{one}" for one in held.split()) if isinstance(held, str) else HOSTS[:held]
    return Claim(name, least, most, ord(name) if arrived is None else arrived, where, tuple(f"w{one}" for one in promised.split()))


@pytest.mark.parametrize(
    ("capacity", "claims", "expected"),
    [
        (4, [claim("a", 1, 8)], {"a": 4}),  # alone, it may have all
        (4, [claim("a", 1, 2)], {"a": 2}),  # but never more than it can use
        (4, [claim("a", 1, 4, held=4), claim("b", 1, 4)], {"a": 2, "b": 2}),  # who comes later gets as much
        (3, [claim("a", 1, 3, held=3), claim("b", 1, 3)], {"a": 2, "b": 1}),  # the odd one is for who was there first
        (8, [claim("a", 1, 8, held=8), claim("b", 1, 2), claim("c", 1, 8)], {"a": 3, "b": 2, "c": 3}),  # filled up from below
        (4, [claim("a", 3, 4, held=4), claim("b", 1, 4)], {"a": 3, "b": 1}),  # the least of each comes first
        (4, [claim("a", 2, 4, held=4), claim("b", 4, 4)], {"a": 4, "b": 0}),  # no room: what it waits for is used meanwhile
        (4, [claim("a", 2, 2, held=2), claim("b", 4, 4), claim("c", 1, 2)], {"a": 2, "b": 0, "c": 2}),  # a smaller one may pass
        (2, [claim("a", 1, 1), claim("b", 2, 2), claim("c", 1, 1)], {"a": 1, "b": 0, "c": 1}),
        (2, [claim("a", 1, 2, arrived=2), claim("b", 2, 2, arrived=1)], {"a": 0, "b": 2}),  # the order of arrival, not of names
        (3, [claim("a", 2, 2, held=1), claim("b", 2, 2, held=1)], {"a": 2, "b": 1}),  # both lost a worker: the earlier one is made whole
        (3, [claim("a", 2, 2, held=1), claim("b", 2, 2, held=2)], {"a": 1, "b": 2}),  # nothing is taken from one that has just enough
        (0, [claim("a", 1, 2), claim("b", 1, 1)], {"a": 0, "b": 0}),
        (512, [claim(chr(97 + one), 1, 512) for one in range(3)], {"a": 171, "b": 171, "c": 170}),
    ],
)
def test_shares(capacity: int, claims: list[Claim], expected: dict[str, int]) -> None:
    assert shares(capacity, claims, now=200.0) == expected
    assert shares(capacity, claims[::-1], now=200.0) == expected, "it depends on the order in which the jobs are told"


def test_one_that_waits_for_long_is_passed_no_more() -> None:
    claims = [claim("a", 2, 4, held=4), claim("b", 4, 4, arrived=100.0), claim("c", 1, 2, arrived=101.0)]
    assert shares(4, claims, now=200.0) == {"a": 2, "b": 0, "c": 2}
    assert shares(4, claims, now=101.0 + PATIENCE_S) == {"a": 4, "b": 0, "c": 0}
    assert shares(4, claims[1:], now=101.0 + PATIENCE_S) == {"b": 4, "c": 0}


def test_single_tasks_of_a_client_are_one_more_job() -> None:
    job = claim("a", 1, 4, held=4)
    assert shares(4, [job], [Tasks("client", 0, ("w3",))], now=200) == {"a": 3, "client": 1}
    assert shares(4, [job], [Tasks("client", 0, ("w0",) * 100)], now=200) == {"a": 2, "client": 2}
    assert shares(4, [claim("a", 1, 4, held=1)], [Tasks("client", 3)], now=200) == {"a": 1, "client": 3}, "what runs ends by itself"


def test_nothing_is_ever_over_or_under_used() -> None:
    """Over all small cases: never more than there is; none below its least that had it, none above its most; nothing idle that someone could use."""
    for capacity in range(7):
        for least in (1, 2, 3):
            for most in (least, least + 2):
                for held in (0, least, most):
                    claims = [claim("a", least, most, held), claim("b", 1, 3, max(0, min(1, capacity - held))), claim("c", 2, 4)]
                    if sum(len(one.held) for one in claims) > capacity:
                        continue
                    found = shares(capacity, claims, now=200)
                    assert sum(found.values()) <= capacity
                    for one in claims:
                        assert found[one.name] <= one.most
                        assert found[one.name] == 0 or found[one.name] >= one.least
                        assert len(one.held) < one.least or found[one.name] >= one.least
                    if sum(found.values()) < capacity:
                        assert all(found[one.name] in (0, one.most) for one in claims)


# Which slots

FOUR = dict.fromkeys(HOSTS[:4], 1)


def granted(claims: list[Claim], tasks: list[Tasks] | None = None, taken: dict[str, int] | None = None, **more: Any) -> dict[str, str]:
    found = allocate(more.get("slots", FOUR), claims, tasks or [], taken, now=200.0, lend=more.get("lend", True))
    return {name: " ".join(worker[1:] for worker in workers) for name, workers in found.items()}


def test_nothing_is_granted_that_another_still_holds() -> None:
    assert granted([claim("a", 1, 4, "0 1 2 3"), claim("b", 1, 4)]) == {"a": "0 1", "b": ""}
    assert granted([claim("a", 1, 4, "0 1 2"), claim("b", 1, 4)]) == {"a": "0 1", "b": "3"}
    assert granted([claim("a", 1, 4, "0 1"), claim("b", 1, 4, "3")]) == {"a": "0 1", "b": "3 2"}


def test_what_was_promised_stays_where_it_was() -> None:
    assert granted([claim("a", 1, 2, promised="3 1"), claim("b", 1, 2)]) == {"a": "3 1", "b": "0 2"}
    assert granted([claim("a", 1, 2, "1", promised="1 3"), claim("b", 1, 2)]) == {"a": "1 3", "b": "0 2"}


def test_a_slot_is_given_back_where_a_task_waits_for_it() -> None:
    waiting = Tasks("client", 0, ("w1",))
    assert granted([claim("a", 1, 4, "0 1 2 3")], [waiting], {"w1": 1}) == {"a": "0 2 3"}
    assert granted([claim("a", 4, 4, "0 1 2 3")], [waiting], {"w1": 1}) == {"a": "0 1 2 3"}


def test_slots_that_have_just_come_free_are_for_the_next_job_and_lent_a_moment_later() -> None:
    claims = [claim("a", 1, 4, "0 1"), claim("b", 1, 4, "2")]
    assert granted(claims, lend=False) == {"a": "0 1", "b": "2"}
    assert granted(claims) == {"a": "0 1", "b": "2 3"}
    assert granted([*claims, claim("c", 1, 1)], lend=False)["c"] == "3"
    assert granted([claim("a", 2, 4, "0")], lend=False) == {"a": "0 1 2 3"}, "it lacks one of those that it needs"


def test_slots_of_several_on_a_worker_are_spread() -> None:
    slots = {"w0": 2, "w1": 2}
    assert granted([claim("a", 2, 2), claim("b", 1, 1)], slots=slots) == {"a": "0 1", "b": "0"}
    assert granted([claim("a", 1, 4, "0 0 1 1"), claim("b", 2, 2)], slots=slots) == {"a": "0 0", "b": ""}


def test_all_jobs_together_hold_what_there_is_and_no_slot_twice() -> None:
    claims = [claim(name, 1, 5, promised="1 2") for name in "abcdef"]
    found = allocate(dict.fromkeys(HOSTS, 1), claims, now=200.0, lend=True)
    assert Counter(worker for workers in found.values() for worker in workers) == Counter(HOSTS)
    assert sorted(map(len, found.values())) == [1, 1, 1, 1, 2, 2]


# Giving back

LIMITS = Limits(1, 4, settle_s=10, grow_settle_s=3)


def working(*names: str, limits: Limits = LIMITS) -> Job:
    """A job whose members a, b, ... work on w0, w1, ..., each with a slot."""
    job = Job(limits)
    job.saw_workers({host: Worker(1, keep=1) for host in HOSTS[:4]})
    for number, name in enumerate(names):
        job.started(name, f"w{number}", 0.0)
        job.joined(name, None, 0.0)
    formed(job, Form(names, None), 0.0)
    return job


def see(job: Job, *kept: str) -> None:
    """The share is now the slots on these workers."""
    job.saw_workers({host: Worker(int(host in kept), keep=int(host in kept)) for host in HOSTS[:4]})


def test_a_slot_is_given_back_at_the_next_commit_and_the_rest_go_on() -> None:
    job = working("a", "b", "c")
    see(job, "w0", "w1")
    assert decide(job, 1.0) == [Regroup()]
    job.joined("a", (0, 4), 2.0)
    assert decide(job, 2.0) == [], "the first to come is none to go"
    job.joined("c", (0, 4), 2.1)
    assert decide(job, 2.1) == [Release("c")]
    job.joined("b", (0, 4), 2.2)
    assert decide(job, 2.2) == [Form(("a", "b"), "a")]
    formed(job, Form(("a", "b"), "a"), 2.2)
    job.exited("c", 77, 2.3, asked=False, left=True, restart=False)
    assert decide(job, 2.4) == []
    assert not job.broken


def test_newcomers_go_first_and_nobody_notices() -> None:
    job = working("a", "b")
    job.started("c", "w2", 1.0)
    see(job, "w0", "w1")
    assert decide(job, 1.5) == [Release("c")]
    assert decide(job, 1.6) == [], "once"
    assert not job.regrouping


def test_never_below_the_least() -> None:
    job = working("a", "b", limits=replace(LIMITS, least=2))
    see(job)
    assert decide(job, 1.0) == []
    job = working("a", "b", "c", limits=replace(LIMITS, least=2))
    see(job)
    assert decide(job, 1.0) == [Regroup()]
    for name in "abc":
        job.joined(name, (0, 4), 2.0)
    assert decide(job, 2.0) == [Release("c"), Form(("a", "b"), "a")]


def test_the_last_that_knows_what_was_learned_stays_until_another_one_knows_it() -> None:
    job = working("a")
    job.saw_workers({"w0": Worker(0, keep=0), "w1": Worker(1, keep=1)})
    assert decide(job, 1.0) == [Start("w1")]
    job.started("b", "w1", 1.0)
    assert decide(job, 1.1) == []
    job.joined("b", None, 2.0)
    assert decide(job, 2.0) == [Regroup()]
    job.joined("a", (0, 4), 2.1)
    assert decide(job, 2.1) == [Form(("a", "b"), "a")]
    formed(job, Form(("a", "b"), "a"), 2.1)
    assert decide(job, 2.2) == [Regroup()]
    job.joined("a", (0, 5), 2.3)
    job.joined("b", (0, 5), 2.3)
    assert decide(job, 2.3) == [Release("a"), Form(("b",), "b")]


def test_from_a_broken_group_nobody_goes_before_the_next_one() -> None:
    job = working("a", "b", "c")
    see(job, "w0", "w1")
    job.exited("a", -9, 1.0, asked=False, left=False, restart=False)
    actions = decide(job, 1.0)
    assert Release("c") not in actions
    job.joined("b", (0, 4), 1.5)
    job.joined("c", (0, 5), 1.5)
    assert Form(("b", "c"), "c") in decide(job, 1.6)


def test_a_share_that_comes_back_in_time_changes_nothing() -> None:
    job = working("a", "b")
    see(job, "w0")
    assert decide(job, 1.0) == [Regroup()]
    see(job, "w0", "w1")
    job.joined("a", (0, 4), 2.0)
    job.joined("b", (0, 4), 2.0)
    assert decide(job, 2.0) == [Form(("a", "b"), "a")]
