"""JSON Lines to Parquet: one object a line, streamed twice, first for the columns and their types, then for the values."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from infra.datasets.delimited import check_utf8
from infra.errors import InvalidSourceError

_BATCH = 32_768
_MOST_SHOWN = 12
_KINDS: dict[type, str] = {bool: "bool", int: "int", float: "float", str: "str"}


def to_parquet(path: Path, target: Path, name: str) -> None:
    """Parse a file. Keys that a line lacks are null there; a column of several types becomes strings.

    Raises:
        InvalidSourceError: with the lines that are not flat JSON objects.
    """
    check_utf8(path, name)
    schema = _schema(path, name)
    with pq.ParquetWriter(target, schema, compression="ZSTD") as writer:
        rows: list[dict[str, Any]] = []
        for _, row in _objects(path):
            rows.append(row)
            if len(rows) == _BATCH:
                writer.write_batch(_batch(rows, schema))
                rows = []
        if rows:
            writer.write_batch(_batch(rows, schema))


def _objects(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    yield number, json.loads(line)
                except ValueError as error:
                    yield number, error


def _schema(path: Path, name: str) -> pa.Schema:
    """Columns in the order in which they first appear, each with the type that holds all its values."""
    kinds: dict[str, set[str]] = {}
    problems: list[str] = []
    num_rows = 0
    for number, row in _objects(path):
        num_rows += 1
        if isinstance(row, dict):
            for key, value in row.items():
                found = kinds.setdefault(key, set())
                if value is not None:
                    kind = _KINDS.get(type(value))
                    if kind is None:
                        problems.append(
                            f"line {number}: {key!r} is {'a list' if isinstance(value, list) else 'an object'}; allowed are plain values"
                        )
                    elif kind == "int" and not -(2**63) <= value < 2**63:
                        kind = "float"
                    found.add(kind or "str")
        elif isinstance(row, ValueError):
            problems.append(f"line {number}: not JSON: {row}")
        else:
            problems.append(f"line {number}: not an object in braces, but {json.dumps(row)[:40]}")
        if len(problems) >= _MOST_SHOWN:
            break
    if problems:
        raise InvalidSourceError(name, problems, 'JSON Lines has one flat object on each line: {"height": 1.8, "label": "tall"}')
    if not num_rows or not kinds:
        raise InvalidSourceError(name, ["it has no rows"])
    return pa.schema([(key, _type(found)) for key, found in kinds.items()])


def _type(kinds: set[str]) -> pa.DataType:
    if not kinds:
        return pa.null()
    if kinds <= {"int", "float"}:
        return pa.int64() if kinds == {"int"} else pa.float64()
    return pa.bool_() if kinds == {"bool"} else pa.string()


def _batch(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.RecordBatch:
    columns = []
    for field in schema:
        values = [row.get(field.name) for row in rows]
        if pa.types.is_string(field.type):
            values = [value if value is None or isinstance(value, str) else json.dumps(value) for value in values]
        elif pa.types.is_float64(field.type):
            values = [None if value is None else float(value) for value in values]
        columns.append(pa.array(values, field.type))
    return pa.RecordBatch.from_arrays(columns, schema=schema)
