from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from distributed import Client as DaskClient

from infra.cluster import num_slots
from infra.errors import (
    CollectiveError,
    CorruptArtifactError,
    DeadlineExceededError,
    MissingExtraError,
    NotEnoughSlotsError,
    RankFailedError,
)
from infra.launch import Failure, choose_backend, choose_failure, failure_of_result, launch

if TYPE_CHECKING:
    from distributed import Client

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PATH = f"{HERE}:{ROOT}"
Start = Callable[..., list[dict[str, Any]]]


def seconds_until_gone(mark: str, limit_s: float) -> float:
    """How long it took until no process was left whose environment holds the mark; an assertion fails after ``limit_s`` seconds."""
    start = time.monotonic()
    while left := _marked(mark):
        assert time.monotonic() - start < limit_s, [process.cmdline() for process in left]
        time.sleep(0.02)
    return time.monotonic() - start


def _marked(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and mark in process.environ().values():
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


@pytest.fixture
def mark() -> str:
    return uuid.uuid4().hex


@pytest.fixture
def start(cluster: Client, tmp_path: Path, mark: str) -> Start:
    """Launches ``rank_program``; returns the events. No process of it is left afterwards, however it ended."""

    def run(do: str, ranks: int = 2, deadline_s: float = 60, on_event: Callable[[dict[str, Any]], None] | None = None, **rest: Any) -> Any:
        launching = {key: rest.pop(key) for key in ("backend", "threads_per_rank", "what", "on_output") if key in rest}
        events: list[dict[str, Any]] = []
        try:
            launch(
                json.dumps({"do": do, **rest}),
                client=cluster,
                num_ranks=ranks,
                deadline_s=deadline_s,
                on_event=on_event or events.append,
                env={"PYTHONPATH": PATH, "MARK": mark},
                module="rank_program",
                log_dir=tmp_path / "logs",
                **launching,
            )
        finally:
            assert seconds_until_gone(mark, 1.0) < 1.0
        return events

    return run


def test_events_of_each_rank_arrive_complete_and_in_order(start: Start) -> None:
    events = start("count", number=3000)
    for rank in (0, 1):
        assert [event["index"] for event in events if event["rank"] == rank] == list(range(3000))


def test_a_start_costs_little(start: Start) -> None:
    start("count", number=1)
    began = time.monotonic()
    start("count", number=1)
    assert time.monotonic() - began < 3  # 0.3 s on an idle machine with 2 cores


def test_what_is_no_event_becomes_a_log_line(start: Start) -> None:
    events = start("garbage", ranks=1)
    assert [(event["kind"], event.get("message")) for event in events] == [("log", "no json"), ("log", "[1]"), ("last", None)]


def test_a_rank_gets_its_threads_a_session_and_no_foreign_variables(start: Start) -> None:
    names = ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ATELIER_THREADS", "ATELIER_COLLECTIVES", "HOROVOD_GLOO_IFACE"]
    events = start("environment", names=names, threads_per_rank=3)
    assert len(events) == 2
    for event in events:
        assert list(event["values"].values()) == ["3", "3", "3", "3", "horovod", "lo"]
        assert event["session"]
    (alone,) = start("environment", ranks=1, names=names)
    assert list(alone["values"].values()) == [str(len(os.sched_getaffinity(0)))] * 4 + ["local", None]


def test_more_ranks_than_slots_are_refused_before_anything_starts(start: Start, tmp_path: Path) -> None:
    with pytest.raises(NotEnoughSlotsError) as caught:
        start("count", ranks=3, number=1)
    assert (caught.value.wanted, caught.value.available) == (3, 2)
    assert not (tmp_path / "logs").exists()


def test_an_error_of_ours_comes_back_as_itself(start: Start) -> None:
    with pytest.raises(CorruptArtifactError) as caught:
        start("own error", rank=1)
    assert caught.value.file == "model.bin"


def test_a_bug_in_one_rank_shows_its_own_traceback_at_once(start: Start, tmp_path: Path) -> None:
    began = time.monotonic()
    outputs: dict[str, str] = {}
    with pytest.raises(RankFailedError, match="user code is wrong here") as caught:
        start("bug", rank=1, on_output=outputs.__setitem__)
    assert caught.value.rank == 1
    assert set(outputs) == {"rank-0", "rank-1"}
    assert "a word on the standard output" in outputs["rank-1"]
    assert 'raise ValueError("user code' in caught.value.last_words
    assert time.monotonic() - began < 10
    (log,) = (tmp_path / "logs").glob("*/rank-1.log")
    assert "a word on the standard output" in log.read_text()


def test_a_status_without_a_report_comes_with_the_last_lines(start: Start) -> None:
    with pytest.raises(RankFailedError) as caught:
        start("leave", ranks=1, status=3)
    assert (caught.value.rank, caught.value.exit_code) == (0, 3)
    assert caught.value.last_words.splitlines()[-1] == "line 299"
    assert len(caught.value.last_words.splitlines()) == 100


@pytest.mark.parametrize("backend", ["horovod", "torch"])
def test_the_killed_rank_is_named_not_the_one_that_lost_it(start: Start, backend: str) -> None:
    with pytest.raises(RankFailedError, match=r"killed by signal 9 \(often: out of memory\)") as caught:
        start("lose a peer", number=signal.SIGKILL, rank=1, backend=backend, deadline_s=120)
    assert (caught.value.rank, caught.value.exit_code) == (1, -9)


def test_the_deadline_ends_stubborn_ranks_and_their_children(start: Start) -> None:
    began = time.monotonic()
    with pytest.raises(DeadlineExceededError, match="The long sleep did not end within 4 s"):
        start("sleep", deadline_s=4, what="The long sleep")
    assert time.monotonic() - began < 9


def test_what_a_rank_leaves_behind_goes_with_it(start: Start) -> None:
    began = time.monotonic()
    assert [event["kind"] for event in start("daemon")] == ["left", "left"]
    assert time.monotonic() - began < 10


def test_an_error_in_the_listener_ends_the_ranks(start: Start) -> None:
    def listener(event: dict[str, Any]) -> None:
        raise KeyError("listener")

    with pytest.raises(KeyError, match="listener"):
        start("sleep", on_event=listener)


def test_a_job_that_is_interrupted_is_gone_within_three_seconds(start: Start) -> None:
    began: list[float] = []

    def interrupt(event: dict[str, Any]) -> None:
        began.append(time.monotonic())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        start("sleep", on_event=interrupt)
    assert time.monotonic() - began[0] < 4


def test_a_killed_supervisor_takes_its_rank_along(start: Start) -> None:
    with pytest.raises(RankFailedError, match="supervisor was killed"):
        start("sleep", on_event=lambda event: os.kill(event["supervisor"], signal.SIGKILL) if event.get("rank") == 1 else None)


def test_two_jobs_that_need_all_slots_do_not_block_each_other(start: Start) -> None:
    failures: list[BaseException] = []

    def run() -> None:
        try:
            start("count", number=5)
        except BaseException as error:  # noqa: BLE001 - carried to the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []


def test_a_lost_dask_worker_is_said_in_words_and_leaves_no_orphan(start: Start, cluster: Client) -> None:
    pids = list(cluster.run(os.getpid).values())

    def kill_the_worker(event: dict[str, Any]) -> None:
        if event["kind"] == "asleep" and event["rank"] == 0:
            worker = psutil.Process(event["supervisor"]).parent()
            assert worker is not None
            assert worker.pid in pids
            parent = worker.parent()
            assert parent is not None
            for process in (parent, worker):  # what watches over the worker first, then the worker
                os.kill(process.pid, signal.SIGKILL)

    with pytest.raises(RankFailedError, match=r"The Dask worker .* is gone"):
        start("sleep", on_event=kill_the_worker)
    deadline = time.monotonic() + 60
    while num_slots(cluster) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_nothing_of_a_job_stays_on_the_scheduler(start: Start, cluster: Client) -> None:
    def count(dask_scheduler: Any = None) -> tuple[int, int]:
        topics = [topic for name, topic in dask_scheduler._broker._topics.items() if name.startswith("atelier-ranks-")]
        return len(dask_scheduler.tasks), sum(len(topic.events) for topic in topics)

    before = cluster.run_on_scheduler(count)  # other tests share the cluster
    start("count", number=10)
    deadline = time.monotonic() + 5
    while (left := cluster.run_on_scheduler(count)) > before:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def _driver(tmp_path: Path, mark: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(HERE / "driver_program.py"), str(tmp_path / "workspace")]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "MARK": mark}
    driver = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    assert driver.stdout is not None
    assert driver.stdout.readline() == "both asleep\n", driver.communicate(timeout=60)
    assert len(_marked(mark)) >= 10  # driver; 2 workers and 2 ranks, each with its supervisor; 2 children that left their groups
    return driver


