"""Cutting the inputs of a batch prediction into parts: which pictures, lines or row groups each worker reads. One record is one input, always."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from infra.datasets.images import is_picture
from infra.datasets.sources import listing, open_source
from infra.datasets.tabular_files import table_format
from infra.errors import InvalidSourceError
from infra.store import Store, open_store

MOST_LINE_BYTES = 64 << 20
DELIMITERS = ",;\t|"


@dataclass(frozen=True)
class Part:
    """What one call predicts. A plain value, so it may go to Dask workers.

    Attributes:
        store: URI of the store in which the files lie.
        files: pictures: their keys; tables: the one file's key.
        names: as a person would name the files, in the same order.
        first: tables: number of the first row in its file, from 1.
        num_rows: inputs in this part.
        start, end: text: bytes from and to; Parquet: row groups from and to.
        header: CSV: the columns' names.
        delimiter: CSV.
    """

    store: str
    files: tuple[str, ...]
    names: tuple[str, ...]
    num_rows: int
    first: int = 1
    start: int = 0
    end: int = 0
    header: tuple[str, ...] = ()
    delimiter: str = ","


def list_inputs(sources: Sequence[str], leave_out: str = "") -> list[tuple[str, list[tuple[str, str]]]]:
    """Every file of every source with its state, sorted; hidden ones are none, nor is ``leave_out`` (a path or URI): what is written there.

    Raises:
        SourceNotFoundError: no file, folder or object.
    """
    found = []
    for source in sources:
        files = [
            (name, state) for name, state in listing(source) if not any(part.startswith(".") for part in name.split("/") if part != ".")
        ]
        found.append((source, [(name, state) for name, state in files if _named(source, name) != leave_out]))
    return found


def _named(source: str, name: str) -> str:
    """A file of a source as a person would name it."""
    return source if name == "." else f"{source.rstrip('/')}/{name}"


def cut(inputs: Sequence[tuple[str, list[tuple[str, str]]]], pictures: bool, rows: int) -> list[Part]:
    """The parts, in the order of the inputs, of ``rows`` inputs each as far as the files allow.

    Raises:
        InvalidSourceError: nothing of the kind that the model takes, or a table whose records cannot be told apart.
    """
    parts: list[Part] = []
    for source, files in inputs:
        store, prefix = open_source(source)
        wanted = [name for name, _ in files if name == "." or (is_picture(name) if pictures else table_format(name))]
        if not wanted or (wanted == ["."] and not pictures and table_format(source) is None):
            what = "pictures" if pictures else "CSV, TSV, JSON Lines or Parquet files"
            raise InvalidSourceError(source, [f"the model takes {what}, and there are none"])
        keys = [prefix if name == "." else f"{prefix}/{name}" if prefix else name for name in wanted]
        names = [_named(source, name) for name in wanted]
        if pictures:
            for begin in range(0, len(keys), rows):
                some = slice(begin, begin + rows)
                parts.append(Part(store.uri, tuple(keys[some]), tuple(names[some]), len(keys[some])))
        else:
            for key, name in zip(keys, names, strict=True):
                parts += _cut_table(store, key, name, rows)
    return parts


def _cut_table(store: Store, key: str, name: str, rows: int) -> Iterator[Part]:
    kind = table_format(name)
    with store.open(key) as stream:
        try:
            if kind == "parquet":
                cuts = _cut_parquet(stream, rows)
            elif kind == "jsonl":
                cuts = _cut_text(_Lines(stream, name), rows, None)
            else:
                cuts = _cut_csv(_Lines(stream, name), rows, "\t" if kind == "tsv" else None)
            for values in cuts:
                yield Part(store.uri, (key,), (name,), **values)
        except (csv.Error, ValueError) as error:  # pyarrow's ArrowInvalid is a ValueError
            if isinstance(error, InvalidSourceError):
                raise
            raise InvalidSourceError(name, [str(error) or type(error).__name__]) from error


def _cut_parquet(stream: BinaryIO, rows: int) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet as pq

    metadata = pq.ParquetFile(stream).metadata
    first, start, num_rows = 1, 0, 0
    for group in range(metadata.num_row_groups):
        num_rows += metadata.row_group(group).num_rows
        if num_rows >= rows or (num_rows and group == metadata.num_row_groups - 1):
            yield {"first": first, "num_rows": num_rows, "start": start, "end": group + 1}
            first, start, num_rows = first + num_rows, group + 1, 0


class _Lines:
    """Lines of a stream as text; knows how many bytes were taken. Bytes that are not UTF-8 stay in as surrogates, so that only their row fails."""

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self._stream, self.name, self.offset = stream, name, 0

    def __iter__(self) -> Iterator[str]:
        while line := self._stream.readline(MOST_LINE_BYTES):
            if len(line) == MOST_LINE_BYTES:
                raise InvalidSourceError(self.name, [f"it has a line of more than {MOST_LINE_BYTES >> 20} MiB at byte {self.offset:,}"])
            text = line.decode("utf-8-sig" if self.offset == 0 else "utf-8", "surrogateescape")
            self.offset += len(line)
            yield text


def _cut_csv(lines: _Lines, rows: int, delimiter: str | None) -> Iterator[dict[str, Any]]:
    text = iter(lines)
    line = next(text, "")
    delimiter = delimiter or max(DELIMITERS, key=line.count)
    header = next(csv.reader(_rest(line, text), delimiter=delimiter), [])
    if not any(header):
        raise InvalidSourceError(lines.name, ["its first line is empty; it should name the columns"])
    if twice := sorted({column for column in header if header.count(column) > 1}):
        raise InvalidSourceError(lines.name, [f"two columns have the name {twice[0]!r}"])
    for values in _cut_text(lines, rows, delimiter, text):
        yield {**values, "header": tuple(header), "delimiter": delimiter}


def _rest(line: str, text: Iterator[str]) -> Iterator[str]:
    yield line
    yield from text


def _cut_text(lines: _Lines, rows: int, delimiter: str | None, text: Iterator[str] | None = None) -> Iterator[dict[str, Any]]:
    """Byte ranges with ``rows`` records each; the records are those that ``records`` reads there."""
    first, start, num_rows = 1, lines.offset, 0
    for _ in _split(text or iter(lines), delimiter):
        num_rows += 1
        if num_rows == rows:
            yield {"first": first, "num_rows": num_rows, "start": start, "end": lines.offset}
            first, start, num_rows = first + num_rows, lines.offset, 0
    if num_rows:
        yield {"first": first, "num_rows": num_rows, "start": start, "end": lines.offset}


def _split(text: Iterator[str], delimiter: str | None) -> Iterator[Any]:
    """Records of CSV (lists of values), or lines of JSON Lines; empty lines are no records."""
    if delimiter is None:
        return (line for line in text if line.strip())
    return (record for record in csv.reader(text, delimiter=delimiter) if record)


def read_rows(part: Part) -> Iterator[dict[str, Any] | Exception]:
    """The rows of a table's part, in order; one that is none is an error in its place, and the others go on."""
    with open_store(part.store).open(part.files[0]) as stream:
        if table_format(part.names[0]) == "parquet":
            import pyarrow.parquet as pq

            groups = list(range(part.start, part.end))
            for batch in pq.ParquetFile(stream).iter_batches(batch_size=1024, row_groups=groups):
                yield from batch.to_pylist()
            return
        stream.seek(part.start)
        lines = stream.read(part.end - part.start).split(b"\n")
        text = (line.decode("utf-8", "surrogateescape") + "\n" for line in lines if line or part.header)
        for record in _split(text, part.delimiter if part.header else None):
            yield _row(record, part.header)


def _row(record: Any, header: tuple[str, ...]) -> dict[str, Any] | Exception:
    if any("\udc80" <= letter <= "\udcff" for value in ([record] if isinstance(record, str) else record) for letter in value):
        return ValueError("it is not UTF-8")
    if not header:
        try:
            row = json.loads(record)
        except ValueError as error:
            return ValueError(f"not JSON ({error})")
        return row if isinstance(row, dict) else ValueError(f"expected a JSON object, got {type(row).__name__}")
    if len(record) > len(header):
        return ValueError(f"{len(record)} values, but the header has {len(header)} columns")
    return dict(zip(header, [*record, *[None] * (len(header) - len(record))], strict=True))
