"""kill -9 of the driving process at any stage: the same command finishes, repeats nothing that was done, and leaves nothing behind."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.processes import marked

MARK = "ATELIER_TEST_RUN"
LIMIT_S = 150.0


def command(data: Path) -> list[str]:
    options = ["epochs=40", "image_size=16", "checkpoint_every_s=0.5"]
    words = [
        sys.executable,
        "-m",
        "deployments.cli",
        "run",
        "image-classification/small-cnn",
        "--data",
        str(data),
        "--workers",
        "2",
        "--json",
    ]
    return words + [word for option in options for word in ("--set", option)]


def start(data: Path, environment: dict[str, str], folder: Path) -> subprocess.Popen[bytes]:
    with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
        return subprocess.Popen(command(data), env=environment, stdout=out, stderr=err)


def validation_runs(workspace: Path, err: Path) -> bool:
    return "import    completed" in err.read_text()


def training_has_a_checkpoint(workspace: Path, err: Path) -> bool:
    return any(workspace.glob("runs/*/checkpoints/*/MANIFEST.json"))


def packaging_runs(workspace: Path, err: Path) -> bool:
    return "evaluate  completed" in err.read_text()


@pytest.mark.slow
def test_a_run_killed_three_times_finishes_where_it_stopped(
    few_digits: Path, run_environment: dict[str, str], workspace: Path, tmp_path: Path, prefect_api: str
) -> None:
    mark = uuid.uuid4().hex
    environment = {**run_environment, MARK: mark}  # the first run has a Prefect server of its own to lose, the others share one
    moments: list[Callable[[Path, Path], bool]] = [validation_runs, training_has_a_checkpoint, packaging_runs]
    for moment in moments:
        process = start(few_digits, environment, tmp_path)
        limit = time.monotonic() + LIMIT_S
        while not moment(workspace, tmp_path / "err"):
            assert process.poll() is None, f"ended before {moment.__name__}: {(tmp_path / 'err').read_text()}"
            assert time.monotonic() < limit, f"never came to {moment.__name__}: {(tmp_path / 'err').read_text()}"
            time.sleep(0.02)
        process.kill()
        process.wait()
        gone_by = time.monotonic() + 5
        while marked(MARK, mark) and time.monotonic() < gone_by:
            time.sleep(0.1)
        assert marked(MARK, mark) == [], f"processes left after the kill at {moment.__name__}"
        if moment is training_has_a_checkpoint:
            assert not list(workspace.glob("runs/*/trained/MANIFEST.json"))
        if moment is packaging_runs:
            assert "continues from" in (tmp_path / "err").read_text()
        environment["PREFECT_API_URL"] = prefect_api

    process = start(few_digits, environment, tmp_path)
    assert process.wait(LIMIT_S) == 0, (tmp_path / "err").read_text()
    document = json.loads((tmp_path / "out").read_text())
    states = {stage["name"]: stage["state"] for stage in document["stages"]}
    assert [states[name] for name in ("import", "validate", "train", "evaluate")] == ["cached"] * 4
    assert [states[name] for name in ("package", "register", "report")] == ["completed"] * 3
    assert document["version"] == 1
    assert marked(MARK, mark) == []


def test_an_interrupt_stops_everything_and_says_how_to_go_on(
    few_digits: Path, run_environment: dict[str, str], workspace: Path, tmp_path: Path
) -> None:
    import signal

    mark = uuid.uuid4().hex
    process = start(few_digits, {**run_environment, MARK: mark}, tmp_path)
    limit = time.monotonic() + LIMIT_S
    while "validate  completed" not in (tmp_path / "err").read_text():
        assert process.poll() is None, (tmp_path / "err").read_text()
        assert time.monotonic() < limit, (tmp_path / "err").read_text()
        time.sleep(0.05)
    begin = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    assert time.monotonic() - begin < 10
    text = (tmp_path / "err").read_text()
    assert "Interrupted" in text
    assert "Traceback" not in text
    time.sleep(1)
    assert marked(MARK, mark) == []