def test_a_killed_driver_leaves_no_process(tmp_path: Path, mark: str) -> None:
    with _driver(tmp_path, mark) as driver:
        driver.kill()
        driver.wait()
        assert seconds_until_gone(mark, 5.0) < 5.0


def test_ctrl_c_in_the_driver_ends_everything_quickly_and_quietly(tmp_path: Path, mark: str) -> None:
    with _driver(tmp_path, mark) as driver:
        sent = time.time()
        driver.send_signal(signal.SIGINT)
        output, errors = driver.communicate(timeout=30)
        assert float(output.split()[-1]) - sent < 4
        assert errors.rstrip().endswith("KeyboardInterrupt")
        assert errors.count("Traceback") == 1
        assert seconds_until_gone(mark, 1.0) < 1.0


def test_the_failure_that_explains_most_is_chosen() -> None:
    peer = Failure(3, CollectiveError(0, "all_reduce", "reset"))
    aborted = Failure(2, RankFailedError(1, -6, ""))
    killed = Failure(1, RankFailedError(2, -9, ""))
    own, later = Failure(0, CorruptArtifactError("f", "a", "b")), Failure(0, RankFailedError(3, 1, "Traceback"))
    assert choose_failure([peer, aborted, killed, own, later]) is own
    assert choose_failure([peer, aborted, killed]) is killed
    assert choose_failure([peer, aborted]) is aborted
    assert choose_failure([peer]) is peer


