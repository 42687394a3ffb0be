"""What an elastic job decides, without any process."""

from __future__ import annotations

from dataclasses import replace

import pytest

from infra.elastic.giving_back import without_worker
from infra.elastic.policy import Break, Conclude, End, Fail, Form, Job, Limits, Regroup, Start, Worker, decide, formed

LIMITS = Limits(2, 3, wait_s=100, settle_s=10, grow_settle_s=3, beat_s=15, hang_s=60, cooldown_s=60)


def job_of(*names: str, limits: Limits = LIMITS, workers: int = 4) -> Job:
    """A job at time 0 whose members, named a, b, ..., have joined and work, one on each worker w0, w1, ..."""
    job = Job(limits)
    job.saw_workers({f"w{number}": Worker(1) for number in range(workers)})
    for number, name in enumerate(names):
        job.started(name, f"w{number}", 0.0)
        job.joined(name, None, 0.0)
    if names:
        formed(job, Form(names, None), 0.0)
    return job


def beat_all(job: Job, now: float, position: tuple[int, int] = (0, 0)) -> None:
    for name, member in job.members.items():
        if member.phase == "working":
            job.beat(name, member.operations + 1, False, position, False, now)


def died(job: Job, name: str, now: float) -> None:
    job.exited(name, -9, now, asked=False, left=False, restart=False)


def test_it_starts_a_member_on_every_slot_up_to_the_most() -> None:
    job = job_of(workers=5)
    assert decide(job, 0.0) == [Start("w0"), Start("w1"), Start("w2")]


def test_it_takes_no_slot_before_there_are_enough_for_a_first_group() -> None:
    job = job_of(workers=1)
    assert decide(job, 0.0) == []
    assert decide(job, 10_000.0) == [], "other jobs may take their time; the deadline is the caller's"
    job.saw_workers({"w0": Worker(1), "w1": Worker(1)})
    assert decide(job, 10_001.0) == [Start("w0"), Start("w1")]


def test_slots_of_one_worker_are_used_after_those_of_others() -> None:
    job = Job(LIMITS)
    job.saw_workers({"big": Worker(2), "small": Worker(1)})
    assert decide(job, 0.0) == [Start("big"), Start("small"), Start("big")]


def test_the_first_group_waits_a_moment_for_those_who_start() -> None:
    job = job_of(workers=3)
    for name, worker in (("a", "w0"), ("b", "w1"), ("c", "w2")):
        job.started(name, worker, 0.0)
    job.joined("a", None, 1.0)
    job.joined("b", None, 1.0)
    assert decide(job, 2.0) == []
    job.joined("a", None, 11.0)  # it asks again: it still waits since second 1
    assert decide(job, 11.5) == [Form(("a", "b"), None)]


def test_fewer_than_the_least_never_form_a_group() -> None:
    job = job_of(workers=1)
    job.started("a", "w0", 0.0)
    job.joined("a", (0, 0), 1.0)
    assert decide(job, 50.0)[1:] == []
    assert not any(isinstance(action, Form) for action in decide(job, 50.0))


def test_a_death_breaks_the_group_and_the_rest_form_the_next_with_the_newest_commit() -> None:
    job = job_of("a", "b", "c", workers=3)
    beat_all(job, 1.0)
    died(job, "a", 2.0)
    assert decide(job, 2.0) == [Start("w0"), Break()]
    job.started("d", "w0", 2.0)
    assert decide(job, 2.1) == []
    job.joined("b", (1, 64), 2.2)
    job.joined("c", (1, 96), 2.3)
    assert decide(job, 2.3) == [Form(("b", "c"), "c")]


def test_a_successor_with_a_commit_may_be_the_source() -> None:
    job = job_of("a", "b", workers=2)
    died(job, "a", 2.0)
    died(job, "b", 2.0)
    assert decide(job, 2.0) == [Start("w0"), Start("w1")]
    for name, worker, offer in (("c", "w0", None), ("d", "w1", (3, 0))):
        job.started(name, worker, 2.0)
        job.joined(name, offer, 3.0)
    assert decide(job, 3.0) == [Form(("c", "d"), "d")]


def test_whoever_notices_an_error_first_breaks_the_group() -> None:
    job = job_of("a", "b", workers=2)
    job.joined("b", (0, 32), 2.0)
    assert decide(job, 2.0) == [Break()]


