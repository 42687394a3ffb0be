"""The verb ``explain`` on real packages: of pictures, of a table's classes and of a table's numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from algorithms.analysis import explain
from algorithms.package import Package
from algorithms.run import RunSpec, execute
from infra.artifacts import Artifact, fetch
from infra.collectives import LocalCollectives
from infra.datasets.card import DatasetRef
from infra.datasets.importer import import_source
from infra.settings import load_settings
from infra.store import Store, open_store
from tests.algorithms.conftest import Workplace, write_pictures
from tests.algorithms.tables.conftest import mixed_table

TINY = {"image_size": 16, "epochs": 4, "batch_size": 13, "width": 0.5, "precision": "fp32"}


class Verbs:
    """Verbs of one algorithm on one data set, in this process."""

    def __init__(self, store: Store, ref: DatasetRef, algorithm: str, options: dict[str, Any]) -> None:
        self.store, self.ref, self.algorithm, self.options = store, ref, algorithm, options
        self.events: list[dict[str, Any]] = []
        self.trained = self("train")
        self.evaluation = self("evaluate", model=self.trained)
        self.package = self("export", model=self.trained)

    def __call__(self, verb: Any, name: str = "", **more: Any) -> Artifact:
        spec = RunSpec(
            verb=verb,
            algorithm=self.algorithm,
            config=self.options,
            dataset=self.ref,
            workspace=self.store.uri,
            output=f"runs/one/{name or verb}",
            **more,
        )
        artifact = execute(spec, LocalCollectives(), self.events.append)
        assert artifact is not None
        return artifact

    def folder(self, artifact: Artifact) -> Path:
        return fetch(self.store, artifact, load_settings().cache_path)

    def explain(self, name: str = "") -> tuple[Path, dict[str, Any]]:
        inputs = {"package": self.package, "evaluation": self.evaluation}
        folder = self.folder(self("explain", name, model=self.trained, inputs=inputs))
        return folder, json.loads((folder / "explain.json").read_text())


def table(folder: Path, frame: pd.DataFrame, target: str, algorithm: str, **options: Any) -> Verbs:
    store = open_store(str(folder / "workspace"))
    frame.to_parquet(folder / "table.parquet", index=False)
    ref = import_source(store, str(folder / "table.parquet"), "table", target=target, regression=algorithm.startswith("tabular-regression"))
    return Verbs(store, ref, algorithm, {"target": target, **options})


def test_of_pictures(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    verbs = Verbs(workplace.store, workplace.ref, "image-classification/small-cnn", TINY)
    folder, figures = verbs.explain()
    rows = workplace.dataset().num_rows("test")
    assert figures["samples"]["test"] == {"used": rows, "total": rows, "seed": 0}
    assert set(figures["intervals"]) >= {"accuracy", "log_loss"}
    assert {entry["kind"] for entry in figures["robustness"]} == {"noise", "blur", "rotation"}
    assert figures["robustness"][0]["undisturbed"] == pytest.approx(figures["metrics"]["package"]["accuracy"])
    saliency = figures["saliency"]
    assert saliency["method"] == "Grad-CAM"
    assert [entry["label"] for entry in saliency["right"]] == [entry["prediction"] for entry in saliency["right"]]
    for entry in [*saliency["right"], *figures["worst"]]:
        with Image.open(folder / entry["picture"]) as picture, Image.open(folder / entry["saliency"]) as heat:
            assert picture.size == heat.size
    scores = [entry["label_score"] for entry in figures["worst"]]
    assert scores == sorted(scores)
    assert [advice["rule"] for advice in figures["advice"]].count("few-samples-in-a-class") == 1
    assert set(json.loads((folder / "timing.json").read_text())) >= {"scores", "robustness", "examples"}
    again, _ = verbs.explain("again")
    assert (again / "explain.json").read_bytes() == (folder / "explain.json").read_bytes()
    monkeypatch.setitem(explain.LIMITS, "image", {"test": 6, "valid": 5})
    _, some = verbs.explain("some")
    assert some["samples"]["test"] == {"used": 6, "total": rows, "seed": 0}
    assert some["label_errors"]["looked_at"] == 11


def test_a_wrong_label_in_the_test_split_is_found(workspace: Path, tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "pictures", per_class=40, sizes=((16, 16),))
    splits = tmp_path / "split"
    for number, path in enumerate(sorted(folder.glob("*/*.png"))):
        split = "test" if number % 5 == 0 else "valid" if number % 5 == 1 else "train"
        label = path.parent.name if (split, path.parent.name, path.stem) != ("test", "class-0", "005") else "class-2"
        target = splits / split / label
        target.mkdir(parents=True, exist_ok=True)
        path.rename(target / f"{path.parent.name}-{path.name}")
    store = open_store(str(workspace))
    ref = import_source(store, str(splits), "squares")
    verbs = Verbs(store, ref, "image-classification/small-cnn", {**TINY, "epochs": 12, "learning_rate": 0.01})
    _, figures = verbs.explain()
    first = figures["label_errors"]["samples"][0]
    assert first["id"].endswith("class-2/class-0-005.png")
    assert (first["label"], first["suggestion"]) == ("class-2", "class-0")
    assert first["picture"].startswith("pictures/test-")
    assert figures["worst"][0]["id"] == first["id"]


@pytest.mark.filterwarnings("ignore")  # those of the libraries that shap imports
def test_of_two_classes_in_a_table(tmp_path: Path) -> None:
    frame = mixed_table(600).drop(columns=["price", "grade", "level"])
    verbs = table(tmp_path, frame, "sold", "tabular-classification/linear")
    folder, figures = verbs.explain()
    package = Package.load(verbs.folder(verbs.package))
    inputs = {name for name, _ in package.columns}
    assert {entry["column"] for entry in figures["importance"]["permutation"]} == inputs
    assert {entry["column"] for entry in figures["importance"]["shap"]} == inputs
    assert {"area", "city"} <= {entry["column"] for entry in figures["importance"]["permutation"][:3]}
    assert [entry["rule"] for entry in figures["thresholds"]][:2] == ["as it is", "best F1"]
    assert [curve["class"] for curve in figures["curves"]] == [figures["classes"][1]]
    assert {entry["column"] for entry in figures["slices"]} >= {"city", "area", "garden"}
    assert {entry["kind"] for entry in figures["robustness"]} == {"noise", "missing"}
    assert set(figures["worst"][0]["values"]) <= inputs
    assert not list(folder.glob("pictures/*"))
    assert figures["calibration"]["fitted"] == {}
    assert (verbs.explain("again")[0] / "explain.json").read_bytes() == (folder / "explain.json").read_bytes()


@pytest.mark.filterwarnings("ignore")  # those of the libraries that shap imports
def test_of_numbers_in_a_table(tmp_path: Path) -> None:
    frame = mixed_table(400).drop(columns=["grade", "sold", "level"])
    frame["answer"] = frame["price"] * 2 + 1
    _, figures = table(tmp_path, frame, "price", "tabular-regression/linear").explain()
    assert figures["importance"]["permutation"][0]["column"] == "answer"
    assert "calibration" not in figures
    assert "label_errors" not in figures
    assert figures["intervals"]["rmse"]["low"] <= figures["metrics"]["package"]["rmse"] * 1.0001
    errors = [abs(entry["label"] - entry["prediction"]) for entry in figures["worst"]]
    assert errors == sorted(errors, reverse=True)
    (leak,) = [advice for advice in figures["advice"] if advice["rule"] == "leakage-suspected"]
    assert "'answer'" in leak["text"]


def test_a_network_on_a_table_ships_its_temperature(tmp_path: Path) -> None:
    frame = mixed_table(600).drop(columns=["price", "sold", "level"])
    options = {"epochs": 6, "hidden": [16], "batch_size": 64, "precision": "fp32", "ema_decay": 0}
    verbs = table(tmp_path, frame, "grade", "tabular-classification/mlp", **options)
    package = Package.load(verbs.folder(verbs.package))
    fitted = package.description["calibration"]
    assert 80 < fitted["num_samples"] < 100
    assert fitted["kept"]
    assert fitted["temperature"] != 1
    trained = pd.read_parquet(verbs.folder(verbs.evaluation) / "predictions.parquet")
    before = np.stack(trained["scores"].to_list()).astype(np.float64) ** (1 / fitted["temperature"])
    data = pd.read_parquet(tmp_path / "table.parquet").iloc[trained["id"].astype(int)]
    answers = package.predict(json.loads(data.to_json(orient="records", date_format="iso")))
    after = np.array([[answer["scores"][label] for label in package.labels] for answer in answers])
    np.testing.assert_allclose(after, before / before.sum(axis=1, keepdims=True), atol=1e-4)
    assert [answer["label"] for answer in answers] == trained["prediction"].to_list()
