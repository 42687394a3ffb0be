"""Jobs in warm processes: they are quick to start and to stop, and whatever happens to one, nothing of it stays."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from infra.context import StageContext
from infra.errors import CorruptArtifactError, DeadlineExceededError, RankFailedError
from infra.settings import Settings
from infra.warm import Ended, WarmJobs

if TYPE_CHECKING:
    from distributed import Client

HERE = Path(__file__).parent


@pytest.fixture
def program_cluster(cluster: Client) -> Client:
    """The cluster, whose workers' children find ``warm_program``."""

    def extend(path: str) -> None:
        import sys

        if path not in sys.path:
            sys.path.append(path)

    cluster.run(extend, str(HERE))
    return cluster


@pytest.fixture
def jobs(program_cluster: Client, tmp_path: Path) -> Iterator[WarmJobs]:
    with WarmJobs(program_cluster, "warm_program", ["json"], threads=1, deadline_s=60, log_dir=tmp_path / "logs") as jobs:
        yield jobs


def _start(jobs: WarmJobs, number: int, do: str, **values: Any) -> None:
    jobs.start(number, json.dumps({"do": do, **values}))


def _follow(jobs: WarmJobs, events: list[dict[str, Any]] | None = None, stop_at: int | None = None) -> dict[int, Ended]:
    """Until all jobs have ended; their events go to ``events``."""
    ended: dict[int, Ended] = {}
    deadline = time.monotonic() + 60
    while jobs.running:
        assert time.monotonic() < deadline
        message = jobs.next(0.1)
        if message is None:
            continue
        if message.ended is not None:
            ended[message.number] = message.ended
        elif message.event is not None:
            if events is not None:
                events.append({**message.event, "number": message.number})
            if stop_at is not None and message.event.get("step") == stop_at:
                jobs.stop(message.number)
    return ended


def _is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_jobs_share_a_warm_process_and_are_processes_of_their_own(jobs: WarmJobs) -> None:
    events: list[dict[str, Any]] = []
    for number in range(6):
        _start(jobs, number, "where")
        if number >= 1:  # two at a time
            assert all(end.error is None and end.status == 0 for end in _follow(jobs, events).values())
    assert [event["number"] for event in events if event["number"] > 1] == [2, 3, 4, 5]
    assert len({event["pid"] for event in events}) == 6
    assert len({event["parent"] for event in events}) <= 2
    assert {event["threads"] for event in events} == {"1"}
    assert not any(Path(event["folder"]).exists() for event in events)


def test_a_job_that_is_stopped_ends_within_two_steps(jobs: WarmJobs) -> None:
    events: list[dict[str, Any]] = []
    _start(jobs, 0, "where")
    _follow(jobs)
    _start(jobs, 1, "steps", count=500, pause_s=0.2)
    (ended,) = _follow(jobs, events, stop_at=3).values()
    assert ended == Ended(-9, stopped=True)
    assert events[-1]["step"] <= 5


def test_more_jobs_than_slots_wait_for_a_slot(jobs: WarmJobs) -> None:
    events: list[dict[str, Any]] = []
    for number in range(4):
        _start(jobs, number, "steps", count=4, pause_s=0.1)
    assert len(_follow(jobs, events)) == 4
    running: set[int] = set()
    for event in events:  # a job runs from its first step to its last
        running.add(event["number"])
        assert len(running) <= 2
        if event["step"] == 4:
            running.remove(event["number"])


def test_a_crash_is_told_with_its_last_words_and_takes_nothing_along(jobs: WarmJobs) -> None:
    _start(jobs, 0, "crash")
    (ended,) = _follow(jobs).values()
    assert ended.status == -11
    assert isinstance(ended.error, RankFailedError)
    assert "about to crash" in ended.error.last_words
    events: list[dict[str, Any]] = []
    _start(jobs, 1, "where")
    assert _follow(jobs, events)[1].status == 0


def test_an_error_of_ours_comes_back_as_itself(jobs: WarmJobs) -> None:
    _start(jobs, 0, "own error")
    error = _follow(jobs)[0].error
    assert isinstance(error, CorruptArtifactError)
    assert error.file == "model.bin"


def test_one_job_is_run_to_its_end_with_its_events_or_its_error(jobs: WarmJobs) -> None:
    events: list[dict[str, Any]] = []
    jobs.run(json.dumps({"do": "steps", "count": 3, "pause_s": 0.01}), events.append)
    assert [event["step"] for event in events] == [1, 2, 3]
    with pytest.raises(CorruptArtifactError, match=r"model\.bin"):
        jobs.run(json.dumps({"do": "own error"}), events.append)
    assert not jobs.running


