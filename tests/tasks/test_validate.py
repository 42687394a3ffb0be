"""The gate: what it finds in pictures and tables, what it lets through, and what it says."""

from __future__ import annotations

import io
import json
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image

from algorithms.spec import Expectation
from infra.artifacts import read_file
from infra.context import StageContext
from infra.datasets.card import DatasetRef
from infra.datasets.dataset import open_dataset
from infra.datasets.importer import import_source
from infra.errors import InvalidOptionError, ValidationFailedError
from infra.settings import load_settings
from infra.store import open_store
from tasks import _gx
from tasks._gate import decide
from tasks._pictures import measure_pictures
from tasks._profiles import column_profile, drift_of_numbers
from tasks._suite import parse_suite
from tasks._table_judge import TableJudge, as_rule
from tasks._table_pass import Plan, empty_part, measure_chunk
from tasks.validate import Validated, validate

if TYPE_CHECKING:
    from distributed import Client

CNN, FOREST = "image-classification/small-cnn", "tabular-classification/random-forest"


@pytest.fixture
def context(workspace: Path, cluster: Client) -> StageContext:
    settings = load_settings()
    context = StageContext(settings, open_store(settings.workspace_uri))
    context.use_cluster(cluster)
    return context


def encode(pixels: np.ndarray, format: str = "PNG") -> bytes:
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, format)
    return target.getvalue()


def measure_one(data: bytes) -> dict[str, Any]:
    return {name: values[0] for name, values in measure_pictures([data]).items()}


