"""The figure on record of small-cnn with its default policy; ``benchmarks/augmentation.py`` compares policies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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
