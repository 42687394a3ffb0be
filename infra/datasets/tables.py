"""Tables: one plain type for each column, strata from the target, a digest of the canonical content, and shards by split."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from infra.datasets.card import SPLITS, Feature, Shard
from infra.datasets.columns import column_bytes, column_hashes
from infra.datasets.shards import shard_writers
from infra.datasets.splits import Ratios, assign_splits, complete_splits, mix, quantile_bins
from infra.datasets.tabular_files import StagedTable
from infra.errors import InvalidSourceError

BATCH_ROWS = 65_536  # part of the digest: content is hashed in blocks of this many rows
GROUP_ROWS, GROUP_BYTES = 100_000, 64 << 20
ROW = "_row"
MOST_CLASSES = 10_000
_FEATURE_TYPES: dict[pa.DataType, Literal["integer", "float", "boolean", "string", "datetime"]] = {
    pa.int64(): "integer",
    pa.float64(): "float",
    pa.bool_(): "boolean",
    pa.string(): "string",
    pa.timestamp("us"): "datetime",
}
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Target:
    """What is to be predicted; ``regression`` makes strata of quantiles instead of classes."""

    column: str | None
    regression: bool = False


@dataclass
class Table:
    """Everything about a table but its rows."""

    staged: list[StagedTable]
    schema: pa.Schema
    target: Target
    classes: list[str]
    splits: NDArray[np.int8]
    split_rule: dict[str, Any]
    digest: str
    features: list[Feature]
    counts: dict[str, dict[str, int]]
    num_without_target: int = 0
    warnings: list[str] = field(default_factory=list)


def class_names(column: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """A target's values as class names: strings as they are, ``true``/``false``, whole numbers without a point, nulls as nulls."""
    if pa.types.is_string(column.type):
        return column
    return pc.cast(column, pa.string())


def prepare_table(staged: list[StagedTable], target: Target, ratios: Ratios, seed: int, source: str, progress: Progress) -> Table:
    """Read every row once: check the target, hash the content, assign splits.

    Raises:
        InvalidSourceError: no target column, nothing to predict, a class with one row.
    """
    schema = unified_schema(staged, source)
    problem = _check_target_column(schema, target)
    if problem:
        raise InvalidSourceError(source, *problem)
    total = sum(table.num_rows for table in staged)
    scan = _Scan(schema, target, total)
    for batch in iter_batches(staged, schema):
        scan.add(batch)
        progress("hashing", scan.num_rows, total)
    pa.default_memory_pool().release_unused()
    strata, classes = _strata(scan, target, source)
    splits, rule = _splits(staged, scan.hashes, strata, target, ratios, seed)
    head = {"columns": [[f.name, str(f.type)] for f in schema], "target": target.column, "regression": target.regression, "rule": rule}
    head["given"] = [[table.split, table.num_rows] for table in staged] if staged[0].split else None
    digest = hashlib.sha256(b"atelier table data set 1\n" + json.dumps(head, sort_keys=True).encode() + scan.digest()).hexdigest()
    counts: dict[str, dict[str, int]] = {}
    for i, name in enumerate(SPLITS):
        inside = strata[splits == i]
        if classes:
            counts[name] = dict(zip(classes, np.bincount(inside[inside >= 0], minlength=len(classes)).tolist(), strict=True))
        else:
            counts[name] = {"": len(inside)}
    features = [Feature(name=f.name, type=_FEATURE_TYPES[f.type], nulls=scan.nulls[f.name]) for f in schema]
    features.append(Feature(name=ROW, type="integer"))
    without = scan.nulls[target.column] if target.column else 0
    return Table(staged, schema, target, classes, splits, rule, digest, features, counts, without)


def unified_schema(staged: list[StagedTable], source: str) -> pa.Schema:
    """One schema for all files: the same columns (in the first file's order), each of a type that holds the values of all.

    Raises:
        InvalidSourceError: files with other columns.
    """
    first = staged[0].schema
    problems = []
    for table in staged[1:]:
        missing, extra = [n for n in first.names if n not in table.schema.names], [n for n in table.schema.names if n not in first.names]
        if missing or extra:
            problems.append(f"{table.name} has other columns than {staged[0].name}: missing {missing or 'none'}, besides {extra or 'none'}")
    if problems:
        raise InvalidSourceError(source, problems, "All files of one table need the same columns.")
    return pa.schema([(name, _widest([table.schema.field(name).type for table in staged])) for name in first.names])