def noise(seed: int, size: int = 24) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two classes of 30 pictures."""
    folder = tmp_path / "pictures"
    for seed in range(60):
        path = folder / ("cat" if seed % 2 else "dog") / f"{seed:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(noise(seed)))
    return folder


def read_json(context: StageContext, checked: Validated, name: str) -> Any:
    return json.loads(read_file(context.store, checked.report, name))


def test_a_clean_image_folder_passes_as_it_is(context: StageContext, digits_folder: Path) -> None:
    events: list[dict[str, Any]] = []
    context.also_report(events.append)
    data = import_source(context.store, str(digits_folder), "digits")
    checked = validate(data, CNN, {}, context=context)
    assert (checked.data.digest, checked.num_samples, checked.num_invalid) == (data.digest, 1797, 0)
    steps = [event for event in events if event["kind"] == "progress" and event["phase"] == "validate"]
    assert steps[-1]["step"] == steps[-1]["steps"]
    summary = read_json(context, checked, "report.json")["summary"]
    assert summary["pictures"]["width"]["max"] == 8
    assert sum(row["total"] for row in summary["classes"]) == 1797


def test_broken_pictures_are_set_aside_with_their_reasons(context: StageContext, pictures: Path) -> None:
    jpeg = encode(noise(99, 64), "JPEG")
    (pictures / "cat" / "text.png").write_text("these are words\n")
    (pictures / "cat" / "cut.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    (pictures / "dog" / "empty.png").write_bytes(b"")
    data = import_source(context.store, str(pictures), "pets", ratios=(0.6, 0.2, 0.2))
    checked = validate(data, CNN, {}, max_invalid_share=0.1, context=context)
    assert checked.num_invalid == 3
    listed = {entry["id"]: entry["reasons"] for entry in read_json(context, checked, "quarantined.json")}
    assert listed["cat/text.png"] == ["cannot be decoded: it is text, not a picture"]
    assert listed["dog/empty.png"] == ["cannot be decoded: the file is empty"]
    assert listed["cat/cut.jpg"][0].startswith("cannot be decoded: truncated")
    clean = open_dataset(context.store, checked.data, context.settings.cache_path)
    paths = {path for split in clean.card.num_rows for table in clean.iter_tables(split, ["path"]) for path in table["path"].to_pylist()}
    assert len(paths) == 60
    assert not paths & listed.keys()
    assert (clean.card.lineage.operation, clean.card.lineage.parents) == ("quarantine", [data.digest])
    assert clean.card.lineage.details["num_samples"] == 3


def test_the_same_question_is_answered_from_the_report(context: StageContext, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (pictures / "cat" / "empty.png").write_bytes(b"")
    data = import_source(context.store, str(pictures), "pets")
    first = validate(data, CNN, {}, context=context)

    def must_not_run() -> Any:
        raise AssertionError("the data was looked at again")

    monkeypatch.setattr(StageContext, "client", lambda self: must_not_run())
    assert validate(data, CNN, {}, context=context) == first
    with pytest.raises(AssertionError, match="looked at again"):
        validate(data, CNN, {}, max_invalid_share=0.5, context=context)


def test_what_could_not_be_judged_is_judged_anew(context: StageContext, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = import_source(context.store, str(pictures), "pets")

    def stumbles(*arguments: Any) -> list[_gx.Outcome]:
        return [replace(outcome, success=False, error="MemoryError") for outcome in real(*arguments)]

    real = _gx.judge_frame
    with monkeypatch.context() as patch:
        patch.setattr(_gx, "judge_frame", stumbles)
        for _ in range(2):
            with pytest.raises(ValidationFailedError, match="could not be judged: MemoryError") as caught:
                validate(data, CNN, {}, context=context)
    checked = validate(data, CNN, {}, context=context)
    assert Path(caught.value.report).is_file()
    assert context.store.local_path(checked.report.key) not in Path(caught.value.report).parents
    assert not any(entry["error"] for entry in read_json(context, checked, "report.json")["expectations"])


def test_more_broken_pictures_than_allowed_fail_with_examples(context: StageContext, pictures: Path) -> None:
    for number in range(12):
        (pictures / "dog" / f"words{number}.png").write_text("no picture")
    data = import_source(context.store, str(pictures), "pets")
    for _ in range(2):  # judged, and read from the report
        with pytest.raises(ValidationFailedError) as caught:
            validate(data, CNN, {}, context=context)
        told = str(caught.value)
        assert "12 of 72 samples (16.7%) are broken, at most 5.0% may be" in told
        assert "dog/words" in told
        assert "it is text, not a picture" in told
        assert Path(caught.value.report).read_text().startswith("<!DOCTYPE html>")
        assert caught.value.exit_status == 2


def test_on_invalid_fail_refuses_a_single_broken_picture(context: StageContext, pictures: Path) -> None:
    (pictures / "cat" / "empty.png").write_bytes(b"")
    data = import_source(context.store, str(pictures), "pets")
    with pytest.raises(ValidationFailedError, match=r"1 of 61 samples .* none may be"):
        validate(data, CNN, {}, on_invalid="fail", context=context)


def test_leaks_conflicts_copies_and_constant_pictures_are_found(context: StageContext, tmp_path: Path) -> None:
    folder = tmp_path / "given"
    for seed in range(60):
        split = ("train", "train", "train", "valid", "test")[seed % 5]
        path = folder / split / ("cat" if seed % 2 else "dog") / f"{seed:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(noise(seed)))
    shutil.copy(folder / "test" / "dog" / "004.png", folder / "train" / "dog" / "leak.png")
    shutil.copy(folder / "train" / "dog" / "000.png", folder / "train" / "cat" / "conflict.png")
    (folder / "train" / "cat" / "grey.png").write_bytes(encode(np.full((24, 24, 3), 90, np.uint8)))
    data = import_source(context.store, str(folder), "given")
    checked = validate(data, CNN, {}, context=context)
    listed = read_json(context, checked, "quarantined.json")
    assert [(Path(entry["id"]).name, entry["reasons"]) for entry in listed] == [
        ("leak.png", ["the same picture is also in the test split"])
    ]
    told = "\n".join(checked.warnings)
    assert "also labelled dog" in told
    assert "exact copies" in told
    assert "grey.png: is nearly constant" in told


def test_a_class_that_is_gone_after_quarantine_fails(context: StageContext, pictures: Path) -> None:
    rare = pictures / "axolotl"
    rare.mkdir()
    for number in range(3):
        (rare / f"{number}.png").write_text(f"broken {number}")
    data = import_source(context.store, str(pictures), "pets")
    with pytest.raises(ValidationFailedError, match="class 'axolotl' has no sample in the train split"):
        validate(data, CNN, {}, context=context)


def test_data_docs_open_from_a_folder_and_are_the_same_each_time(context: StageContext, pictures: Path, tmp_path: Path) -> None:
    data = import_source(context.store, str(pictures), "pets")
    first = validate(data, CNN, {}, context=context)
    index = read_file(context.store, first.report, "data_docs/index.html").decode()
    page = read_file(context.store, first.report, "data_docs/samples.html").decode()
    assert 'href="samples.html"' in index
    assert "decodable" in page
    assert not re.search(r"<script|<link|(?:src|href)=[\"']?(?:https?:)?//", index + page)
    context.store.delete(first.report.key)
    assert validate(data, CNN, {}, context=context).report == first.report


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "the file is empty"),
        (b"hello, I am a letter\n", "it is text, not a picture"),
        (bytes(range(256)), "its bytes are in no known picture format"),
        (encode(noise(1))[:-300], "truncated"),
        (encode(noise(1, 64), "JPEG")[:900], "truncated"),
    ],
)
def test_a_broken_picture_is_described(data: bytes, why: str) -> None:
    found = measure_one(data)
    assert found["decodable"] is False
    assert why in found["why"]


def test_a_decompression_bomb_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert "too many pixels" in measure_one(encode(noise(1, 40)))["why"]  # up to twice as many, Pillow only warns
    assert "too many pixels" in measure_one(encode(noise(1, 80)))["why"]


def test_brightness_and_contrast_are_those_of_the_pixels() -> None:
    grey = noise(3)[..., 0]
    found = measure_one(encode(grey))
    assert found["mean"] == pytest.approx(grey.mean())
    assert found["std"] == pytest.approx(grey.std())
    assert (found["width"], found["height"], found["mode"], found["channels"], found["format"]) == (24, 24, "L", 1, "PNG")


def test_pictures_measured_together_do_not_disturb_each_other() -> None:
    pictures = [encode(noise(1)), None, encode(noise(2)[..., 0]), b"text", encode(noise(3).astype(np.uint16)[..., 0] * 257)]
    together = measure_pictures(pictures)
    assert together["decodable"] == [True, False, True, False, True]
    for position in (0, 2, 4):
        assert {name: values[position] for name, values in together.items()} == measure_one(pictures[position] or b"")
    assert together["mean"][4] == pytest.approx(noise(3)[..., 0].mean())


def make_table(num_rows: int = 900) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    group = rng.integers(0, 3, num_rows)
    return pd.DataFrame(
        {
            "size": rng.normal(size=num_rows) + group,
            "color": rng.choice(["red", "green", "blue"], num_rows),
            "age": rng.integers(18, 90, num_rows),
            "label": np.array(["low", "middle", "high"])[group],
        }
    )


Import = Callable[..., DatasetRef]


@pytest.fixture
def import_table(context: StageContext, tmp_path: Path) -> Import:
    def run(frame: pd.DataFrame, target: str = "label", **options: Any) -> DatasetRef:
        path = tmp_path / "table.parquet"
        frame.to_parquet(path, index=False)
        return import_source(context.store, str(path), "table", target=target, **options)

    return run


def test_a_clean_table_passes_without_a_warning(context: StageContext, import_table: Import) -> None:
    data = import_table(make_table())
    checked = validate(data, FOREST, {"target": "label"}, context=context)
    assert (checked.data, checked.num_samples, checked.warnings) == (data, 900, [])


def test_rows_without_target_or_with_infinite_values_are_set_aside(context: StageContext, import_table: Import) -> None:
    frame = make_table()
    frame.loc[[4, 7], "label"] = None
    frame.loc[7, "size"] = math.inf
    frame.loc[9, "size"] = None  # missing is not broken
    checked = validate(import_table(frame), FOREST, {"target": "label"}, context=context)
    assert read_json(context, checked, "quarantined.json") == [
        {"id": "4", "reasons": ["the target 'label' is missing"]},
        {"id": "7", "reasons": ["the target 'label' is missing", "column 'size' is not finite"]},
    ]
    assert open_dataset(context.store, checked.data, context.settings.cache_path).card.num_rows != {}


def test_a_column_that_equals_the_target_fails_unless_it_is_dropped(context: StageContext, import_table: Import) -> None:
    frame = make_table().assign(
        answer=lambda table: table["label"], code=lambda table: table["label"].map({"low": 0, "middle": 1, "high": 2})
    )
    data = import_table(frame)
    with pytest.raises(ValidationFailedError, match="column 'answer' equals the target 'label'"):
        validate(data, FOREST, {"target": "label"}, context=context)
    checked = validate(data, FOREST, {"target": "label", "drop": ("answer",)}, context=context)
    assert [warning for warning in checked.warnings if "give away" in warning and "'code'" in warning]


def test_odd_columns_are_warned_of(context: StageContext, import_table: Import) -> None:
    frame = make_table()
    frame["constant"], frame["hollow"], frame["key"] = 1, np.where(np.arange(900) % 10, np.nan, 1.5), [f"row {row}" for row in range(900)]
    told = "\n".join(validate(import_table(frame), FOREST, {"target": "label"}, context=context).warnings)
    for word in ("'constant' is constant", "'hollow': 90.0% of the values are missing", "'key' has a value of its own"):
        assert word in told


def test_a_target_that_is_not_there_is_named_with_the_columns_that_are(context: StageContext, import_table: Import) -> None:
    with pytest.raises(InvalidOptionError, match=r"(?s)'outcome'.*size, color, age, label"):
        validate(import_table(make_table()), FOREST, {"target": "outcome"}, context=context)


def test_pictures_are_no_table(context: StageContext, import_table: Import) -> None:
    with pytest.raises(InvalidOptionError, match="learns from image data"):
        validate(import_table(make_table(60)), CNN, {}, context=context)


def test_a_suite_is_judged_and_its_broken_rows_are_set_aside(context: StageContext, import_table: Import) -> None:
    frame = make_table()
    frame.loc[3, "color"] = "Purple!"
    frame.loc[5, "age"] = 300
    suite = {
        "name": "people",
        "expectations": [
            {"type": "expect_column_values_to_match_regex", "kwargs": {"column": "color", "regex": "^[a-z]+$"}},
            {
                "type": "expect_column_values_to_be_between",
                "kwargs": {"column": "age", "max_value": 120},
                "meta": {"reason": "nobody is so old"},
            },
            {"type": "expect_column_median_to_be_between", "kwargs": {"column": "size", "min_value": 50}, "severity": "warning"},
            {"type": "expect_column_mean_to_be_between", "kwargs": {"column": "age", "min_value": 40, "max_value": 70}},
        ],
    }
    checked = validate(import_table(frame), FOREST, {"target": "label"}, suite=suite, context=context)
    assert [(entry["id"], len(entry["reasons"])) for entry in read_json(context, checked, "quarantined.json")] == [("3", 1), ("5", 1)]
    assert read_json(context, checked, "quarantined.json")[1]["reasons"] == ["nobody is so old"]
    assert [warning for warning in checked.warnings if "median" in warning]


def test_all_faults_of_a_suite_are_told_at_once() -> None:
    suite = {
        "name": "wrong",
        "expectations": [
            {"type": "expect_column_value_to_be_between", "kwargs": {"column": "age"}},
            {"type": "expect_column_values_to_be_between", "kwargs": {"column": "age", "minimum": 3}},
            {"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "aeg"}},
            {"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "age"}, "severity": "awful"},
            "nonsense",
        ],
    }
    with pytest.raises(InvalidOptionError) as caught:
        parse_suite(suite, ["age", "size"])
    told = "\n".join(caught.value.problems)
    for word in ("nearest: expect_column_values_to_be_between", "minimum: extra fields", "no column 'aeg'", "'awful'", "expectation 5"):
        assert word in told


def test_a_suite_on_pictures_speaks_of_their_profile(context: StageContext, pictures: Path) -> None:
    (pictures / "cat" / "wide.png").write_bytes(encode(np.hstack([noise(1), noise(2)])))
    data = import_source(context.store, str(pictures), "pets")
    suite = {"expectations": [{"type": "expect_column_values_to_be_between", "kwargs": {"column": "width", "max_value": 30}}]}
    checked = validate(data, CNN, {}, suite=suite, context=context)
    assert [entry["id"] for entry in read_json(context, checked, "quarantined.json")] == ["cat/wide.png"]


JUDGED = [
    ("expect_column_values_to_not_be_null", {"column": "x"}),
    ("expect_column_values_to_not_be_null", {"column": "x", "mostly": 0.9}),
    ("expect_column_values_to_be_null", {"column": "x"}),
    ("expect_column_values_to_be_between", {"column": "x", "min_value": -1, "max_value": 1, "strict_max": True}),
    ("expect_column_values_to_be_between", {"column": "x", "min_value": -3, "mostly": 0.95}),
    ("expect_column_values_to_be_in_set", {"column": "s", "value_set": ["a", "b"]}),
    ("expect_column_values_to_be_in_set", {"column": "n", "value_set": [1, 2, 3]}),
    ("expect_column_values_to_not_be_in_set", {"column": "s", "value_set": ["c"]}),
    ("expect_column_values_to_match_regex", {"column": "s", "regex": "^[ab]$"}),
    ("expect_column_pair_values_to_be_equal", {"column_A": "x", "column_B": "x"}),
    ("expect_column_mean_to_be_between", {"column": "x", "min_value": -0.5, "max_value": 0.5}),
    ("expect_column_stdev_to_be_between", {"column": "n", "min_value": 0.1, "max_value": 1.0}),
    ("expect_column_max_to_be_between", {"column": "n", "max_value": 3}),
    ("expect_column_min_to_be_between", {"column": "x", "min_value": 0}),
    ("expect_column_sum_to_be_between", {"column": "n", "min_value": 0}),
    ("expect_table_row_count_to_equal", {"value": 1000}),
    ("expect_column_values_to_be_unique", {"column": "n"}),
]


class Chunks:
    """A data set as far as ``TableJudge`` sees it."""

    def __init__(self, tables: list[pa.Table]) -> None:
        self.tables = tables
        self.card = type("Card", (), {"num_rows": {"train": sum(table.num_rows for table in tables)}})

    def iter_tables(self, split: str, columns: list[str] | None = None) -> list[pa.Table]:
        return [table.select(columns) if columns else table for table in self.tables]


@pytest.mark.parametrize(("kind", "kwargs"), JUDGED)
def test_chunks_get_the_verdict_that_great_expectations_gives_on_the_whole(kind: str, kwargs: dict[str, Any]) -> None:
    rng = np.random.default_rng(5)
    x = rng.normal(size=1000)
    frame = pd.DataFrame(
        {"x": np.where(rng.random(1000) < 0.05, np.nan, x), "s": rng.choice(["a", "b", "c"], 1000), "n": rng.integers(0, 5, 1000)}
    )
    whole = pa.Table.from_pandas(frame.assign(_row=np.arange(1000)), preserve_index=False)
    types = {"x": "float", "s": "string", "n": "integer"}
    expectation = Expectation(kind, kwargs)
    rule = as_rule(expectation, types)
    plan = Plan(types, None, False, (rule,) if rule else (), {})
    tables = [whole.slice(0, 137), whole.slice(137, 500), whole.slice(637)]
    part = empty_part(plan)
    for table in tables:
        part.add(measure_chunk(table, "train", plan), 10)
    merged = TableJudge([expectation], [rule], types, 1000, Chunks(tables)).judge(part)[0]  # type: ignore[arg-type]
    plain = _gx.judge_frame(frame, [expectation])[0]
    assert not plain.error
    assert (merged.success, merged.num_unexpected, merged.error) == (plain.success, plain.num_unexpected, "")
    if isinstance(plain.observed, float):
        assert merged.observed == pytest.approx(plain.observed)
    else:
        assert merged.observed == plain.observed


def test_great_expectations_stays_quiet_and_leaves_warnings_alone(capfd: pytest.CaptureFixture[str]) -> None:
    import logging
    import os

    _gx.load()
    outcome = _gx.judge_frame(
        pd.DataFrame({"a": ["x", "y"]}), [Expectation("expect_column_mean_to_be_between", {"column": "a", "max_value": 1})]
    )
    assert outcome[0].error
    assert capfd.readouterr() == ("", "")
    assert os.environ["GX_ANALYTICS_ENABLED"] == "false"
    assert logging._warnings_showwarning is None  # type: ignore[attr-defined]


def test_drift_beyond_chance_is_measured() -> None:
    rng = np.random.default_rng(0)
    assert drift_of_numbers(rng.normal(size=500), rng.normal(size=100)) == 0
    assert drift_of_numbers(rng.normal(size=500), rng.normal(3, size=100)) > 0.5


def test_the_column_profile_does_not_depend_on_where_chunks_end() -> None:
    frame = make_table().assign(_row=np.arange(900))
    table = pa.Table.from_pandas(frame, preserve_index=False)
    types = {"size": "float", "color": "string", "age": "integer", "label": "string"}
    plan = Plan(types, "label", False, (), {})

    def profile(bounds: list[int]) -> list[dict[str, Any]]:
        part = empty_part(plan)
        for begin, end in pairwise(bounds):
            part.add(measure_chunk(table.slice(begin, end - begin), "train" if begin < 600 else "test", plan), 0)
        return column_profile(part, plan)

    for one, other in zip(profile([0, 600, 900]), profile([0, 50, 333, 600, 601, 900]), strict=True):
        assert {name: pytest.approx(value) if isinstance(value, float) else value for name, value in other.items()} == one


def rows(**changes: int) -> dict[str, int]:
    return {"train": 80, "valid": 10, "test": 10} | changes


@pytest.mark.parametrize(
    ("remaining", "num_invalid", "failures", "on_invalid", "share", "action"),
    [
        (rows(), 0, [], "quarantine", 0.05, "pass"),
        (rows(), 0, [], "fail", 0.05, "pass"),
        (rows(train=75), 5, [], "quarantine", 0.05, "quarantine"),
        (rows(train=74), 6, [], "quarantine", 0.05, "fail"),
        (rows(train=79), 1, [], "quarantine", 0.0, "fail"),
        (rows(train=79), 1, [], "fail", 0.05, "fail"),
        (rows(valid=0), 10, [], "quarantine", 0.5, "fail"),
        (rows(), 0, ["one class only"], "quarantine", 0.05, "fail"),
    ],
)
def test_the_decision(remaining: dict[str, int], num_invalid: int, failures: list[str], on_invalid: str, share: float, action: str) -> None:
    decision = decide(
        num_rows=rows(),
        remaining=remaining,
        num_invalid=num_invalid,
        examples=[("a.png", "is broken")] * num_invalid,
        failures=failures,
        on_invalid=on_invalid,
        max_invalid_share=share,
    )
    assert decision.action == action
    assert bool(decision.failures) == (action == "fail")
