"""What data must look like before it is trained on: Great Expectations' expectations as plain data, made from a data set's card.

Engines return these from their ``expectations`` verb; ``tasks.validate`` judges them. Nothing here imports Great Expectations.
``docs/validation.md`` lists the columns of the three tables that an expectation may speak of.
"""

from __future__ import annotations

from typing import Any

from algorithms.spec import Expectation
from infra.datasets.card import Card

LARGEST_FLOAT32 = 3.4e38  # beyond it a value is infinite to every model here
MOST_MISSING = 0.5
MOST_DRIFT = 0.2
MOST_UNSEEN = 0.01
MOST_UNIQUE = 0.95
LEAST_BALANCE = 0.1
LEAST_CONTRAST = 1.0


def _literal(name: str) -> str:
    """A column's name inside a reason, whose braces stand for values."""
    return repr(name).replace("{", "{{").replace("}", "}}")


def _between(column: str, reason: str, low: float | None = None, high: float | None = None, **more: Any) -> Expectation:
    bounds = {name: value for name, value in (("min_value", low), ("max_value", high)) if value is not None}
    return Expectation("expect_column_values_to_be_between", {"column": column, **bounds}, reason=reason, **more)


def _in_set(column: str, values: list[Any], reason: str, **more: Any) -> Expectation:
    return Expectation("expect_column_values_to_be_in_set", {"column": column, "value_set": values}, reason=reason, **more)


def _is_null(column: str, reason: str, **more: Any) -> Expectation:
    return Expectation("expect_column_values_to_be_null", {"column": column}, reason=reason, **more)


def class_expectations(*, least_balance: float = LEAST_BALANCE) -> list[Expectation]:
    """At least two classes, each with samples to learn from, none much rarer than the most frequent."""
    checks = [
        Expectation(
            "expect_table_row_count_to_be_between",
            {"min_value": 2},
            reason="there are fewer than two classes, so there is nothing to tell apart",
            table="classes",
        ),
        _between("train", "class {class!r} has no sample in the train split", 1, table="classes"),
    ]
    for split in ("valid", "test"):
        checks.append(_between(split, f"class {{class!r}} has no sample in the {split} split", 1, severity="warning", table="classes"))
    reason = "class {class!r} is rare: {total} samples, {balance:.1%} of the most frequent class"
    checks.append(_between("balance", reason, least_balance, severity="warning", table="classes"))
    return checks


def image_expectations(
    card: Card,
    *,
    min_size: int = 2,
    max_size: int = 20_000,
    channels: tuple[int, ...] = (1, 2, 3, 4),
    least_contrast: float = LEAST_CONTRAST,
    least_balance: float = LEAST_BALANCE,
) -> list[Expectation]:
    """What labelled pictures must look like.

    Args:
        min_size, max_size: bounds of width and height, pixels.
        channels: numbers of channels that the model's loader can turn into its own.
        least_contrast: standard deviation of the brightness (0 to 255) below which a picture is nearly constant.
        least_balance: least size of a class, as a share of the largest.
    """
    sizes = f"is {{width}} x {{height}} pixels; allowed is {min_size} to {max_size} each way"
    modes = f"has {{channels}} channels (mode {{mode}}); allowed: {', '.join(map(str, channels))}"
    checks = [
        _in_set("decodable", [True], "cannot be decoded: {why}", per_sample=True),
        _between("width", sizes, min_size, max_size, per_sample=True),
        _between("height", sizes, min_size, max_size, per_sample=True),
        _in_set("channels", list(channels), modes, per_sample=True),
        _is_null("leaks_into", "the same picture is also in the {leaks_into} split", per_sample=True),
        _is_null("other_labels", "the same picture is also labelled {other_labels}", severity="warning"),
        _between("copies", "there are {copies:.0f} exact copies of it in its split", high=1, severity="warning"),
        _between("std", "is nearly constant (standard deviation of its brightness: {std:.2f})", least_contrast, severity="warning"),
    ]
    return checks + (class_expectations(least_balance=least_balance) if card.classes else [])


def table_expectations(
    card: Card,
    target: str,
    regression: bool,
    *,
    most_missing: float = MOST_MISSING,
    most_drift: float = MOST_DRIFT,
    least_balance: float = LEAST_BALANCE,
) -> list[Expectation]:
    """What a table with a target must look like.

    Args:
        target: the column to predict.
        regression: whether it is a number to estimate rather than a class.
        most_missing: share of missing values above which a feature is worth a warning.
        most_drift: largest difference between the distributions of a feature in two splits: the Kolmogorov-Smirnov statistic of numbers,
            the total variation distance of categories; both 0 to 1.
        least_balance: least size of a class, as a share of the largest.
    """
    checks = [
        Expectation("expect_column_to_exist", {"column": target}, reason=f"there is no column {_literal(target)} to predict"),
        Expectation(
            "expect_column_values_to_not_be_null", {"column": target}, per_sample=True, reason=f"the target {_literal(target)} is missing"
        ),
    ]
    for feature in card.features:
        if feature.type == "float" and feature.name != "_row":
            reason = f"column {_literal(feature.name)} is not finite"
            checks.append(_between(feature.name, reason, -LARGEST_FLOAT32, LARGEST_FLOAT32, per_sample=True))
    checks += _column_expectations(target, regression, most_missing, most_drift)
    return checks if regression else checks + class_expectations(least_balance=least_balance)


def _column_expectations(target: str, regression: bool, most_missing: float, most_drift: float) -> list[Expectation]:
    name = _literal(target)
    gives_away = f"column {{column!r}} would give away the target {name}; is it known when a prediction is made? If not, take it out"
    unseen = "column {column!r}: {unseen_share:.1%} of the values in valid and test do not occur in train"
    soft: dict[str, Any] = {"severity": "warning", "table": "columns"}
    checks = [
        _between("target_distinct", "the target {column!r} has {distinct} value(s); at least 2 are needed", 2, table="columns"),
        _in_set("equals_target", [False], f"column {{column!r}} equals the target {name}: take it out of the data", table="columns"),
        _in_set("determines_target", [False], gives_away, **soft),
        _between("feature_distinct", "column {column!r} is constant", 2, **soft),
        _between("null_share", "column {column!r}: {null_share:.1%} of the values are missing", high=most_missing, **soft),
        _between("drift", "column {column!r} differs between the splits: {drift:.2f} on a scale of 0 to 1", high=most_drift, **soft),
        _between("unseen_share", unseen, high=MOST_UNSEEN, **soft),
        _between("id_share", "column {column!r} has a value of its own in nearly every row, like an identifier", high=MOST_UNIQUE, **soft),
    ]
    if regression:
        reason = "the target {column!r} is of type {type}, not a number"
        checks.append(_in_set("target_type", ["integer", "float", "boolean"], reason, table="columns"))
    return checks
