"""Several elastic jobs on one real Dask cluster of processes, with drivers in processes of their own."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.elastic.conftest import ROOT, Ran, Start

if TYPE_CHECKING:
    from distributed import Client

STEPS = 600


def test_a_job_uses_what_is_idle_gives_it_back_and_takes_it_again_when_the_other_driver_is_killed(
    start: Start, own_cluster: Client, tmp_path: Path
) -> None:
    """Three slots: the first job has all of them, two while the second one runs, all again when that one's driver was killed with SIGKILL."""
    sizes: list[int] = []
    others: list[subprocess.Popen[str]] = []
    killed = threading.Event()

    def hear(event: dict[str, Any]) -> None:
        if event["kind"] != "step":
            return
        sizes.append(event["size"])
        if event["size"] == 3 and not others:
            others.append(_second(own_cluster, tmp_path))
            threading.Thread(target=_kill_at_its_first_step, args=(others[0], killed), daemon=True).start()
        elif event["size"] == 3 and killed.is_set() and 2 in sizes:
            (tmp_path / "flags" / "hurry").touch()

    options = {"commit_every_steps": 4}
    ran = start(1, 3, on_event=hear, samples=32 * STEPS, epochs=1, sleep=0.03, options=options)
    others[0].wait(timeout=30)
    assert killed.is_set(), "the second job never came to a step"
    assert _changes(sizes)[-3:] == [3, 2, 3]
    assert ran.coverage(0) == [(number * 32, number * 32 + 32) for number in range(STEPS)]
    assert ran.repeated() == 0
    assert any("given back" in event["message"] for event in ran.of("log"))


def test_two_jobs_end_and_each_counts_every_sample_once(start: Start, tmp_path: Path) -> None:
    """The second one comes when the first has all, gets its share, and has all when the first has ended."""
    found: dict[str, Ran] = {}
    arrived = threading.Event()
    first: list[int] = []
    second: list[int] = []

    def run_second() -> None:
        found["second"] = start(1, 3, on_event=hear_second, samples=32 * STEPS, epochs=1, sleep=0.03, options={"commit_every_steps": 4})

    thread = threading.Thread(target=run_second)

    def hear_first(event: dict[str, Any]) -> None:
        if event["kind"] == "step":
            first.append(event["size"])
            if event["size"] == 3 and not arrived.is_set():
                arrived.set()
                thread.start()

    def hear_second(event: dict[str, Any]) -> None:
        if event["kind"] == "step":
            second.append(event["size"])
            (tmp_path / "flags" / "hurry").touch()

    ran = start(1, 3, on_event=hear_first, samples=32 * STEPS, epochs=1, sleep=0.03, options={"commit_every_steps": 4})
    thread.join(timeout=200)
    for one in (ran, found["second"]):
        assert one.coverage(0) == [(number * 32, number * 32 + 32) for number in range(STEPS)]
        assert one.repeated() == 0
    assert (3, 2) in itertools.pairwise(_changes(first))
    assert second[0] == 1


def _changes(sizes: list[int]) -> list[int]:
    return [size for index, size in enumerate(sizes) if index == 0 or size != sizes[index - 1]]


def _second(client: Client, folder: Path) -> subprocess.Popen[str]:
    document = {"epochs": 50, "samples": 32 * 100, "batch": 32, "sleep": 0.05, "workspace": str(folder / "second"), "flags": str(folder)}
    assert client.scheduler is not None
    command = [
        sys.executable,
        "-m",
        "tests.elastic.sharing_program",
        str(client.scheduler.address),
        json.dumps(document),
        str(folder / "other"),
    ]
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True)


def _kill_at_its_first_step(process: subprocess.Popen[str], killed: threading.Event) -> None:
    assert process.stdout is not None
    with process.stdout:
        if process.stdout.readline():
            os.kill(process.pid, signal.SIGKILL)
            killed.set()
