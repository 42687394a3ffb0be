"""CSV, TSV, Parquet and JSON Lines files, brought to Parquet files of canonical columns that can be read again and again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from infra.datasets import delimited, json_lines
from infra.datasets.card import SPLITS
from infra.datasets.columns import canonical, canonical_type
from infra.datasets.images import SPLIT_FOLDERS, is_hidden, walk
from infra.errors import InvalidSourceError

FORMATS = {".csv": "csv", ".tsv": "tsv", ".parquet": "parquet", ".pq": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl"}
RESERVED = "_row"


@dataclass(frozen=True)
class StagedTable:
    """One file as Parquet: the source itself, or what a text file was parsed to.

    Attributes:
        path: local Parquet file.
        name: of the source file, for messages.
        split: the given split, or None.
        schema: canonical types.
        num_rows: all of them.
    """

    path: Path
    name: str
    split: str | None
    schema: pa.Schema
    num_rows: int

    def batches(self, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """The rows, in order, with these columns and canonical types."""
        with pq.ParquetFile(self.path, pre_buffer=False) as file:
            for batch in file.iter_batches(batch_size=65_536, columns=schema.names):
                try:
                    columns = [canonical(batch.column(batch.schema.get_field_index(field.name)), field.type) for field in schema]
                except pa.ArrowInvalid as error:
                    raise InvalidSourceError(self.name, [str(error)], "Whole numbers must fit into 64 bits, with a sign.") from error
                yield pa.RecordBatch.from_arrays(columns, schema=schema)


def table_format(path: str) -> str | None:
    """``csv``, ``tsv``, ``parquet`` or ``jsonl`` by a file's name; None if it is no table."""
    return FORMATS.get(PurePosixPath(path).suffix.lower())


def find_tables(root: Path, source: str) -> tuple[list[tuple[str, str | None]], list[str]]:
    """Table files of a folder (path relative to it, given split), in the order of splits and names; and what was ignored.

    ``train.csv`` and ``test.csv``, or ``train/`` and ``test/`` with files in them, are given splits; else all files are parts of one table.

    Raises:
        InvalidSourceError: there are none.
    """
    files: list[str] = []
    ignored: list[str] = []
    for path, is_file in walk(root):
        (files if is_file and table_format(path) and not is_hidden(path) else ignored).append(path)
    if not files:
        hint = f"A table is one or more files that end in {', '.join(FORMATS)}."
        raise InvalidSourceError(source, ["there are no tables in it"], hint)
    tops = {path: path.split("/")[0].split(".")[0].lower() for path in files}
    splits = [SPLIT_FOLDERS.get(top) for top in tops.values()]
    if all(splits) and "train" in splits:
        found = sorted(((SPLITS.index(SPLIT_FOLDERS[top]), path) for path, top in tops.items()))
        return [(path, SPLITS[i]) for i, path in found], sorted(ignored)
    return [(path, None) for path in sorted(files)], sorted(ignored)


def stage(path: Path, name: str, split: str | None, scratch: Path) -> StagedTable:
    """Parse a file, unless it is Parquet already.

    Raises:
        InvalidSourceError: with the lines that are wrong.
    """
    kind = table_format(name)
    if path.stat().st_size == 0:
        raise InvalidSourceError(name, ["the file is empty"])
    if kind == "parquet":
        parquet = path
    else:
        parquet = scratch / f"{len(list(scratch.iterdir()))}.parquet"
        if kind == "jsonl":
            json_lines.to_parquet(path, parquet, name)
        else:
            delimited.to_parquet(path, parquet, name, "\t" if kind == "tsv" else None)
    return _inspect(parquet, name, split)


def _inspect(path: Path, name: str, split: str | None) -> StagedTable:
    try:
        with pq.ParquetFile(path) as file:
            schema, num_rows = file.schema_arrow, file.metadata.num_rows
    except (pa.ArrowInvalid, OSError) as error:
        raise InvalidSourceError(name, [f"it is not a Parquet file that can be read: {error}"]) from error
    problems = []
    fields = []
    for field in schema:
        kind = canonical_type(field.type)
        if kind is None:
            problems.append(f"column {field.name!r} has the type {field.type}; allowed are numbers, booleans, strings, dates and times")
        fields.append((field.name, kind or pa.string()))
    problems += [f"{count} columns are called {column!r}" for column, count in Counter(schema.names).items() if count > 1]
    if RESERVED in schema.names:
        problems.append(f"the column name {RESERVED!r} is taken: Atelier numbers the rows with it")
    if num_rows == 0:
        problems.append("it has no rows")
    if problems:
        raise InvalidSourceError(name, problems, "Drop or convert such columns first." if len(fields) and num_rows else "")
    return StagedTable(path, name, split, pa.schema(fields), num_rows)
