"""Training across machines: three hosts with a network of their own, workers started as by SSH, the real training stage."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.hosts import SSH, Network, network

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
