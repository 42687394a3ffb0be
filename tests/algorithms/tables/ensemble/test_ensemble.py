"""The ensemble as a preset: time, resuming, distillation, odd data; and every kind of member in one graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort
import pandas as pd
import pytest

from algorithms.package import Package
from algorithms.tables.columns import ColumnPlan, NumericColumn
from algorithms.tables.config import EnsembleClassifierConfig
from algorithms.tables.ensemble import model as fitted
from algorithms.tables.ensemble.bags import fit_bag, gather_rows
from algorithms.tables.ensemble.model import Ensemble
from algorithms.tables.ensemble.portfolio import KINDS, Member, list_members
from algorithms.tables.family import Learning
from algorithms.tables.graph import build_model
from infra.datasets.card import DatasetRef
from infra.errors import CorruptArtifactError
from infra.store import open_store

if TYPE_CHECKING:
    from pathlib import Path

    from tests.algorithms.tables.conftest import Runs

CLASSES, NUMBERS = "tabular-classification/ensemble", "tabular-regression/ensemble"
QUICK: dict[str, dict[str, Any]] = {
    "linear": {"regularization": 1.0},
    "kernel": {"width": 1.0},
    "extra-trees": {"num_trees": 30},
    "random-forest": {"num_trees": 30},
    "lightgbm": {"num_rounds": 20, "min_samples_leaf": 5},
    "xgboost": {"num_rounds": 20},
    "perceptron": {"epochs": 5, "hidden": (8,)},
}


def small_rows(num_classes: int) -> Learning:
    """150 rows of six features, of which one misses values and one is 0 or 1."""
    random = np.random.default_rng(0)
    matrix = random.normal(size=(150, 6)).astype(np.float32)
    matrix[:, 5] = random.random(150) < 0.3
    signal = matrix[:, 0] + matrix[:, 1] * matrix[:, 5] + random.normal(0, 0.3, 150)
    matrix[random.random(150) < 0.1, 2] = np.nan
    edges = {0: None, 2: [0.0], 3: [-0.5, 0.5]}[num_classes]
    labels: Any = signal if edges is None else np.digitize(signal, edges)
    return Learning(matrix[:120], labels[:120], matrix[120:], labels[120:], None, num_classes, 1)


@pytest.mark.parametrize("num_classes", [0, 2, 3])
def test_all_kinds_of_members_in_one_graph_say_what_they_say_in_python(num_classes: int, mixed_runs: Runs, tmp_path: Path) -> None:
    import algorithms.run as runs

    learning = small_rows(num_classes)
    rows = gather_rows(learning, None, "y", 0, 3)
    spec = mixed_runs.spec("train", CLASSES, DatasetRef(name="x", digest="0" * 64, kind="table"), {}, "members")
    run = runs.Run(spec, open_store(mixed_runs.workspace), None, tmp_path, tmp_path)  # type: ignore[arg-type]
    bags = [fit_bag(Member(kind, kind, QUICK[kind]), rows, run, deadline=float("inf"), must=False) for kind in KINDS]
    weights = np.arange(1, len(bags) + 1) / np.arange(1, len(bags) + 1).sum()
    ensemble = Ensemble([bag for bag in bags if bag], weights, rows.dense, num_classes, {})
    assert len(ensemble.bags) == len(KINDS)
    for bag in ensemble.bags:
        assert np.isfinite(bag.left_out).all()
        assert len(bag.models) == (3 if KINDS[bag.member.kind].way == "folds" else 1)
    expected = fitted.predict(ensemble, rows.raw)
    if num_classes:
        assert (expected.argmax(axis=1) == rows.labels).mean() > 0.8
    else:
        assert np.corrcoef(expected, rows.labels)[0, 1] > 0.9
    assert fitted.importance(ensemble, 6).argmax() == 0

    (tmp_path / "kept").mkdir()
    fitted.save(ensemble, tmp_path / "kept")
    again = fitted.load(tmp_path / "kept", 1)
    np.testing.assert_allclose(fitted.predict(again, rows.raw), expected, atol=1e-9)
    columns = [NumericColumn(name=f"x{index}", type="float", fill=0.0, has_missing=index == 2) for index in range(6)]
    onnx = build_model(ColumnPlan(numeric=columns, categories=[], keep_nan=True), fitted.head(again, num_classes), num_classes=num_classes)
    session = ort.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {f"x{index}": rows.raw[:, index : index + 1] for index in range(6)})
    np.testing.assert_allclose(found.reshape(expected.shape), expected, atol=1e-4)


def test_the_portfolio_begins_with_one_of_each_kind_and_leaves_out_what_would_take_too_long() -> None:
    members = list_members(list(KINDS), num_rows=500, num_classes=3, repeats=2)
    assert {member.kind for member in members[: len(KINDS)]} == set(KINDS)
    assert len({member.name for member in members}) == len(members)
    for member in members:
        member.config("y", 0)
    many = list_members(list(KINDS), num_rows=1_000_000, num_classes=0, repeats=1)
    assert many[0].kind == "lightgbm"
    assert {member.kind for member in many} == set(KINDS) - {"kernel", "perceptron"}
    assert {member.kind for member in list_members(["linear"], num_rows=500, num_classes=2, repeats=3)} == {"linear"}


def test_a_short_time_still_gives_a_model(mixed_runs: Runs, mixed_classes: DatasetRef) -> None:
    options = {"target": "grade", "time_limit_s": 0.01}
    folders = mixed_runs.all_verbs(CLASSES, mixed_classes, options, "short")
    board = mixed_runs.json(folders["train"] / "ensemble.json")["board"]
    assert len(board["members"]) == 1
    assert mixed_runs.json(folders["evaluate"] / "metrics.json")["accuracy"] > 0.5


class KilledError(Exception):
    """Stands for the end of the process."""


def test_finished_members_are_not_fitted_again_after_a_kill(
    mixed_runs: Runs, mixed_classes: DatasetRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("algorithms.tables.ensemble.checkpoints.WORTH_S", 0.0)
    monkeypatch.setattr("algorithms.tables.progress.REPORT_EVERY_S", 0.0)
    options = {"target": "grade", "members": "linear,kernel", "folds": 3, "time_limit_s": 600}
    whole = mixed_runs.run(mixed_runs.spec("train", CLASSES, mixed_classes, options, "whole-ensemble"))
    spec = mixed_runs.spec("train", CLASSES, mixed_classes, options, "killed-ensemble", checkpoints="runs/killed-ensemble/checkpoints")

    def kill_after_3(event: dict[str, Any]) -> None:
        if event["kind"] == "progress" and event["epoch"] == 3:
            raise KilledError

    with pytest.raises(KilledError):
        mixed_runs.run(spec, kill_after_3)
    store = open_store(mixed_runs.workspace)
    assert len(list(store.list("runs/killed-ensemble/checkpoints/members/"))) == 3
    from algorithms.tables.ensemble import family

    fitted_again: list[str] = []
    fit = family.fit_bag

    def spy(member: Member, *arguments: Any, **more: Any) -> Any:
        fitted_again.append(member.name)
        return fit(member, *arguments, **more)

    monkeypatch.setattr(family, "fit_bag", spy)
    resumed = mixed_runs.run(spec)
    boards = [mixed_runs.json(mixed_runs.path(artifact) / "ensemble.json")["board"]["members"] for artifact in (whole, resumed)]
    assert fitted_again == [member["name"] for member in boards[0][3:]]
    np.testing.assert_allclose([one["loss"] for one in boards[0]], [one["loss"] for one in boards[1]], rtol=1e-9)
    np.testing.assert_allclose([one["weight"] for one in boards[0]], [one["weight"] for one in boards[1]])


def test_a_damaged_member_is_refused(mixed_runs: Runs, mixed_classes: DatasetRef) -> None:
    options = {"target": "grade", "members": "linear"}
    spec = mixed_runs.spec("train", CLASSES, mixed_classes, options, "damaged-ensemble", checkpoints="runs/damaged-ensemble")
    open_store(mixed_runs.workspace).write_bytes("runs/damaged-ensemble/members/linear-1.zip", b"0" * 64 + b"whatever")
    with pytest.raises(CorruptArtifactError, match=r"linear-1\.zip"):
        mixed_runs.run(spec)


@pytest.mark.parametrize("student", ["linear", "lightgbm", "perceptron"])
def test_an_ensemble_is_distilled_into_one_model(student: str, mixed_runs: Runs, mixed_classes: DatasetRef) -> None:
    options = {"target": "grade", "members": "linear,extra-trees", "folds": 3, "distill": student, "time_limit_s": 600}
    folders = mixed_runs.all_verbs(CLASSES, mixed_classes, options, f"distilled-{student}")
    content = mixed_runs.json(folders["train"] / "ensemble.json")
    assert [member["kind"] for member in content["members"]] == [student]
    told = content["board"]["distilled"]
    assert told["num_made"] > 0
    assert told["student"]["accuracy"] > told["ensemble"]["accuracy"] - 0.1
    assert mixed_runs.json(folders["evaluate"] / "metrics.json")["accuracy"] > 0.68
    assert Package.load(folders["export"]).metrics["accuracy"] > 0.68


def test_numbers_are_distilled_too(mixed_runs: Runs, mixed_numbers: DatasetRef) -> None:
    options = {"target": "price", "members": "linear,kernel", "folds": 3, "distill": "xgboost", "time_limit_s": 600}
    folders = mixed_runs.all_verbs(NUMBERS, mixed_numbers, options, "distilled-numbers")
    assert Package.load(folders["export"]).metrics["rmse"] < 45


def test_balanced_classes_raise_the_recall_of_a_rare_one(runs: Runs) -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(600, 3))
    rare = x[:, 0] + random.normal(0, 0.7, 600) > 1.9
    frame = pd.DataFrame(x, columns=["a", "b", "c"]).assign(label=np.where(rare, "rare", "usual"))
    ref = runs.add(frame, "label")
    recalls = []
    for weighting in ("none", "balanced"):
        options = {"target": "label", "members": "linear,kernel,extra-trees", "class_weights": weighting, "time_limit_s": 600, "folds": 3}
        folders = runs.all_verbs(CLASSES, ref, options, weighting)
        recalls.append(runs.json(folders["evaluate"] / "metrics.json")["per_class"]["rare"]["recall"])
    assert recalls[1] > recalls[0]


def test_very_few_rows_and_a_class_of_three(runs: Runs) -> None:
    random = np.random.default_rng(0)
    labels = ["a"] * 14 + ["b"] * 12 + ["c"] * 3
    frame = pd.DataFrame({"x": random.normal(size=29) + [ord(label) for label in labels], "y": random.normal(size=29), "label": labels})
    folders = runs.all_verbs(CLASSES, runs.add(frame, "label"), {"target": "label", "time_limit_s": 20, "repeats": 1}, "few")
    assert Package.load(folders["export"]).labels == ["a", "b", "c"]


def test_wrong_members_are_named() -> None:
    with pytest.raises(ValueError, match="members"):
        EnsembleClassifierConfig(target="y", members="linear,forest")  # type: ignore[arg-type]
    assert EnsembleClassifierConfig(target="y", members="linear, kernel").members == ("linear", "kernel")  # type: ignore[arg-type]