def test_newcomers_are_let_in_at_the_next_commit() -> None:
    job = job_of("a", "b", workers=3)
    assert decide(job, 1.0) == [Start("w2")]
    job.started("c", "w2", 1.0)
    beat_all(job, 2.0)
    assert decide(job, 2.0) == []
    job.joined("c", None, 3.0)
    assert decide(job, 3.0) == [Regroup()]
    assert decide(job, 3.1) == []
    job.joined("a", (0, 320), 3.2)
    job.joined("b", (0, 320), 3.2)
    (form,) = decide(job, 3.2)
    assert form == Form(("a", "b", "c"), "a")


def test_a_full_group_lets_nobody_in() -> None:
    job = job_of("a", "b", "c")
    job.started("d", "w3", 1.0)
    job.joined("d", None, 2.0)
    assert decide(job, 2.0) == []


def test_a_death_while_the_group_changes_breaks_it() -> None:
    job = job_of("a", "b", workers=3)
    job.started("c", "w2", 0.0)
    job.joined("c", None, 1.0)
    assert decide(job, 1.0) == [Regroup()]
    died(job, "a", 1.1)
    assert Break() in decide(job, 1.1)


def test_a_worker_that_closes_is_left_at_the_next_commit() -> None:
    job = job_of("a", "b", "c", workers=3)
    job.saw_workers({"w0": Worker(1, closing=True), "w1": Worker(1), "w2": Worker(1)})
    assert decide(job, 1.0) == [Regroup()]
    job.exited("a", 76, 1.5, asked=True, left=True, restart=False)
    for name in ("b", "c"):
        job.joined(name, (0, 32), 1.6)
    assert decide(job, 1.6) == [Form(("b", "c"), "b")]
    assert not job.failures


def test_a_member_whose_worker_retires_is_waited_for_until_it_has_committed_and_left() -> None:
    job = job_of("a", "b", workers=2)
    beat_all(job, 1.0)
    job.saw_workers({"w1": Worker(1)})
    job.lost_worker("a", 1.0)
    assert decide(job, 1.0) == [Regroup()]
    job.beat("a", 9, True, (0, 0), True, 2.0)
    assert without_worker(job, 2.5) == []
    job.said_left("a")
    assert without_worker(job, 2.5) == ["a"]


def test_a_member_whose_worker_is_gone_is_not_waited_for_without_end() -> None:
    for name, now in (("it is silent", 3.0), ("the group broke", 2.6), ("it does not leave", 10.5)):
        job = job_of("a", "b", workers=2)
        job.lost_worker("a", 1.0)
        beat_all(job, 2.5 if name == "the group broke" else 1.0 if name == "it is silent" else 9.4)
        assert without_worker(job, now - 1.0) == [], name
        job.broken = name == "the group broke"
        assert without_worker(job, now) == ["a"], name


def test_who_says_nothing_is_ended() -> None:
    job = job_of("a", "b", "c", workers=3)
    job.beat("a", 5, True, (0, 0), False, 14.0)
    job.beat("c", 5, True, (0, 0), False, 14.0)
    assert [action.name for action in decide(job, 16.0) if isinstance(action, End)] == ["b"]


def test_who_hangs_while_others_wait_is_ended_with_its_stacks() -> None:
    job = job_of("a", "b", workers=2)
    for now in (1.0, 30.0, 62.0):
        job.beat("a", 7, True, (0, 0), False, now)
        job.beat("b", 6, False, (0, 0), False, now)
    (end,) = decide(job, 62.0)
    assert isinstance(end, End)
    assert (end.name, end.dump) == ("b", True)
    assert "hung for 60 s" in end.why


@pytest.mark.parametrize("waits", [(False, False), (True, True)])
def test_nobody_is_blamed_where_nobody_waits_or_all_are_at_the_same_place(waits: tuple[bool, bool]) -> None:
    job = job_of("a", "b", workers=2)
    for now in (1.0, 62.0):
        job.beat("a", 7, waits[0], (0, 0), False, now)
        job.beat("b", 7, waits[1], (0, 0), False, now)
    assert not any(isinstance(action, End) for action in decide(job, 62.0))


def test_all_stuck_at_the_same_place_come_together_anew() -> None:
    job = job_of("a", "b", workers=2)
    for now in (1.0, 62.0):
        for name in ("a", "b"):
            job.beat(name, 7, True, (0, 0), False, now)
    assert decide(job, 62.0) == [Break()]


def test_a_worker_that_fails_again_and_again_is_left_out_for_longer_and_longer() -> None:
    job = job_of("a", "b", workers=3)
    failures = [10.0, 20.0, 30.0]
    for number, now in enumerate(failures):
        job.started(f"x{number}", "w2", now - 1)
        died(job, f"x{number}", now)
    assert job.left_out("w2", 31.0)
    assert job.left_out("w2", 30.0 + 119.0), "the third failure in a row doubles the time"
    assert not job.left_out("w2", 30.0 + 121.0)
    assert not job.left_out("w0", 31.0)