def test_a_rank_that_was_asked_to_end_has_not_failed() -> None:
    result = {"rank": 0, "status": -15, "ended": True, "error": None, "last_words": ""}
    assert failure_of_result(result) is None
    assert failure_of_result({"num_batches": 0}) is None
    assert failure_of_result({**result, "ended": False}) is not None
    assert failure_of_result({**result, "ended": False, "status": 0}) is None


def test_horovod_is_taken_where_every_worker_has_it() -> None:
    having, lacking = {"host": "a", "horovod": True}, {"host": "b", "horovod": False}
    assert choose_backend("auto", 1, [lacking]) == ("local", "")
    assert choose_backend("auto", 2, [having, having]) == ("horovod", "")
    assert choose_backend("torch", 2, [having, having]) == ("torch", "")
    chosen, reason = choose_backend("auto", 2, [having, lacking])
    assert chosen == "torch"
    assert "not installed on b" in reason
    with pytest.raises(MissingExtraError, match="on b"):
        choose_backend("horovod", 2, [having, lacking])


def test_the_client_need_not_be_the_one_that_started_the_cluster(cluster: Client, tmp_path: Path) -> None:
    assert cluster.scheduler is not None
    events: list[dict[str, Any]] = []
    with DaskClient(cluster.scheduler.address, set_as_default=False) as other:
        argument = json.dumps({"do": "count", "number": 2})
        launch(
            argument,
            client=other,
            num_ranks=2,
            deadline_s=60,
            on_event=events.append,
            env={"PYTHONPATH": PATH},
            module="rank_program",
            log_dir=tmp_path,
        )
    assert len(events) == 4
