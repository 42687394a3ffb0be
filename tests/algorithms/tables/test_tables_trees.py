"""Trees take the same branches in ONNX, also where a float32 lies next to a threshold; boosting goes on where it was killed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from algorithms.tables.trees import floor_float32
from infra.datasets.card import DatasetRef
from infra.errors import CorruptArtifactError
from infra.store import open_store

if TYPE_CHECKING:
    from tests.algorithms.tables.conftest import Runs


def test_a_threshold_is_cut_to_the_float32_below() -> None:
    random = np.random.default_rng(0)
    values = random.normal(size=10_000).astype(np.float32)
    neighbours = np.nextafter(values, np.float32(np.inf))
    thresholds = (values.astype(np.float64) + neighbours.astype(np.float64)) / 2
    cut = floor_float32(thresholds)
    for x in (values, neighbours):
        np.testing.assert_array_equal(x.astype(np.float64) <= thresholds, x <= cut)
    assert floor_float32(np.array([1e300]))[0] == np.finfo(np.float32).max


class KilledError(Exception):
    """Stands for the end of the process."""


@pytest.mark.parametrize("kind", ["lightgbm", "xgboost"])
def test_boosting_goes_on_where_it_was_killed(
    kind: str, mixed_runs: Runs, mixed_classes: DatasetRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("algorithms.tables.progress.CHECKPOINT_EVERY_S", 0.0)
    monkeypatch.setattr("algorithms.tables.progress.REPORT_EVERY_S", 0.0)
    options = {"target": "grade", "num_rounds": 40, "early_stopping_rounds": 0, "row_share": 1.0, "feature_share": 1.0}
    name = f"tabular-classification/{kind}"
    whole = mixed_runs.run(mixed_runs.spec("train", name, mixed_classes, options, f"whole-{kind}"))
    spec = mixed_runs.spec("train", name, mixed_classes, options, f"killed-{kind}", checkpoints=f"runs/killed-{kind}/checkpoints")

    def kill_after_25(event: dict[str, Any]) -> None:
        if event["kind"] == "progress" and event["epoch"] == 25:
            raise KilledError

    with pytest.raises(KilledError):
        mixed_runs.run(spec, kill_after_25)
    events: list[dict[str, Any]] = []
    resumed = mixed_runs.run(spec, events.append)
    assert any("Going on after round 24" in event.get("message", "") for event in events)
    histories = [mixed_runs.json(mixed_runs.path(artifact) / "history.json") for artifact in (whole, resumed)]
    assert histories[1]["epochs"][-1]["epoch"] == 40
    losses = [[entry["valid_loss"] for entry in history["epochs"]] for history in histories]
    # Nothing is drawn at random here, so both are the same but for the rounding of sums that were added anew.
    np.testing.assert_allclose(losses[0], losses[1], rtol=2e-2)


def test_a_damaged_state_is_refused(mixed_runs: Runs, mixed_classes: DatasetRef) -> None:
    spec = mixed_runs.spec(
        "train", "tabular-classification/lightgbm", mixed_classes, {"target": "grade"}, "damaged", checkpoints="runs/damaged"
    )
    open_store(mixed_runs.workspace).write_bytes("runs/damaged/estimator.state", b"0" * 64 + b"whatever")
    with pytest.raises(CorruptArtifactError, match=r"estimator\.state"):
        mixed_runs.run(spec)


def test_early_stopping_keeps_the_best_round(mixed_runs: Runs, mixed_classes: DatasetRef) -> None:
    import lightgbm as lgb

    options = {"target": "grade", "num_rounds": 500, "learning_rate": 0.3, "early_stopping_rounds": 10}
    trained = mixed_runs.path(mixed_runs.run(mixed_runs.spec("train", "tabular-classification/lightgbm", mixed_classes, options, "early")))
    history = mixed_runs.json(trained / "history.json")
    last, best = history["epochs"][-1]["epoch"], history["best_epoch"]
    assert last < 500
    losses = {entry["epoch"]: entry["valid_loss"] for entry in history["epochs"]}
    assert losses[best] == min(losses.values())
    assert lgb.Booster(model_file=trained / "model.txt").num_trees() == 3 * best
