"""The same loop on CUDA, with NCCL. Skipped where there is no GPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from algorithms.catalog import find_algorithm
from algorithms.run import RunSpec
from infra.artifacts import find, read_file
from tests.algorithms.conftest import Workplace
from tests.algorithms.test_ranks import start_ranks

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU, and there is none here")]
OPTIONS: dict[str, Any] = {"image_size": 16, "epochs": 6, "batch_size": 16, "augment": "none", "dropout": 0.0, "sync_batchnorm": True}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_ranks_on_gpus_with_nccl_learn_what_a_cpu_learns(workplace: Workplace, tmp_path: Path, free_port: int, precision: str) -> None:
    ranks = min(2, torch.cuda.device_count())
    spec = RunSpec.model_validate(
        {
            "verb": "train",
            "algorithm": "image-classification/small-cnn",
            "config": {**OPTIONS, "precision": precision},
            "dataset": workplace.ref,
            "workspace": workplace.store.uri,
            "output": "runs/gpu/trained",
        }
    )
    processes = start_ranks(spec, ranks, free_port, tmp_path, backend="torch")
    try:
        for process in processes:
            _, errors = process.communicate(timeout=240)
            assert process.returncode == 0, errors
    finally:
        for process in processes:
            process.kill()
            process.wait()
    artifact = find(workplace.store, spec.output)
    assert artifact is not None
    history = json.loads(read_file(workplace.store, artifact, "history.json"))
    assert (history["device"], history["precision"], history["world_size"]) == ("cuda", precision, ranks)
    profile = history["profile"]
    assert sum(profile["parts_ms"].values()) == pytest.approx(profile["step_ms"], abs=0.01)
    assert profile["parts_ms"]["backward"] > 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        run = workplace.train(find_algorithm(spec.algorithm), "cpu", **{**OPTIONS, "precision": "fp32"})
    cpu = json.loads((run.output_dir / "history.json").read_text())
    expected = [entry["train_loss"] for entry in cpu["epochs"]]
    assert [entry["train_loss"] for entry in history["epochs"]] == pytest.approx(expected, rel=0.01 if precision == "fp32" else 0.2)
