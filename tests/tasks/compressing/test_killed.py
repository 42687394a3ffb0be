"""kill -9 during compression: the same command finishes, makes no finished candidate again, and chooses what an undisturbed run chooses."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.processes import marked

ROOT = Path(__file__).parents[3]
MARK = "COMPRESS_MARK"


@contextmanager
def start(source: Path, workspace: Path) -> Iterator[subprocess.Popen[str]]:
    program = str(Path(__file__).with_name("driver_program.py"))
    env = {**os.environ, "PYTHONPATH": str(ROOT), "ATELIER_WORKSPACE": str(workspace), "ATELIER_SLOTS": "1", MARK: str(workspace)}
    with subprocess.Popen([sys.executable, program, str(source)], env=env, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def finished(workspace: Path) -> dict[str, int]:
    """The moment at which each finished part of the search was published, by its path."""
    return {str(path.relative_to(workspace)): path.stat().st_mtime_ns for path in workspace.glob("runs/*/compression/*/MANIFEST.json")}


def conclusion(output: str, workspace: Path) -> dict[str, Any]:
    """What was chosen, and what is known of each candidate but its speed, which is measured anew in each run."""
    done = json.loads(output.splitlines()[-1])
    table = json.loads((workspace / done["table"]["key"] / "compression.json").read_text())
    kept = ("name", "done", "failure", "metric", "loss", "size_bytes", "num_parameters", "macs", "agreement")
    return {"chosen": done["chosen"], "test": table["test"], "rows": [{name: row[name] for name in kept} for row in table["rows"]]}


@pytest.mark.slow
def test_a_killed_compression_repeats_no_candidate_and_comes_to_the_same_choice(few_digits: Path, tmp_path: Path) -> None:
    killed, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"
    with start(few_digits, killed) as driver:
        assert driver.stdout is not None
        while not (line := driver.stdout.readline()).startswith("compress prune-30"):
            assert line, "ended before its first candidate was there"
        limit = time.monotonic() + 60
        while not list(killed.glob("runs/*/compression/checkpoints-*/*/MANIFEST.json")):  # in the middle of the next candidate's training
            assert driver.poll() is None, "ended before the second candidate's training had a checkpoint"
            assert time.monotonic() < limit, "the second candidate's training never had a checkpoint"
            time.sleep(0.01)
        driver.kill()
    limit = time.monotonic() + 8
    while marked(MARK, str(killed)):
        assert time.monotonic() < limit, "a rank outlived the killed driver"
        time.sleep(0.1)
    before = finished(killed)
    # What comes before the compression, from the same bytes: the model that is compressed is the same one.
    shutil.copytree(killed, undisturbed, ignore=shutil.ignore_patterns("compression"))
    assert sum("/candidate-" in path for path in before) == 2  # fp32 and prune-30

    outputs = {}
    for workspace in (killed, undisturbed):
        with start(few_digits, workspace) as driver:
            outputs[workspace], _ = driver.communicate(timeout=240)
        assert driver.returncode == 0
    assert "continues from" in outputs[killed]
    assert "continues from" not in outputs[undisturbed]
    after = finished(killed)
    assert {path: after[path] for path in before if "/checkpoints-" not in path} == {
        path: moment for path, moment in before.items() if "/checkpoints-" not in path
    }
    assert conclusion(outputs[killed], killed) == conclusion(outputs[undisturbed], undisturbed)
