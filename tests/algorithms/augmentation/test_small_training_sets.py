"""What augmentation is for: figures on record. ``benchmarks/augmentation.py`` has all policies and more seeds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from algorithms.run import RunSpec, execute
from infra.artifacts import read_file
from infra.collectives import LocalCollectives
from infra.datasets.importer import import_source
from infra.store import open_store

PRESET = "image-classification/small-cnn"


def accuracy(workspace: Path, source: Path, **config: Any) -> float:
    """On the test split."""
    store = open_store(str(workspace))
    output = f"runs/{len(list((workspace / 'runs').glob('*'))) if (workspace / 'runs').exists() else 0}"
    common = {"algorithm": PRESET, "config": config, "dataset": import_source(store, str(source), "digits"), "workspace": store.uri}
    trained = execute(RunSpec.model_validate({**common, "verb": "train", "output": f"{output}/trained"}), LocalCollectives())
    spec = RunSpec.model_validate({**common, "verb": "evaluate", "output": f"{output}/judged", "model": trained})
    judged = execute(spec, LocalCollectives())
    assert judged is not None
    return float(json.loads(read_file(store, judged, "metrics.json"))["accuracy"])


@pytest.mark.slow
def test_the_digits_are_read_as_well_as_before(workspace: Path, digits_folder: Path) -> None:
    assert accuracy(workspace, digits_folder) >= 0.985


@pytest.mark.slow
def test_with_20_training_pictures_a_class_the_default_policy_is_better_than_none(
    workspace: Path, digits_folder: Path, tmp_path: Path
) -> None:
    found: dict[str, list[float]] = {"default": [], "none": []}
    for seed in (0, 1):
        folder = tmp_path / f"set-{seed}"
        rng = np.random.default_rng(seed)
        for label in "0123456789":
            files = sorted((digits_folder / label).iterdir())
            for place, number in enumerate(rng.permutation(len(files))):
                target = folder / ("train" if place < 20 else "valid" if place < 40 else "test") / label / files[number].name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(files[number].read_bytes())
        found["default"].append(accuracy(workspace, folder, seed=seed, epochs=40))
        found["none"].append(accuracy(workspace, folder, seed=seed, epochs=40, augment="none"))
    assert np.mean(found["default"]) > np.mean(found["none"]), found
