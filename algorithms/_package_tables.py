"""Rows as a package takes them: values checked against the input schema and made into one array a column. numpy only; pyarrow for Parquet."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Row = Mapping[str, Any]
Column = tuple[str, Literal["float", "int", "string"]]
TABLE_SUFFIXES = (".csv", ".jsonl", ".ndjson", ".parquet")
_TRUE = {"true", "yes", "t", "y", "1", "1.0"}
_FALSE = {"false", "no", "f", "n", "0", "0.0"}


class UnusableInputError(ValueError):
    """One input that cannot be predicted; its sentence becomes the ``error`` of that input, and the others go on."""


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a CSV, JSON Lines or Parquet file, one after the other.

    Raises:
        UnusableInputError: a line that does not belong there; its number is told.
    """
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        import pyarrow.parquet as pq

        for batch in pq.ParquetFile(path).iter_batches(batch_size=4096):
            yield from batch.to_pylist()
    elif suffix == ".csv":
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from _csv_rows(file, path)
    else:
        with path.open("rb") as lines:
            yield from json_rows(lines, str(path))


def _csv_rows(file: Any, path: Path) -> Iterator[dict[str, Any]]:
    reader = csv.DictReader(file, restkey="")
    for row in reader:
        if "" in row and isinstance(row[""], list):
            raise UnusableInputError(f"{path}, line {reader.line_num}: more values than the header has columns")
        yield row


def json_rows(lines: Any, name: str) -> Iterator[dict[str, Any]]:
    """One JSON object a line; empty lines are skipped."""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UnusableInputError(f"{name}, line {number}: not JSON ({error})") from None
        if not isinstance(row, dict):
            raise UnusableInputError(f"{name}, line {number}: expected a JSON object with the columns as keys, got {type(row).__name__}")
        yield row


def convert_value(value: Any, kind: str, is_date: bool = False) -> Any:
    """A value as ``kind`` (a JSON schema type) says: None if missing, else float, int, bool or str.

    Text is read as the type wants it; dates become days since 1970 (UTC). Missing are None, NaN, and empty text.

    Raises:
        UnusableInputError: the value is of another type.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    if kind == "string" and not is_date:
        return value if isinstance(value, str) else str(value)
    if isinstance(value, str) and not value.strip():
        return None
    if is_date:
        return _days(value)
    if kind == "boolean":
        word = str(value).strip().lower()
        if word in _TRUE or word in _FALSE:
            return word in _TRUE
        raise UnusableInputError(f"expected true or false, got {value!r}")
    if not isinstance(value, (int, float, str)):
        raise UnusableInputError(f"expected a number, got {value!r}")
    try:
        number = float(value)
    except ValueError:
        raise UnusableInputError(f"expected a number, got {value!r}") from None
    if kind == "integer":
        if not number.is_integer():
            raise UnusableInputError(f"expected a whole number, got {value!r}")
        return int(value) if isinstance(value, int) else int(number)
    return None if math.isnan(number) else number


def _days(value: Any) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(str(value).strip())
    except ValueError:
        raise UnusableInputError(f"expected a date (ISO 8601), got {value!r}") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() / 86_400


def property_type(definition: Mapping[str, Any]) -> tuple[str, bool]:
    """The type of a JSON schema property besides null, and whether null is allowed too."""
    types = definition.get("type", "string")
    types = [types] if isinstance(types, str) else list(types)
    named = [name for name in types if name != "null"]
    return (named[0] if named else "string"), "null" in types


def convert_row(row: Row, columns: Sequence[Column], schema: Mapping[str, Any]) -> list[Any]:
    """The row's values in the order of ``columns``, ready for ``stack_rows``; what is not a column is ignored.

    Raises:
        UnusableInputError: columns that are missing or values of the wrong type, all of them at once.
    """
    properties: Mapping[str, Mapping[str, Any]] = schema.get("properties", {})
    required = set(schema.get("required", [name for name, _ in columns]))
    problems, values = [], []
    absent = [name for name, _ in columns if name in required and name not in row]
    if absent:
        problems.append(f"missing column{'s' if len(absent) > 1 else ''}: {', '.join(absent)}")
    for name, tensor in columns:
        definition = properties.get(name, {"type": ["string" if tensor == "string" else "number", "null"]})
        kind, nullable = property_type(definition)
        try:
            value = convert_value(row.get(name), kind, is_date=definition.get("format") == "date-time" and tensor != "string")
        except UnusableInputError as error:
            problems.append(f"column {name!r}: {error}")
            continue
        if value is None and not nullable and name in row:
            problems.append(f"column {name!r} is empty")
        values.append(_as_tensor_value(value, tensor))
    if problems:
        raise UnusableInputError("; ".join(problems))
    return values


def _as_tensor_value(value: Any, tensor: str) -> Any:
    if tensor == "string":
        return "" if value is None else str(value)
    if tensor == "int":
        return 0 if value is None else int(value)
    return math.nan if value is None else float(value)


def stack_rows(rows: Sequence[Sequence[Any]], columns: Sequence[Column]) -> dict[str, NDArray[Any]]:
    """Converted rows as one array a column: float32, int64 or str objects, [N, 1]."""
    dtypes: dict[str, Any] = {"float": np.float32, "int": np.int64, "string": object}
    return {
        name: np.array([[row[index]] for row in rows], dtype=dtypes[tensor]).reshape(-1, 1) for index, (name, tensor) in enumerate(columns)
    }


def batched(rows: Iterator[Any], size: int) -> Iterator[list[Any]]:
    """Lists of up to ``size`` items, as they come."""
    while batch := list(islice(rows, size)):
        yield batch
