"""Training across machines: three hosts with a network of their own, workers started as by SSH, the real training stage."""

from __future__ import annotations

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


def train_across(network: Network, workspace: Path, pictures: Path, **settings: str) -> list[dict[str, Any]]:
    """Run ``hosts_program`` on the first host; returns its events."""
    command = network.inside(network.hosts[0], [sys.executable, "-P", str(HERE / "hosts_program.py"), str(pictures)])
    done = subprocess.run(
        command, env=environment(network, workspace, **settings), capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


@pytest.mark.parametrize("backend", ["horovod", "torch"])
def test_ranks_train_across_hosts(backend: str, network: Network, few_digits: Path, tmp_path: Path) -> None:
    if backend == "horovod":
        pytest.importorskip("horovod")
    events = train_across(network, tmp_path / "workspace", few_digits, ATELIER_BACKEND=backend)
    (workers,) = [event["addresses"] for event in events if event["kind"] == "workers"]
    assert [address.rsplit(":", 1)[0] for address in workers] == [f"tls://{network.addresses[host]}" for host in network.hosts[1:]]
    assert events[-1]["world_size"] == 2
    epochs = events[-1]["history"]["epochs"]
    assert len(epochs) == 4
    print(epochs[-1])
