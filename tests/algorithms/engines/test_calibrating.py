"""The temperature of a picture network goes from the valid split into the package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from algorithms.analysis.calibration import Temperature
from algorithms.engines import calibrating
from algorithms.package import Package
from infra.datasets.importer import import_source
from infra.store import open_store
from tests.algorithms.analysis.test_explain import TINY, Verbs
from tests.algorithms.conftest import Workplace, write_pictures


def test_a_package_gives_the_scores_at_its_temperature(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Temperature(2.5, True, 11, 0.9, 0.8, 0.2, 0.1)
    seen: list[tuple[int, ...]] = []

    def fixed(truth: np.ndarray, logits: np.ndarray, seed: int) -> Temperature:
        seen.append(logits.shape)
        return found

    monkeypatch.setattr(calibrating, "find_temperature", fixed)
    verbs = Verbs(workplace.store, workplace.ref, "image-classification/small-cnn", {**TINY, "epochs": 8})
    package = Package.load(verbs.folder(verbs.package))
    assert seen == [(workplace.dataset().num_rows("valid"), 3)], "once, on the valid split"
    assert package.description["calibration"] == found.to_json()
    table = pq.read_table(verbs.folder(verbs.evaluation) / "predictions.parquet").to_pydict()
    before = np.asarray(table["scores"], np.float64) ** (1 / 2.5)
    dataset = workplace.dataset()
    images = [image.as_py() for part in dataset.iter_tables("test", ["image"]) for image in part["image"]]
    answers = package.predict(images)
    after = np.array([list(answer["scores"].values()) for answer in answers])
    np.testing.assert_allclose(after, before / before.sum(axis=1, keepdims=True), atol=2e-3)
    assert [answer["label"] for answer in answers] == table["prediction"]


def test_too_few_valid_samples_leave_the_scores_alone(workspace: Path, tmp_path: Path) -> None:
    store = open_store(str(workspace))
    ref = import_source(store, str(write_pictures(tmp_path / "few", per_class=20, sizes=((12, 12),))), "few")
    verbs = Verbs(store, ref, "image-classification/small-cnn", {**TINY, "epochs": 1})
    assert Package.load(verbs.folder(verbs.package)).description["calibration"] == {}
