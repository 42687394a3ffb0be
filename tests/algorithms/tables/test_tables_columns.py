"""Columns: what the plan does to values, which it leaves out, and that the ONNX graph does the same."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort
import pandas as pd
import pyarrow as pa
import pytest

from algorithms.catalog import find_algorithm
from algorithms.tables.columns import CategoryColumn, ColumnPlan, NumericColumn, date_parts, read_number, read_text
from algorithms.tables.config import LightGBMClassifierConfig, LightGBMConfig, MlpConfig, TableConfig
from algorithms.tables.fitting import fit_table
from algorithms.tables.graph import build_model
from algorithms.tables.matrix import read_matrix
from infra.datasets.card import DatasetRef
from infra.errors import InvalidOptionError

if TYPE_CHECKING:
    from tests.algorithms.tables.conftest import Runs


def through_onnx(plan: ColumnPlan, table: pa.Table) -> np.ndarray:
    """The plan's matrix as ONNX computes it: a model that returns its features."""
    model = build_model(plan, lambda builder, matrix: matrix, num_classes=plan.num_features)
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {name: values.reshape(-1, 1) for name, values in plan.raw(table).items()})
    return np.asarray(found)


def test_dates_fall_apart_into_the_calendar_s_parts() -> None:
    moments = [datetime(1969, 12, 31, 23), datetime(1970, 1, 1), datetime(2000, 2, 29, 12), datetime(1900, 3, 1), datetime(2100, 12, 31, 6)]
    moments += [datetime(1899, 1, 1) + timedelta(days=97 * step, hours=step % 24) for step in range(800)]
    days = read_number(pa.chunked_array([pa.array(moments, pa.timestamp("us"))]))
    # Float32 holds about two minutes at this distance from 1970: half an hour is added so that no hour is on the edge.
    found = date_parts(days + np.float32(0.5 / 24))
    expected = [[moment.year, moment.month, moment.weekday(), moment.hour] for moment in moments]
    np.testing.assert_array_equal(found, expected)


def test_missing_infinite_and_blank_values_are_all_missing() -> None:
    assert np.isnan(read_number(pa.array([None, math.inf, -math.inf, math.nan, 1e300]))).all()
    assert read_text(pa.array([None, "", "  ", " a"])).to_pylist() == ["", "", "", " a"]
    np.testing.assert_array_equal(read_number(pa.array([True, None, False])), [1, np.nan, 0])


@pytest.mark.parametrize("keep_nan", [True, False])
def test_onnx_prepares_columns_as_numpy_does(keep_nan: bool) -> None:
    plan = ColumnPlan(
        numeric=[
            NumericColumn(name="a", type="float", fill=2.5, has_missing=True),
            NumericColumn(name="b", type="integer", fill=7, has_missing=False),
            NumericColumn(name="when", type="datetime", fill=10_957.0, has_missing=True),
        ],
        categories=[
            CategoryColumn(name="c", values=["x", "", "y"]),
            CategoryColumn(name="d", values=["p", "q"], means=[[0.1, 0.2], [0.3, 0.4]], default=[0.5, 0.6]),
        ],
        keep_nan=keep_nan,
    )
    table = pa.table(
        {
            "a": [1.0, None, math.inf, -3.0],
            "b": [4, None, 5, 6],
            "when": pa.array([datetime(1820, 5, 6, 7, 30), None, datetime(2024, 2, 29, 23), datetime(1970, 1, 1)], pa.timestamp("us")),
            "c": ["x", None, "nobody knows", "y"],
            "d": ["q", "nobody knows", None, "p"],
        }
    )
    expected = plan.transform(table)
    assert expected.shape == (4, plan.num_features)
    np.testing.assert_array_equal(through_onnx(plan, table), expected)
    np.testing.assert_array_equal(expected[:, 0], [1.0, np.nan, np.nan, -3.0] if keep_nan else [1.0, 2.5, 2.5, -3.0])
    assert expected[1, 1] == 7  # no value was missing in training, so the median stands in whatever the model can handle
    np.testing.assert_array_equal(plan.transform(table)[:, -2:], np.array([[0.3, 0.4], [0.5, 0.6], [0.5, 0.6], [0.1, 0.2]], np.float32))
    np.testing.assert_array_equal(plan.transform(table)[:, -6:-2], [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]])


def test_a_fitted_plan_is_the_same_in_onnx(mixed_runs: Runs, mixed_classes: DatasetRef) -> None:
    data = mixed_runs.open(mixed_classes)
    fitted = fit_table(data, MlpConfig(target="grade"), regression=False, scaled=True, clip=10.0)
    table = next(data.iter_tables("test"))
    expected = fitted.plan.transform(table)
    np.testing.assert_allclose(through_onnx(fitted.plan, table), expected, atol=1e-5)
    train = read_matrix(data, "train", fitted.plan, fitted.target).features
    numbers = [index for index, (column, name) in enumerate(fitted.plan.sources) if name == column]
    np.testing.assert_allclose(train[:, numbers].mean(axis=0), 0, atol=1e-3)
    np.testing.assert_allclose(train[:, numbers].std(axis=0), 1, atol=1e-3)


