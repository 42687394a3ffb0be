"""Latency is measured with onnxruntime alone, in turns, and summed up over pairs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from algorithms.compression.latency import batch_of, read_inputs, summarize
from tests.packages import write_colours


def test_speedups_are_medians_over_pairs_so_a_slow_spell_hits_both() -> None:
    times = {"fp32": [[0.2, 0.2], [2.0, 2.0], [0.2, 0.2]], "int8": [[0.1, 0.1], [1.0, 1.0], [0.1, 0.1]]}
    found = summarize(times, "fp32", 4)
    assert found["int8"]["speedup"] == 2.0
    assert found["fp32"]["speedup"] == 1.0
    assert found["int8"]["p50_ms"] == 100.0
    assert found["int8"]["samples_per_s"] == 40.0
    assert found["int8"]["p95_ms"] > found["int8"]["p50_ms"]


def test_a_batch_repeats_what_there_is() -> None:
    assert batch_of({"x": np.arange(3)}, 7)["x"].tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert batch_of({"x": np.arange(3)}, 2)["x"].tolist() == [0, 1]


def test_texts_come_back_as_objects(tmp_path: Path) -> None:
    np.savez(tmp_path / "inputs.npz", kind=np.array([["a"], ["bcd"]]), size=np.ones((2, 1), np.float32))
    found = read_inputs(tmp_path / "inputs.npz")
    assert found["kind"].dtype == object
    assert found["kind"].tolist() == [["a"], ["bcd"]]


def test_the_process_measures_packages_and_loads_no_torch(tmp_path: Path) -> None:
    write_colours(tmp_path / "one")
    write_colours(tmp_path / "two")
    np.savez(tmp_path / "inputs.npz", image=np.zeros((4, 6, 6, 3), np.uint8))
    spec = {
        "packages": {"fp32": str(tmp_path / "one"), "other": str(tmp_path / "two")},
        "inputs": str(tmp_path / "inputs.npz"),
        "batch_sizes": [1, 8],
        "threads": 1,
        "limit_s": 0.1,
        "output": str(tmp_path / "latency.json"),
    }
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    code = (
        "import sys\nfrom algorithms.compression.latency import main\n"
        "main(sys.argv[1])\nassert not {'torch', 'onnx', 'sklearn'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "spec.json")], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "latency.json").read_text())
    assert set(found["speed"]) == {"fp32", "other"}
    assert set(found["speed"]["other"]) == {"1", "8"}
    assert 0.2 < found["speed"]["other"]["1"]["speedup"] < 5
    assert found["host"]["threads"] == 1
