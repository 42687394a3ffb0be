"""Importance of columns, of functions whose columns matter as one knows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from algorithms.analysis import importance
from algorithms.analysis.importance import permutation_importance, shap_importance


def columns(count: int = 300) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    numbers = {name: rng.normal(size=count).astype(np.float32) for name in ("strong", "weak", "unused")}
    return {**numbers, "kind": rng.choice(["a", "b"], count).astype(object)}


def predict(rows: dict[str, Any]) -> np.ndarray:
    """3 strong + weak + 2 if kind is a; a missing number counts as 0."""
    found: np.ndarray = 3 * np.nan_to_num(rows["strong"]) + rows["weak"] + 2 * (rows["kind"] == "a")
    return found


def test_shuffling_a_column_costs_as_much_as_it_carries() -> None:
    rows = columns()
    truth = predict(rows)
    found = permutation_importance(rows, lambda outputs, places: float(((outputs - truth[places]) ** 2).mean()), predict)
    assert [entry["column"] for entry in found] == ["strong", "kind", "weak", "unused"]
    assert found[0]["mean"] == pytest.approx(2 * 9, rel=0.2), "twice the variance that the column brings"
    assert (found[-1]["mean"], found[-1]["std"]) == (0, 0)


def test_the_number_of_predictions_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importance, "MOST_PREDICTIONS", 600)
    asked: list[int] = []

    def counted(rows: dict[str, Any]) -> np.ndarray:
        asked.append(len(rows["weak"]))
        return predict(rows)

    rows = columns()
    found = permutation_importance(rows, lambda outputs, places: float(outputs.var()), counted, seed=4)
    assert sum(asked) <= 600 + asked[0]
    assert found == permutation_importance(rows, lambda outputs, places: float(outputs.var()), counted, seed=4)


@pytest.mark.filterwarnings("ignore")  # those of the libraries that shap imports
def test_shapley_values_of_a_sum_are_its_terms() -> None:
    rows = columns(60)
    rows["strong"][3] = np.nan
    found = shap_importance(rows, predict, seed=1)
    assert found[0]["column"] == "strong"
    assert found[-1] == {"column": "unused", "value": pytest.approx(0, abs=1e-6)}
    order = np.random.default_rng(1).permutation(60)
    background, explained = order[: importance.SHAP_BACKGROUND], order[-importance.SHAP_ROWS :]
    term = 2 * (rows["kind"] == "a")
    expected = np.abs(term[explained] - term[background].mean()).mean()
    assert {entry["column"]: entry["value"] for entry in found}["kind"] == pytest.approx(expected, rel=1e-5)
    scores = shap_importance(rows, lambda some: np.stack([predict(some), -predict(some)], axis=1), seed=1)
    assert scores[0]["value"] == pytest.approx(2 * found[0]["value"], rel=1e-5), "of classes the scores are summed"
    assert found == shap_importance(rows, predict, seed=1)


def test_a_table_too_wide_for_shapley_values_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importance, "MOST_SHAP_PREDICTIONS", 100)
    assert shap_importance(columns(), predict) == []
