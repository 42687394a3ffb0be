"""The contract that every picture preset passes: it trains, is judged, and its package gives what the trained network gives."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from algorithms import metrics, package
from algorithms.catalog import ALGORITHMS, find_algorithm
from algorithms.images import export
from algorithms.run import RunSpec, execute
from algorithms.spec import Algorithm
from infra.artifacts import Artifact, fetch
from infra.collectives import LocalCollectives
from infra.errors import ParityError
from infra.settings import load_settings
from tests.algorithms.conftest import Workplace

IMAGES = [algorithm for algorithm in ALGORITHMS if algorithm.modality == "image"]
TINY: dict[str, Any] = {"image_size": 32, "epochs": 1, "batch_size": 26, "precision": "fp32"}


def execute_verb(
    workplace: Workplace, algorithm: Algorithm, verb: str, options: dict[str, Any], **more: Any
) -> tuple[Artifact, Path, list[Any]]:
    events: list[Any] = []
    spec = RunSpec.model_validate(
        {
            "verb": verb,
            "algorithm": algorithm.name,
            "config": options,
            "dataset": workplace.ref,
            "workspace": workplace.store.uri,
            "output": f"runs/one/{verb}",
            "lineage": {"dataset": workplace.ref.digest},
            **more,
        }
    )
    artifact = execute(spec, LocalCollectives(), events.append)
    assert artifact is not None
    return artifact, fetch(workplace.store, artifact, load_settings().cache_path), events


def test_there_are_picture_presets() -> None:
    assert len(IMAGES) >= 5


@pytest.mark.parametrize("algorithm", IMAGES, ids=lambda algorithm: algorithm.name)
def test_a_preset_trains_is_judged_and_exported_with_parity(
    algorithm: Algorithm, workplace: Workplace, capfd: pytest.CaptureFixture[str], pictures_folder: Path
) -> None:
    options = {**TINY, **({"epochs": 20, "width": 0.5, "batch_size": 13, "ema_decay": 0.9} if algorithm.name.endswith("small-cnn") else {})}
    trained, _, _ = execute_verb(workplace, algorithm, "train", options)
    _, judged, _ = execute_verb(workplace, algorithm, "evaluate", options, model=trained)
    _, packaged, events = execute_verb(workplace, algorithm, "export", options, model=trained)
    written = capfd.readouterr()
    assert (written.out, written.err) == ("", "")
    baseline = json.loads((judged / "metrics.json").read_text())
    loaded = package.Package.load(packaged)
    assert loaded.metrics["num_samples"] == baseline["num_samples"] == workplace.dataset().num_rows("test")
    assert loaded.metrics["accuracy"] == pytest.approx(baseline["accuracy"], abs=0.1)
    assert loaded.metrics["log_loss"] == pytest.approx(baseline["log_loss"], rel=1e-2)
    assert loaded.description["lineage"]["dataset"] == workplace.ref.digest
    assert {event["phase"] for event in events if event["kind"] == "progress"} >= {"export", "parity", "judge package"}
    check_predictions(judged, workplace, baseline)
    answers = loaded.predict([str(next((pictures_folder / "class-1").iterdir())), str(packaged / "absent.png")])
    assert sum(answers[0]["scores"].values()) == pytest.approx(1, abs=1e-4)
    assert answers[0]["label"] in loaded.labels
    assert "error" in answers[1]
    if algorithm.name.endswith("small-cnn"):
        assert baseline["accuracy"] >= 0.9


def check_predictions(folder: Path, workplace: Workplace, baseline: dict[str, Any]) -> None:
    table = pq.read_table(folder / "predictions.parquet").to_pydict()
    classes = workplace.dataset().card.classes
    assert list(table) == ["id", "label", "prediction", "scores"]
    assert all(identity.startswith(f"{label}/") for identity, label in zip(table["id"], table["label"], strict=True))
    scores = np.asarray(table["scores"])
    assert [classes[index] for index in scores.argmax(axis=1)] == table["prediction"]
    truth = np.asarray([classes.index(label) for label in table["label"]])
    assert metrics.classification_metrics(truth, scores, classes)["accuracy"] == baseline["accuracy"]


def test_a_package_that_differs_from_its_model_is_refused(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    algorithm = find_algorithm("image-classification/small-cnn")
    trained, _, _ = execute_verb(workplace, algorithm, "train", TINY)
    export_graph = export.export_graph

    def changed(network: Any, *others: Any) -> Any:
        other = copy.deepcopy(network)
        with torch.no_grad():
            list(other.parameters())[-1].copy_(torch.tensor([3.0, 0.0, 0.0]))
        return export_graph(other, *others)

    monkeypatch.setattr(export, "export_graph", changed)
    with pytest.raises(ParityError, match="Nothing was registered"):
        execute_verb(workplace, algorithm, "export", TINY, model=trained)


def test_expectations_speak_of_the_card(workplace: Workplace) -> None:
    algorithm = find_algorithm("image-classification/resnet18")
    assert any(expectation.per_sample for expectation in algorithm.engine.expectations(algorithm.config(), workplace.dataset().card))
