"""Training across machines: three hosts with a network of their own, workers started as by SSH, the real training stage."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.elastic.conftest import Ran
from tests.hosts import SSH, Network, network
from tests.processes import marked
from tests.stack import wait_for

__all__ = ["network"]
HERE = Path(__file__).parent


def environment(network: Network, workspace: Path, **more: str) -> dict[str, str]:
    driver, *workers = network.hosts
    return {
        **os.environ,
        "PYTHONPATH": str(HERE.parent.parent),
        "PYTHONWARNINGS": "ignore",
        "ATELIER_WORKSPACE": str(workspace),
        "ATELIER_CLUSTER": f"ssh://{','.join(workers)}",
        "ATELIER_SSH__PROGRAM": json.dumps([str(SSH)]),
        "ATELIER_SSH__ADDRESS": network.addresses[driver],
        **more,
    }


def train_across(network: Network, workspace: Path, pictures: Path, backends: list[str], **settings: str) -> list[dict[str, Any]]:
    """Run ``hosts_program`` on the first host; returns its events."""
    command = network.inside(network.hosts[0], [sys.executable, "-P", str(HERE / "hosts_program.py"), str(pictures), *backends])
    done = subprocess.run(
        command, env=environment(network, workspace, **settings), capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def test_ranks_train_across_hosts_with_both_back_ends(network: Network, few_digits: Path, tmp_path: Path) -> None:
    backends = ["horovod", "torch"] if importlib.util.find_spec("horovod") else ["torch"]
    events = train_across(network, tmp_path / "workspace", few_digits, backends)
    (workers,) = [event["addresses"] for event in events if event["kind"] == "workers"]
    assert [address.rsplit(":", 1)[0] for address in workers] == [f"tls://{network.addresses[host]}" for host in network.hosts[1:]]
    done = [event for event in events if event["kind"] == "done"]
    assert [(event["backend"], event["world_size"]) for event in done] == [(backend, 2) for backend in backends]
    losses = [[epoch["train_loss"] for epoch in event["history"]["epochs"]] for event in done]
    assert all(len(one) == 4 and one[-1] < one[0] for one in losses)
    assert losses[0] == pytest.approx(losses[-1], rel=1e-3)


@pytest.mark.timeout(400)
def test_a_link_that_is_cut_for_20_seconds_and_mended_loses_nothing(network: Network, tmp_path: Path) -> None:
    """The other rank goes on alone, and when the link is there again they are two."""
    flags, mark = tmp_path / "flags", uuid.uuid4().hex
    flags.mkdir()
    command = network.inside(network.hosts[0], [sys.executable, "-P", str(HERE / "cut_program.py"), str(flags)])
    log = tmp_path / "log"
    events: list[dict[str, Any]] = []
    env = environment(network, tmp_path / "workspace", ELASTIC_MARK=mark)
    with log.open("w") as output, subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=output, text=True) as driver:
        assert driver.stdout is not None
        lines = iter(driver.stdout.readline, "")

        def until(what: str, when: Callable[[dict[str, Any]], bool]) -> None:
            for line in lines:
                if line.startswith("{"):
                    events.append(json.loads(line))
                    if when(events[-1]):
                        return
            raise AssertionError(f"the job ended before {what}: {events[-5:]}\n{log.read_text()[-4000:]}")

        def steps(size: int) -> Callable[[dict[str, Any]], bool]:
            begun = len(events)
            return lambda event: len([one for one in events[begun:] if one["kind"] == "step" and one["size"] == size]) > 6

        try:
            until("a commit of both ranks", steps(2))
            network.cut(network.hosts[2])
            cut_at = time.monotonic()
            until("steps of the rank that is left", steps(1))
            assert time.monotonic() - cut_at < 60
            wait_until(cut_at + 20)
            network.mend(network.hosts[2])
            until("steps of both, again", steps(2))
            (flags / "hurry").touch()
            until("the end", lambda event: event["kind"] == "trained")
            assert driver.wait(timeout=60) == 0, log.read_text()[-4000:]
        finally:
            network.mend(network.hosts[2])
            driver.kill()
    ran = Ran(events)
    for epoch in range(3):
        done = ran.coverage(epoch)
        assert [first for first, _ in done] == [0, *(last for _, last in done[:-1])], "every sample counts once"
        assert done[-1][1] == 6400
    assert ran.repeated() <= 5, "the steps since the last commit"
    assert ran.trained["history"]["epochs"][-1]["valid_accuracy"] > 0.9
    wait_for("the end of all ranks", lambda: not marked("ELASTIC_MARK", mark), 60)


def wait_until(moment: float) -> None:
    """The link stays cut for as long as the test says; nothing else is waited for."""
    time.sleep(max(0.0, moment - time.monotonic()))
