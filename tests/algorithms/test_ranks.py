"""Real ranks: processes of ``python -m algorithms`` that find each other by their environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from algorithms.catalog import find_algorithm
from algorithms.run import RunSpec
from infra.artifacts import fetch, find
from infra.settings import load_settings
from tests.algorithms.conftest import Workplace

MODEL = """
import torch
def plain(num_classes, channels):
    return torch.nn.Sequential(
        torch.nn.Conv2d(channels, 8, 3, stride=2), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, num_classes)
    )
"""
OPTIONS = {"image_size": 16, "epochs": 2, "batch_size": 13, "precision": "fp32", "augment": "none", "model": "rank_networks:plain"}


def start_ranks(spec: RunSpec, size: int, port: int, folder: Path, backend: str = "") -> list[subprocess.Popen[str]]:
    """Processes that find each other by torch's variables; ``backend`` is ``torch`` for several, ``local`` for one, if it is not said."""
    started = []
    for rank in range(size):
        environment = {
            **os.environ,
            "ATELIER_COLLECTIVES": backend or ("torch" if size > 1 else "local"),
            "RANK": str(rank),
            "WORLD_SIZE": str(size),
            "LOCAL_RANK": str(rank),
            "LOCAL_WORLD_SIZE": str(size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
        }
        command = [sys.executable, "-m", "algorithms", spec.model_dump_json()]
        started.append(subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    return started


def test_two_processes_on_gloo_train_what_one_trains_and_say_nothing(workplace: Workplace, tmp_path: Path, free_port: int) -> None:
    (tmp_path / "rank_networks.py").write_text(MODEL)
    found = []
    for size in (1, 2):
        spec = RunSpec.model_validate(
            {
                "verb": "train",
                "algorithm": "image-classification/small-cnn",
                "config": OPTIONS,
                "dataset": workplace.ref,
                "workspace": workplace.store.uri,
                "output": f"runs/{size}/trained",
                "checkpoints": f"runs/{size}/checkpoints",
            }
        )
        ranks = start_ranks(spec, size, free_port, tmp_path)
        try:
            for process in ranks:
                output, errors = process.communicate(timeout=240)
                assert (process.returncode, output, errors) == (0, "", "")
        finally:
            for process in ranks:
                process.kill()
                process.wait()
        artifact = find(workplace.store, spec.output)
        assert artifact is not None
        found.append(fetch(workplace.store, artifact, load_settings().cache_path))
    one, two = (load_file(folder / "model.safetensors") for folder in found)
    for name, tensor in one.items():
        assert_close(tensor, two[name], rtol=1e-4, atol=1e-6)
    first, second = (json.loads((folder / "history.json").read_text()) for folder in found)
    assert (first["world_size"], second["world_size"]) == (1, 2)
    assert first["epochs"][-1]["train_loss"] == pytest.approx(second["epochs"][-1]["train_loss"], rel=1e-5)


def test_a_users_mistake_ends_a_rank_with_status_2_and_leaves_nothing(workplace: Workplace, tmp_path: Path, free_port: int) -> None:
    save_file({}, tmp_path / "empty.safetensors")
    spec = RunSpec.model_validate(
        {
            "verb": "train",
            "algorithm": find_algorithm("image-classification/small-cnn").name,
            "config": {"image_size": 16, "pretrained": str(tmp_path / "empty.safetensors")},
            "dataset": workplace.ref,
            "workspace": workplace.store.uri,
            "output": "runs/wrong/trained",
        }
    )
    (process,) = start_ranks(spec, 1, free_port, tmp_path)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 2
    assert "fits 0 of" in errors
    assert find(workplace.store, "runs/wrong/trained") is None
