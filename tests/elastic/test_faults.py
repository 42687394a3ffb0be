"""Real ranks on real Dask workers, killed, frozen, hung and made to fail at events of theirs; the training goes on or ends with a clear error."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from infra.elastic.backends import NAMES
from infra.errors import OutOfMemoryError, UserCodeError, WorkersLostError
from tests.elastic.conftest import Start, once

if TYPE_CHECKING:
    from distributed import Client

WHOLE = [(number * 32, number * 32 + 32) for number in range(20)]
BACKENDS = ("horovod", "torch")


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_killed_rank_is_replaced_and_nothing_is_counted_twice(start: Start, backend: str, rank: int) -> None:
    undisturbed = start(backend=backend)
    ran = start(backend=backend, fault="kill", rank=rank, options={"commit_every_steps": 3})
    history, other = ran.trained["history"], undisturbed.trained["history"]
    assert [ran.coverage(epoch) for epoch in (0, 1)] == [WHOLE, WHOLE]
    assert ran.repeated() <= 3
    assert any("is lost: it was killed by signal 9" in event["message"] for event in ran.of("log"))
    # The same samples in the same order: the same model, up to the rounding of sums in another order.
    assert history["epochs"][-1]["train_loss"] == pytest.approx(other["epochs"][-1]["train_loss"], rel=1e-4)
    assert ran.trained["digest"] == pytest.approx(undisturbed.trained["digest"], rel=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_who_is_left_goes_on_at_once_and_the_successor_joins_later(start: Start, backend: str) -> None:
    ran = start(1, 2, backend=backend, fault="kill", rank=1, epochs=6, sleep=0.02)
    sizes = [event["size"] for event in ran.of("group")]
    assert sizes[:3] == [2, 1, 2]
    assert [ran.coverage(epoch) for epoch in range(6)] == [WHOLE] * 6
    assert ran.trained["history"]["epochs"][-1]["valid_accuracy"] > 0.9


def test_all_ranks_killed_at_once_go_on_from_their_last_commit(start: Start) -> None:
    pids: set[int] = set()

    def hear(event: dict[str, Any]) -> None:
        if event["kind"] == "ready":
            pids.add(event["pid"])
        kill(event)

    def strike() -> None:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)

    kill = once(strike, lambda event: event["kind"] == "step" and event["epoch"] == 1 and event["step"] == 7)
    ran = start(on_event=hear, sleep=0.05, options={"commit_every_steps": 2, "checkpoint_every_s": 1000})
    assert [ran.coverage(epoch) for epoch in (0, 1)] == [WHOLE, WHOLE]
    assert ran.repeated() <= 6  # two of the commit, and those between the word of the step and the kill
    assert ran.trained["history"]["world_size"] == 2


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_rank_killed_while_the_group_comes_together_holds_nobody_up(start: Start, backend: str) -> None:
    pids: list[int] = []

    def hear(event: dict[str, Any]) -> None:
        if event["kind"] == "ready":
            pids.append(event["pid"])
        strike(event)

    strike = once(lambda: os.kill(pids[0], signal.SIGKILL), lambda event: event["kind"] == "group")
    ran = start(backend=backend, on_event=hear)
    assert [ran.coverage(epoch) for epoch in (0, 1)] == [WHOLE, WHOLE]
    assert ran.of("group")[-1]["generation"] > 1


def test_auto_measures_both_back_ends_once_and_stays_with_the_faster(start: Start, tmp_path: Path) -> None:
    for _ in range(2):
        ran = start(backend="auto", figures=tmp_path / "backends.json")
        (told,) = [event["message"] for event in ran.of("log") if event["message"].startswith("The ranks use")]
        (kept,) = json.loads((tmp_path / "backends.json").read_text()).values()
        assert NAMES[min(kept, key=lambda name: kept[name])] in told.split(":")[0]
        assert [ran.coverage(epoch) for epoch in (0, 1)] == [WHOLE, WHOLE]


def test_a_hanging_rank_is_shown_and_replaced(start: Start) -> None:
    ran = start(fault="hang", rank=1, hang_s=3.0)
    assert [ran.coverage(epoch) for epoch in (0, 1)] == [WHOLE, WHOLE]
    logs = "\n".join(event["message"] for event in ran.of("log"))
    assert "it hung for 3 s while others waited for it" in logs
    assert "_hang_here" in logs  # where it stood
    assert len(ran.outputs) == 3
    assert sum("_hang_here" in text for text in ran.outputs.values()) == 1


def test_a_frozen_rank_is_replaced(start: Start) -> None:
    ran = start(fault="stop", rank=0, beat_s=3.0)
    assert ran.trained["history"]["world_size"] == 2
    assert any("no word came from it for 3 s" in event["message"] for event in ran.of("log"))
    assert not any("it stood here" in event["message"] for event in ran.of("log")), "who is frozen cannot say where"


def test_user_code_that_raises_on_one_rank_ends_the_job_at_once_with_its_traceback(start: Start) -> None:
    ran = start(fault="raise", rank=1)
    assert isinstance(ran.error, UserCodeError)
    assert "the user's code is wrong here" in str(ran.error)
    assert str(ran.error).count("Traceback") == 1
    assert "loop.py" not in str(ran.error), "the user's own lines only"
    assert ran.of("group")[-1]["generation"] == 1, "it was tried again"


def test_a_rank_that_gets_no_memory_says_so_and_what_to_do(start: Start) -> None:
    ran = start(fault="memory", rank=1)
    assert isinstance(ran.error, OutOfMemoryError)
    assert "you tried to allocate 4294967296 bytes" in str(ran.error)
    assert "batch_size" in str(ran.error)
    assert ran.of("group")[-1]["generation"] == 1, "it was tried again"


def test_a_program_that_ends_itself_again_and_again_ends_the_job(start: Start) -> None:
    ran = start(fault="exit", rank=1, always=True)
    assert isinstance(ran.error, WorkersLostError)
    assert "a library ended the process" in ran.error.last_words


def test_a_rank_that_always_dies_ends_the_job(start: Start) -> None:
    ran = start(fault="kill", rank=0, always=True, barren=2)
    assert isinstance(ran.error, WorkersLostError)
    assert "2 of its processes died" in str(ran.error)


def test_a_killed_dask_worker_takes_its_rank_along_and_the_job_goes_on(start: Start, own_cluster: Client) -> None:
    def kill_a_worker() -> None:
        pids = own_cluster.run(os.getpid)
        busy = own_cluster.run(lambda dask_worker: bool(dask_worker.state.executing_count))
        os.kill(next(pids[address] for address, is_busy in busy.items() if is_busy), signal.SIGKILL)

    hear = once(kill_a_worker, lambda event: event["kind"] == "step" and event["step"] == 5)
    ran = start(1, 3, on_event=hear, epochs=4, sleep=0.03)
    assert [ran.coverage(epoch) for epoch in range(4)] == [WHOLE] * 4
    assert ran.trained["history"]["epochs"][-1]["valid_accuracy"] > 0.9


def test_a_worker_that_fails_again_and_again_is_left_out(start: Start, own_cluster: Client, tmp_path: Path) -> None:
    bad = min(own_cluster.run(os.getpid).values())
    ran = start(2, 3, bad_worker=bad, epochs=4, sleep=0.02)
    assert [ran.coverage(epoch) for epoch in range(4)] == [WHOLE] * 4
    assert ran.trained["history"]["world_size"] == 2
    assert len(list((tmp_path / "flags").glob("died-*"))) == 2, "Limits.worker_failures"
    assert any("is left out for 60 s" in event["message"] for event in ran.of("log"))


def test_a_frozen_dask_worker_does_not_stop_the_training(start: Start, own_cluster: Client) -> None:
    frozen: list[int] = []
    mains: list[int] = []

    def freeze() -> None:
        above = {parent.pid for parent in psutil.Process(mains[-1]).parents()}
        busy = own_cluster.run(lambda dask_worker: os.getpid() if dask_worker.state.executing_count else 0)
        frozen.append(next(pid for pid in busy.values() if pid and pid not in above))
        os.kill(frozen[0], signal.SIGSTOP)

    def hear(event: dict[str, Any]) -> None:
        if event["kind"] == "step":
            mains.append(event["pid"])
        strike(event)

    strike = once(freeze, lambda event: event["kind"] == "step" and event["step"] == 5)
    try:
        ran = start(on_event=hear)
    finally:
        for pid in frozen:
            os.kill(pid, signal.SIGCONT)
    assert [ran.coverage(epoch) for epoch in (0, 1)] == [WHOLE, WHOLE]
    assert ran.repeated() == 0
    again = start()  # it has come back
    assert again.trained["history"]["world_size"] == 2