def test_columns_of_no_use_are_left_out_and_named(mixed_runs: Runs, mixed_classes: DatasetRef) -> None:
    plan = fit_table(mixed_runs.open(mixed_classes), LightGBMClassifierConfig(target="grade", drop=("age",)), regression=False).plan
    reasons = {left.name: left.reason.split(":")[0] for left in plan.left_out}
    assert reasons == {"age": "drop option", "country": "constant", "number": "like a row number", "key": "like an identifier"}
    assert plan.raw_columns == ["area", "garden", "built", "city", "street"]
    assert [column.means is None for column in plan.categories] == [True, False]


def test_a_column_that_is_asked_for_is_kept_even_if_it_looks_like_an_identifier(mixed_runs: Runs, mixed_classes: DatasetRef) -> None:
    plan = fit_table(mixed_runs.open(mixed_classes), TableConfig(target="grade", features=("number", "key")), regression=False).plan
    assert plan.raw_columns == ["number", "key"]


def test_a_training_row_does_not_see_its_own_target(runs: Runs) -> None:
    """Text without any meaning must not look predictive, as it would if a value's mean target counted the row itself."""
    random = np.random.default_rng(0)
    frame = pd.DataFrame({"noise": [f"v{value}" for value in random.integers(0, 400, 3000)], "y": random.normal(size=3000)})
    data = runs.open(runs.add(frame, "y", regression=True))
    fitted = fit_table(data, TableConfig(target="y"), regression=True)
    seen = read_matrix(data, "train", fitted.plan, fitted.target)
    unseen = read_matrix(data, "train", fitted.plan, fitted.target, fitted.fold_means)
    assert np.corrcoef(seen.features[:, 0], seen.labels)[0, 1] > 0.3
    assert abs(np.corrcoef(unseen.features[:, 0], unseen.labels)[0, 1]) < 0.1


def test_rows_without_a_target_are_left_out(runs: Runs) -> None:
    frame = pd.DataFrame({"x": np.arange(60) % 7 * 1.5, "y": ["a", "b", None] * 20})
    data = runs.open(runs.add(frame, "y"))
    fitted = fit_table(data, TableConfig(target="y"), regression=False)
    train = read_matrix(data, "train", fitted.plan, fitted.target)
    assert fitted.target.classes == ["a", "b"]
    assert train.num_without_target > 0
    assert len(train) + train.num_without_target == data.num_rows("train")
    assert len(train.features) == len(train.labels)


def test_all_faults_of_the_options_are_told_at_once(mixed_runs: Runs, mixed_classes: DatasetRef) -> None:
    config = LightGBMClassifierConfig(target="grades", features=("Area", "city"), drop=("city", "nonsense"))
    with pytest.raises(InvalidOptionError) as caught:
        fit_table(mixed_runs.open(mixed_classes), config, regression=False)
    assert len(caught.value.problems) == 4
    assert "nearest: grade" in str(caught.value)
    assert "nearest: area" in str(caught.value)


@pytest.mark.parametrize(
    ("target", "regression", "words"),
    [
        ("city", True, "a regression needs a number"),
        ("price", False, "use tabular-regression"),
        ("built", False, "is a date"),
        ("country", False, "at least 2"),
    ],
)
def test_a_target_that_cannot_be_learned_is_refused(
    target: str, regression: bool, words: str, mixed_runs: Runs, mixed_numbers: DatasetRef
) -> None:
    config: Any = LightGBMConfig(target=target) if regression else LightGBMClassifierConfig(target=target)
    with pytest.raises(InvalidOptionError, match=words):
        fit_table(mixed_runs.open(mixed_numbers), config, regression=regression)


def test_a_table_without_a_useful_column_is_refused(mixed_runs: Runs, mixed_classes: DatasetRef) -> None:
    with pytest.raises(InvalidOptionError, match="constant"):
        fit_table(mixed_runs.open(mixed_classes), TableConfig(target="grade", features=("country",)), regression=False)


@pytest.mark.parametrize("name", ["tabular-classification/lightgbm", "tabular-regression/mlp"])
def test_expectations_speak_of_the_columns_in_use(name: str, mixed_runs: Runs, mixed_numbers: DatasetRef) -> None:
    algorithm = find_algorithm(name)
    target = "price" if "regression" in name else "city"
    config = algorithm.config({"target": target, "drop": "area"})
    expectations = algorithm.engine.expectations(config, mixed_runs.open(mixed_numbers).card)
    columns = {expectation.kwargs.get("column") for expectation in expectations}
    assert target in columns
    assert "area" not in columns
    with pytest.raises(InvalidOptionError):
        algorithm.engine.expectations(algorithm.config({"target": "prize"}), mixed_runs.open(mixed_numbers).card)


def test_lists_may_come_as_words_from_a_command_line() -> None:
    config = MlpConfig.model_validate({"target": "y", "features": "a, b", "hidden": "32,16"})
    assert config.features == ("a", "b")
    assert config.hidden == (32, 16)
    assert MlpConfig.model_validate(config.model_dump(mode="json")) == config