def _widest(types: list[pa.DataType]) -> pa.DataType:
    kinds = {kind for kind in types if not pa.types.is_null(kind)}
    if len(kinds) <= 1:
        return kinds.pop() if kinds else pa.string()
    return pa.float64() if kinds == {pa.int64(), pa.float64()} else pa.string()


def iter_batches(staged: list[StagedTable], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """All rows, in order, in batches of exactly ``BATCH_ROWS`` rows (the last one of each file has fewer)."""
    for table in staged:
        pending: list[pa.RecordBatch] = []
        num_pending = 0
        for batch in table.batches(schema):
            while batch.num_rows:
                part = batch.slice(0, BATCH_ROWS - num_pending)
                batch = batch.slice(part.num_rows)
                pending.append(part)
                num_pending += part.num_rows
                if num_pending == BATCH_ROWS:
                    yield pa.concat_batches(pending)
                    pending, num_pending = [], 0
        if pending:
            yield pa.concat_batches(pending)


class _Scan:
    """What one pass over ``total`` rows gathers: 8 bytes of hash and 4 or 8 of target for each."""

    def __init__(self, schema: pa.Schema, target: Target, total: int) -> None:
        self.schema, self.target = schema, target
        self.num_rows = 0
        self.hashes = np.empty(total, np.uint64)
        self.values = np.empty(total if target.column is not None and target.regression else 0, np.float64)
        self.codes = np.empty(total if target.column is not None and not target.regression else 0, np.int32)
        self.class_codes: dict[str, int] = {}
        self.nulls = dict.fromkeys(schema.names, 0)
        self._digests = [hashlib.sha256() for _ in schema]
        # a column's hash is mixed with its place, so that equal values in other columns differ
        self._salts = mix(np.arange(1, len(schema) + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))

    def add(self, batch: pa.RecordBatch) -> None:
        rows = slice(self.num_rows, self.num_rows + batch.num_rows)
        self.num_rows += batch.num_rows
        hashes = np.zeros(batch.num_rows, np.uint64)
        for i, name in enumerate(self.schema.names):
            column = batch.column(i)
            self.nulls[name] += column.null_count
            for part in column_bytes(column):
                self._digests[i].update(part)
            hashes = mix(hashes + column_hashes(column, self._salts[i]))
        self.hashes[rows] = hashes
        if self.target.column is not None:
            self._add_target(batch.column(self.schema.get_field_index(self.target.column)), rows)

    def _add_target(self, column: pa.Array, rows: slice) -> None:
        if self.target.regression:
            self.values[rows] = pc.fill_null(pc.cast(column, pa.float64()), float("nan")).to_numpy(zero_copy_only=False)
            return
        if len(self.class_codes) > MOST_CLASSES:
            return  # far too many: only the verdict is still needed
        encoded = column.dictionary_encode()
        known = [self.class_codes.setdefault(value, len(self.class_codes)) for value in encoded.dictionary.to_pylist()]
        codes = np.append(np.array(known, np.int32), np.int32(-1))
        self.codes[rows] = codes[pc.fill_null(encoded.indices, len(known)).to_numpy(zero_copy_only=False)]

    def digest(self) -> bytes:
        return b"".join(digest.digest() for digest in self._digests)


def _check_target_column(schema: pa.Schema, target: Target) -> tuple[list[str], str] | None:
    if target.column is None:
        return None
    if target.column not in schema.names:
        lower = {name.lower(): name for name in schema.names}
        near = [lower[name] for name in difflib.get_close_matches(target.column.lower(), lower, 3, 0.5)]
        columns = ", ".join(schema.names[:30]) + (" ..." if len(schema.names) > 30 else "")
        hint = (f"Did you mean {' or '.join(near)}? " if near else "") + f"Its columns are: {columns}."
        return [f"it has no column {target.column!r}, which is to be predicted"], hint
    kind = schema.field(target.column).type
    if target.regression and kind not in (pa.int64(), pa.float64()):
        hint = "Predict classes with a tabular-classification algorithm, or choose a column of numbers."
        return [f"the column {target.column!r} holds {_FEATURE_TYPES[kind]} values; a regression predicts numbers"], hint
    return None


def _strata(scan: _Scan, target: Target, source: str) -> tuple[NDArray[np.int32], list[str]]:
    """Stratum of every row (-1: no target), and the classes by number."""
    if target.column is None:
        return np.zeros(scan.num_rows, np.int32), []
    if scan.nulls[target.column] == scan.num_rows:
        raise InvalidSourceError(source, [f"the target {target.column!r} has no value in any of the {scan.num_rows} rows"])
    if target.regression:
        finite = np.isfinite(scan.values)
        lowest = scan.values.min(where=finite, initial=np.inf)
        if not lowest < scan.values.max(where=finite, initial=-np.inf):
            what = f"only one value, {lowest:g}" if finite.any() else "no finite value"
            raise InvalidSourceError(
                source, [f"the target {target.column!r} has {what}"], "There is nothing to learn: choose another column."
            )
        bins = quantile_bins(scan.values)
        scan.values = np.empty(0)
        return bins, []
    return _class_strata(scan, target.column, source)


def _class_strata(scan: _Scan, column: str, source: str) -> tuple[NDArray[np.int32], list[str]]:
    kind = scan.schema.field(column).type
    is_number = kind in (pa.int64(), pa.float64())
    regression = " To predict the number itself, use a tabular-regression algorithm." if is_number else ""
    if len(scan.class_codes) > MOST_CLASSES:
        raise InvalidSourceError(
            source, [f"the target {column!r} has more than {MOST_CLASSES:,} different values"], "Is it the right column?" + regression
        )
    codes, scan.codes = scan.codes, np.empty(0, np.int32)
    names = class_names(pa.array(list(scan.class_codes), kind)).to_pylist()
    classes = sorted(names)
    counts = np.bincount(codes[codes >= 0], minlength=len(names))
    if len(classes) == 1:
        hint = "There is nothing to learn: choose another column, or add rows of other classes."
        raise InvalidSourceError(source, [f"the target {column!r} has only one value, {classes[0]!r} ({counts[0]} rows)"], hint)
    alone = sorted(name for name, count in zip(names, counts, strict=True) if count < 2)
    if alone:
        raise InvalidSourceError(
            source,
            [f"class {name!r} of {column!r} has 1 row" for name in alone],
            "A class needs at least 2 rows, better 3 or more, so that training and testing each get one. Add rows, or remove these."
            + regression,
        )
    place = {name: i for i, name in enumerate(classes)}
    renumber = np.array([place[name] for name in names] + [-1], np.int32)  # the last is for code -1
    return renumber[codes], classes


def _splits(
    staged: list[StagedTable], hashes: NDArray[np.uint64], strata: NDArray[np.int32], target: Target, ratios: Ratios, seed: int
) -> tuple[NDArray[np.int8], dict[str, Any]]:
    made_by = {"seed": seed, "ratios": list(ratios), "stratified_by": target.column}
    if staged[0].split is None:
        return assign_splits(hashes, strata, ratios, seed), made_by
    given = np.concatenate([np.full(table.num_rows, SPLITS.index(table.split or ""), np.int8) for table in staged])
    splits, made = complete_splits(given, hashes, strata, ratios, seed)
    return splits, {"given": True} | ({"made": made} | made_by if made else {})


def write_table(table: Table, folder: Path, progress: Progress) -> list[Shard]:
    """Write the shards; rows keep the source's order within a split."""
    schema = table.schema.append(pa.field(ROW, pa.int64()))
    num_rows = {split: int((table.splits == i).sum()) for i, split in enumerate(SPLITS)}
    writers = shard_writers(folder, schema, num_rows, most=GROUP_ROWS, fewest=1000, group_bytes=GROUP_BYTES)
    start = 0
    for batch in iter_batches(table.staged, table.schema):
        stop = start + batch.num_rows
        rows = pa.Table.from_batches([batch]).append_column(ROW, pa.array(np.arange(start, stop)))
        splits = table.splits[start:stop]
        for i, split in enumerate(SPLITS):
            inside = splits == i
            if inside.any():
                writers[split].add(rows.filter(pa.array(inside)).cast(schema))
        start = stop
        progress("writing", start, len(table.splits))
    return [shard for writer in writers.values() for shard in writer.close()]