def test_one_job_whose_listener_raises_is_stopped(jobs: WarmJobs) -> None:
    def interrupted(event: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        jobs.run(json.dumps({"do": "steps", "count": 500, "pause_s": 0.2}), interrupted)
    assert all(end.stopped for end in _follow(jobs).values())


def test_one_job_that_never_gets_a_slot_ends_at_the_deadline(
    program_cluster: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infra.warm.GONE_TIMEOUT_S", 0.5)
    busy = [program_cluster.submit(time.sleep, 4, resources={"slot": 1}, pure=False) for _ in range(2)]
    with (
        WarmJobs(program_cluster, "warm_program", ["json"], threads=1, deadline_s=0.5, log_dir=tmp_path, what="The run") as jobs,
        pytest.raises(DeadlineExceededError, match="The run"),
    ):
        jobs.run(json.dumps({"do": "where"}), lambda event: None)
    program_cluster.cancel(busy)


def test_a_killed_warm_process_is_a_failure_of_that_job_only(jobs: WarmJobs) -> None:
    _start(jobs, 0, "kill parent")
    ended = _follow(jobs)[0]
    assert ended.status is None
    assert isinstance(ended.error, RankFailedError)
    _start(jobs, 1, "where")
    assert _follow(jobs)[1].status == 0


def test_what_a_job_leaves_behind_goes_with_it(jobs: WarmJobs) -> None:
    events: list[dict[str, Any]] = []
    _start(jobs, 0, "leave a child")
    _follow(jobs, events)
    assert _is_gone(events[0]["pid"])


def test_a_job_whose_dask_worker_is_lost_runs_again(jobs: WarmJobs, program_cluster: Client) -> None:
    pids = program_cluster.run(os.getpid)
    _start(jobs, 0, "steps", count=15, pause_s=0.1)
    began, steps = 0, []
    while jobs.running:
        message = jobs.next(1.0)
        if message is None:
            continue
        began += message.began
        if message.event is not None:
            steps.append(message.event["step"])
            if steps == [1, 2]:
                os.kill(pids[jobs._addresses[0]], signal.SIGKILL)
        if message.ended is not None:
            assert message.ended == Ended(0)
    assert began == 2
    assert steps[-15:] == list(range(1, 16))


def test_a_job_that_waits_for_a_slot_can_be_stopped(jobs: WarmJobs) -> None:
    for number in range(3):
        _start(jobs, number, "steps", count=10, pause_s=0.1)
    waiting = next(iter(jobs.running - set(_first_two(jobs))))
    jobs.stop(waiting)
    ended = _follow(jobs)
    assert ended.pop(waiting) == Ended(None, stopped=True)
    assert all(end.status == 0 for end in ended.values())


def _first_two(jobs: WarmJobs) -> set[int]:
    """The jobs that hold the two slots."""
    began: set[int] = set()
    while len(began) < 2:
        message = jobs.next(1.0)
        began |= {message.number} if message is not None and message.began else set()
    return began


def test_a_job_has_a_deadline(program_cluster: Client, tmp_path: Path) -> None:
    with WarmJobs(program_cluster, "warm_program", [], threads=1, deadline_s=2, log_dir=tmp_path) as jobs:
        _start(jobs, 0, "steps", count=500, pause_s=0.1)
        (ended,) = _follow(jobs).values()
    assert ended.late
    assert isinstance(ended.error, DeadlineExceededError)


def test_leaving_ends_the_jobs_and_the_warm_processes(program_cluster: Client, tmp_path: Path) -> None:
    pids: list[int] = []
    with WarmJobs(program_cluster, "warm_program", [], threads=1, deadline_s=60, log_dir=tmp_path) as jobs:
        events: list[dict[str, Any]] = []
        _start(jobs, 0, "where")
        _follow(jobs, events)
        _start(jobs, 1, "steps", count=500, pause_s=0.1)
        while (message := jobs.next(1.0)) is None or message.event is None:
            assert jobs.running
        pids = [events[0]["parent"]]
    deadline = time.monotonic() + 5
    while not all(map(_is_gone, pids)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert os.getpid() not in pids
    assert not [one for one in psutil.process_iter(["cmdline"]) if "warm_program" in (one.info["cmdline"] or []) and _mine(one)]


def _mine(process: psutil.Process) -> bool:
    return process.environ().get("ATELIER_TEST_SESSION") == os.environ["ATELIER_TEST_SESSION"]


@pytest.mark.parametrize(
    ("cluster", "threads"),
    [
        ("local", 3),
        ("tcp://127.0.0.1:8786", os.cpu_count()),
        ("tls://localhost:8786", os.cpu_count()),
        ("tcp://[::1]:8786", os.cpu_count()),
        ("tcp://10.0.0.7:8786", 0),
        ("ssh://localhost", 0),
        ("kubernetes", 0),
    ],
)
def test_stages_run_in_warm_processes_on_a_cluster_of_this_machine(tmp_path: Path, cluster: str, threads: int) -> None:
    with StageContext.open(Settings(workspace=str(tmp_path), cluster=cluster, slots=3)) as context:
        assert context._warm_threads == threads
