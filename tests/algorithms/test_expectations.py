"""The standard expectations, as data."""

from __future__ import annotations

import subprocess
import sys
from typing import Literal

from algorithms.expectations import class_expectations, image_expectations, table_expectations
from infra.datasets.card import Card, Feature, Source


def make_card(kind: Literal["image", "table"], features: list[Feature], classes: list[str]) -> Card:
    return Card(
        digest="0" * 64,
        name="example",
        kind=kind,
        features=features,
        classes=classes,
        counts={},
        num_rows={},
        num_bytes=0,
        shards=[],
        split_rule={},
        source=Source(uri="example", format="csv", imported_at="2026-01-01T00:00:00Z"),
    )


TABLE = make_card(
    "table", [Feature(name="age", type="float"), Feature(name="a{b}", type="float"), Feature(name="y", type="string")], ["no", "yes"]
)


def test_broken_pictures_can_be_set_aside_and_odd_ones_only_warn() -> None:
    rules = {rule.kwargs["column"]: rule for rule in image_expectations(make_card("image", [], ["a", "b"])) if rule.table == "samples"}
    assert {name for name, rule in rules.items() if rule.per_sample} == {"decodable", "width", "height", "channels", "leaks_into"}
    assert {name for name, rule in rules.items() if rule.severity == "warning"} == {"other_labels", "copies", "std"}


def test_copies_are_counted_in_whole_numbers_also_beside_pictures_without_a_count() -> None:
    rules = {rule.kwargs["column"]: rule for rule in image_expectations(make_card("image", [], ["a", "b"])) if rule.table == "samples"}
    assert rules["copies"].reason.format_map({"copies": 2.0}) == "there are 2 exact copies of it in its split"


def test_bounds_of_the_size_are_the_callers() -> None:
    rules = image_expectations(make_card("image", [], []), min_size=32, max_size=64)
    assert next(rule.kwargs for rule in rules if rule.kwargs.get("column") == "width") == {
        "column": "width",
        "min_value": 32,
        "max_value": 64,
    }
    assert not [rule for rule in rules if rule.table == "classes"]


def test_a_class_must_be_there_to_learn_from_and_should_be_there_to_judge_by() -> None:
    severities = {rule.kwargs["column"]: rule.severity for rule in class_expectations() if "column" in rule.kwargs}
    assert severities == {"train": "error", "valid": "warning", "test": "warning", "balance": "warning"}


def test_every_float_column_must_be_finite_and_names_with_braces_survive() -> None:
    rules = [rule for rule in table_expectations(TABLE, "y", regression=False) if rule.reason.endswith("is not finite")]
    assert [rule.reason.format() for rule in rules] == ["column 'age' is not finite", "column 'a{b}' is not finite"]
    assert all(rule.per_sample for rule in rules)


def test_regression_wants_a_number_and_no_classes() -> None:
    rules = table_expectations(TABLE, "age", regression=True)
    assert [rule.kwargs["column"] for rule in rules if rule.table == "columns" and "target_type" in str(rule.kwargs)] == ["target_type"]
    assert not [rule for rule in rules if rule.table == "classes"]


def test_stating_expectations_does_not_load_great_expectations() -> None:
    code = "import sys, algorithms.expectations; sys.exit('great_expectations' in sys.modules or 'pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
