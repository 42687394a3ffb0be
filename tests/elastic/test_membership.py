"""Groups that grow and shrink: every sample counts once, nothing that was done is done again, and the model is as good."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from infra.cluster import open_cluster
from infra.elastic.discovery import DaskDiscovery
from infra.elastic.policy import Worker
from infra.errors import NotEnoughSlotsError, ServiceError, WorkersLostError
from infra.settings import Settings
from tests.elastic.conftest import ROOT, Start, once

if TYPE_CHECKING:
    from distributed import Client

WHOLE = [(number * 32, number * 32 + 32) for number in range(20)]


@dataclass
class Offered(DaskDiscovery):
    """Shows the first ``count`` workers of the cluster, those that hold a rank first; the others that hold one are closing."""

    client: Client
    count: int

    def workers(self, held: Iterable[str]) -> dict[str, Worker] | None:
        mine = list(held)
        found = super().workers(mine)
        if found is None:
            return None
        names = sorted(found, key=lambda name: (name not in mine, name))
        shown = {name: found[name] for name in names[: self.count]}
        return {**shown, **{name: replace(found[name], closing=True) for name in names[self.count :] if name in mine}}


@pytest.mark.parametrize("backend", ["horovod", "torch"])
def test_a_group_grows_and_shrinks_within_an_epoch_and_loses_nothing(
    start: Start, own_cluster: Client, tmp_path: Path, backend: str
) -> None:
    offered = Offered(own_cluster, 1)
    sizes: list[int] = []

    def hear(event: dict[str, Any]) -> None:
        if event["kind"] == "step":
            sizes.append(event["size"])
            if sizes.count(1) == 3 and 3 not in sizes:
                offered.count = 3
            elif sizes.count(3) == 3:
                offered.count = 1
            elif 3 in sizes and event["size"] == 1:
                (tmp_path / "flags" / "hurry").touch()

    options = {"commit_every_steps": 4}
    ran = start(1, 3, backend=backend, discovery=offered, on_event=hear, samples=32 * 400, epochs=1, sleep=0.03, options=options)
    assert (sizes[0], max(sizes), sizes[-1]) == (1, 3, 1)
    assert ran.coverage(0) == [(number * 32, number * 32 + 32) for number in range(400)]
    assert ran.repeated() == 0
    assert ran.trained["history"]["epochs"][-1]["valid_accuracy"] > 0.9


def test_batch_and_rate_follow_the_number_of_workers_where_that_is_wished(start: Start, own_cluster: Client, tmp_path: Path) -> None:
    offered = Offered(own_cluster, 1)

    def hear(event: dict[str, Any]) -> None:
        if event["kind"] == "step" and event["step"] >= 3:
            offered.count = 2
        if event["kind"] == "step" and event["size"] == 2:
            (tmp_path / "flags" / "hurry").touch()

    options = {"commit_every_steps": 4, "scale_batch": True, "schedule": "constant", "warmup_epochs": 0}
    ran = start(1, 2, discovery=offered, on_event=hear, samples=32 * 150 + 11, epochs=2, sleep=0.03, options=options)
    for epoch in (0, 1):
        bounds = ran.coverage(epoch)
        assert bounds[0][0] == 0
        assert bounds[-1][1] == 32 * 150 + 11
        assert all(first == last for (_, last), (first, _) in itertools.pairwise(bounds)), "a sample was left out or counted twice"
    by_size = {(event["size"], -(-(event["bounds"][1] - event["bounds"][0]) // 32)) for event in ran.of("step")}
    assert by_size == {(1, 1), (2, 2)}
    assert ran.repeated() == 0
    assert ran.trained["history"]["epochs"][-1]["learning_rate"] == pytest.approx(0.02)


def test_a_dask_worker_that_retires_lets_its_rank_commit_first(start: Start, own_cluster: Client, tmp_path: Path) -> None:
    mains: list[int] = []

    def retire() -> None:
        busy = own_cluster.run(lambda dask_worker: bool(dask_worker.state.executing_count))
        pids = own_cluster.run(os.getpid)
        above = {parent.pid for parent in psutil.Process(mains[-1]).parents()}
        # What rank 0 tells in the very moment in which its own Dask worker closes may be lost on its way.
        address = next(address for address, is_busy in busy.items() if is_busy and pids[address] not in above)
        assert own_cluster.loop is not None
        own_cluster.loop.add_callback(_retire, own_cluster, address)

    def hear(event: dict[str, Any]) -> None:
        if event["kind"] == "step":
            mains.append(event["pid"])
        leave(event)
        if event["kind"] == "group" and event["generation"] > 1:
            (tmp_path / "flags" / "hurry").touch()

    # Steps are longer than the driver needs to see that the worker is gone, and no commit is due for long.
    leave = once(retire, lambda event: event["kind"] == "step" and event["size"] == 2 and event["step"] >= 3)
    ran = start(1, 2, on_event=hear, samples=32 * 400, epochs=1, sleep=0.8, options={"commit_every_steps": 1000})
    assert ran.coverage(0) == [(number * 32, number * 32 + 32) for number in range(400)]
    assert ran.repeated() == 0
    assert len(ran.of("group")) >= 2


async def _retire(client: Client, address: str) -> None:
    await client.scheduler.retire_workers(workers=[address], close_workers=True, remove=True)  # type: ignore[union-attr]


def test_below_the_least_it_waits_saves_and_fails_in_words_and_goes_on_later(start: Start, own_cluster: Client, tmp_path: Path) -> None:
    offered = Offered(own_cluster, 2)

    def fewer() -> None:
        offered.count = 1

    hear = once(fewer, lambda event: event["kind"] == "step" and event["epoch"] == 0 and event["step"] == 5)
    more = {"options": {"commit_every_steps": 2, "checkpoint_every_s": 1000}, "workspace": str(tmp_path / "workspace")}
    ran = start(2, 2, discovery=offered, on_event=hear, sleep=0.05, wait_s=2.0, **more)
    assert isinstance(ran.error, WorkersLostError)
    assert "for 2 s it had fewer than the 2 workers that it needs" in str(ran.error)
    again = start(2, 2, **more)
    first = again.of("step")[0]
    assert (first["epoch"], first["step"]) > (0, 0), "it began anew"
    assert again.trained["history"]["epochs"][-1]["epoch"] == 2


def test_more_than_the_cluster_has_is_refused_at_once(start: Start) -> None:
    ran = start(9, 12)
    assert isinstance(ran.error, NotEnoughSlotsError)


def test_a_full_disk_ends_the_training_with_a_clear_error_and_leaves_no_half_checkpoint(start: Start, tmp_path: Path) -> None:
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    ran = start(fault="full", workspace=str(workspace), options={"checkpoint_every_steps": 3, "commit_every_steps": 3})
    assert ran.error is not None
    assert "No space left on device" in str(ran.error)
    assert not list(workspace.rglob("manifest.json"))


def test_a_killed_scheduler_ends_the_job_with_a_clear_error_and_no_process_is_left(
    start: Start, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    file = tmp_path / "scheduler.json"
    base = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
    log = tmp_path / "scheduler.log"
    with log.open("w") as errors:
        scheduler = subprocess.Popen([*base, "--scheduler-file", str(file)], env=environment, cwd=tmp_path, stderr=errors)
    work = [sys.executable, "-m", "distributed.cli.dask_worker", "--scheduler-file", str(file), "--nthreads", "1", "--no-dashboard"]
    work += ["--resources", "slot=1", "--no-nanny", "--death-timeout", "20", "--local-directory", str(tmp_path)]
    workers = [subprocess.Popen(work, env=environment, cwd=tmp_path, **pipes) for _ in range(2)]  # type: ignore[call-overload]
    try:
        while not (file.exists() and file.read_text().rstrip().endswith("}")):
            assert scheduler.poll() is None
            time.sleep(0.02)
        address = json.loads(file.read_text())["address"]
        with open_cluster(Settings(workspace=str(tmp_path), cluster=address)) as client:
            client.wait_for_workers(2, timeout=60)
            kill = once(scheduler.kill, lambda event: event["kind"] == "step" and event["step"] == 5)
            ran = start(client=client, on_event=kill, sleep=0.02, epochs=100)
            assert isinstance(ran.error, ServiceError)
            assert f"The Dask scheduler at {address} has gone" in str(ran.error)
            assert "start it again, then run the same command: it goes on from its last checkpoint" in str(ran.error)
            assert ran.seconds < 90
        assert "distributed.client" not in capfd.readouterr().err
        assert log.read_text().count("Run out-of-band function 'look'") == 1, "each look at the cluster is in the scheduler's log"
    finally:
        for process in (scheduler, *workers):
            process.send_signal(signal.SIGKILL)
            process.wait()
