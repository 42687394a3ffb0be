"""Augmentation of rows and class weights, in whole trainings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from infra.datasets.card import DatasetRef
from infra.errors import UserCodeError
from tests.algorithms.tables.conftest import Runs

QUICK: dict[str, dict[str, Any]] = {
    "mlp": {"epochs": 15, "hidden": [16], "batch_size": 32},
    "lightgbm": {"num_rounds": 30, "min_samples_leaf": 5},
    "linear": {},
}


@pytest.fixture
def rare(runs: Runs) -> DatasetRef:
    """400 rows, one in twenty of class ``rare``; the classes overlap."""
    random = np.random.default_rng(0)
    is_rare = np.arange(400) % 20 == 0
    frame = pd.DataFrame(
        {
            "x": random.normal(is_rare * 1.5, 1),
            "y": np.where(random.random(400) < 0.1, np.nan, random.normal(is_rare * 1.0, 1)),
            "colour": random.choice(["red", "blue"], 400),
            "kind": np.where(is_rare, "rare", "usual"),
        }
    )
    return runs.add(frame, "kind", name="rare")


def trained(runs: Runs, ref: DatasetRef, kind: str, output: str, **options: Any) -> tuple[Path, list[str]]:
    """The folder of the trained model, and its predictions of the test split."""
    name, whole = f"tabular-classification/{kind}", {"target": "kind", **QUICK[kind], **options}
    artifact = runs.run(runs.spec("train", name, ref, whole, output))
    judged = runs.run(runs.spec("evaluate", name, ref, whole, output, model=artifact))
    table = pq.read_table(runs.path(judged) / "predictions.parquet")
    assert table.num_rows == runs.open(ref).num_rows("test"), "the test split stays as it is"
    return runs.path(artifact), table["prediction"].to_pylist()


@pytest.mark.parametrize("kind", ["mlp", "lightgbm", "linear"])
def test_smote_and_class_weights_make_a_model_see_the_rare_class(kind: str, runs: Runs, rare: DatasetRef) -> None:
    found = {
        name: trained(runs, rare, kind, f"{kind}-{name}", **options)[1].count("rare")
        for name, options in (("plain", {}), ("smote", {"augment": "smote"}), ("weights", {"class_weights": "balanced"}))
    }
    assert found["smote"] > found["plain"]
    assert found["weights"] > found["plain"]


@pytest.mark.parametrize(("kind", "augment"), [("mlp", "noise"), ("mlp", "smote"), ("linear", "noise")])
def test_the_same_seed_gives_the_same_model(kind: str, augment: str, runs: Runs, rare: DatasetRef) -> None:
    scores = []
    for output, options in (("first", {}), ("second", {}), ("plain", {"augment": "none"})):
        folder, _ = trained(runs, rare, kind, f"{kind}-{augment}-{output}", **{"augment": augment, **options})
        scores.append((folder / ("model.safetensors" if kind == "mlp" else "model.npz")).read_bytes())
    assert scores[0] == scores[1]
    assert scores[0] != scores[2]


def test_an_estimator_tells_how_many_rows_it_learned_from(runs: Runs, rare: DatasetRef) -> None:
    trained(runs, rare, "linear", "told", augment="smote")
    counts = runs.open(rare).card.counts["train"]
    told = [event["message"] for event in runs.events if event["kind"] == "log"]
    assert f"Augmentation (smote): {sum(counts.values())} training rows became {2 * counts['usual']}." in told


@pytest.mark.parametrize("kind", ["mlp", "linear"])
def test_an_own_policy_that_raises_shows_its_own_traceback_once(
    kind: str, runs: Runs, rare: DatasetRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_growing.py").write_text("def grow(rows, targets):\n    return rows[targets == 'rare'].mean_of_all()\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserCodeError) as caught:
        trained(runs, rare, kind, f"own-{kind}", augment="my_growing:grow")
    assert str(caught.value).count("Traceback") == 1
    assert "return rows[targets == 'rare'].mean_of_all()" in str(caught.value)