def test_a_commit_makes_the_failures_before_it_forgotten() -> None:
    job = job_of("a", "b", workers=2)
    beat_all(job, 1.0, (0, 32))
    job.failures["w0"] = [0.5, 0.6]
    job.barren = 3
    beat_all(job, 2.0, (0, 32))
    assert job.barren == 3, "it is not further than before"
    beat_all(job, 3.0, (0, 64))
    assert job.barren == 0
    assert not job.left_out("w0", 3.0)


def test_deaths_without_a_commit_between_them_end_the_job() -> None:
    job = job_of("a", "b", workers=2, limits=replace(LIMITS, barren=3, worker_failures=9))
    for number in range(3):
        job.started(f"x{number}", "w0", 1.0)
        died(job, f"x{number}", 1.0)
    (fail,) = decide(job, 1.0)
    assert isinstance(fail, Fail)
    assert "3 of its processes died" in fail.why


def test_a_second_strange_exit_ends_the_job_and_a_restart_is_no_failure() -> None:
    job = job_of("a", "b", workers=4)
    job.exited("a", 75, 1.0, asked=False, left=False, restart=True)
    assert (job.barren, job.strange, job.failures) == (0, 0, {})
    job.started("c", "w0", 1.0)
    job.exited("c", 3, 2.0, asked=False, left=False, restart=False)
    assert not any(isinstance(action, Fail) for action in decide(job, 2.0))
    job.started("d", "w0", 2.0)
    job.exited("d", 3, 3.0, asked=False, left=False, restart=False)
    assert isinstance(decide(job, 3.0)[0], Fail)


def test_too_few_for_too_long_save_what_there_is_and_fail() -> None:
    job = job_of("a", "b", workers=2)
    job.saw_workers({"w0": Worker(1)})
    died(job, "b", 1.0)
    assert decide(job, 1.0) == [Break()]
    job.joined("a", (2, 0), 2.0)
    assert decide(job, 2.0) == []
    job.joined("a", (2, 0), 101.0)
    assert decide(job, 101.5) == [Conclude("a")]
    formed(job, Form(("a",), "a"), 101.5)
    job.beat("a", 1, False, (2, 0), False, 102.0)
    assert decide(job, 102.0) == []
    job.exited("a", 76, 103.0, asked=False, left=True, restart=False)
    (fail,) = decide(job, 103.0)
    assert isinstance(fail, Fail)
    assert "fewer than the 2 workers" in fail.why


def test_a_worker_that_comes_in_time_saves_the_job() -> None:
    job = job_of("a", "b", workers=2)
    job.saw_workers({"w0": Worker(1)})
    died(job, "b", 1.0)
    decide(job, 1.0)
    job.joined("a", (2, 0), 2.0)
    job.saw_workers({"w0": Worker(1), "new": Worker(1)})
    job.joined("a", (2, 0), 50.0)
    assert decide(job, 50.0) == [Start("new")]
    job.started("c", "new", 50.0)
    for name in ("a", "c"):
        job.joined(name, (2, 0) if name == "a" else None, 105.0)
    assert decide(job, 105.0) == [Form(("a", "c"), "a")]


def test_the_job_is_done_when_rank_0_is_and_nobody_is_replaced_before() -> None:
    job = job_of("a", "b", workers=2)
    job.exited("b", 0, 1.0, asked=False, left=False, restart=False)
    assert decide(job, 1.0) == []
    job.exited("a", 0, 2.0, asked=False, left=False, restart=False)
    assert job.done
    assert decide(job, 3.0) == []


def test_rank_0_lost_after_the_others_ended_well_is_made_again() -> None:
    job = job_of("a", "b", workers=2)
    job.exited("b", 0, 1.0, asked=False, left=False, restart=False)
    died(job, "a", 2.0)
    assert decide(job, 2.0) == [Start("w0"), Start("w1")]


def test_decisions_for_512_slots_take_no_time() -> None:
    import time

    limits = Limits(256, 512)
    job = Job(limits)
    job.saw_workers({f"w{number}": Worker(1) for number in range(512)})
    begin = time.perf_counter()
    for number, action in enumerate(decide(job, 0.0)):
        assert isinstance(action, Start)
        job.started(f"m{number}", action.worker, 0.0)
        job.joined(f"m{number}", None, 0.5)
    (form,) = decide(job, 1.0)
    assert isinstance(form, Form)
    assert len(form.names) == 512
    assert time.perf_counter() - begin < 5  # 10 ms on an idle core
