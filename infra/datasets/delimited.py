"""CSV and TSV to Parquet: streamed, with types found on the way, and faults told by line."""

from __future__ import annotations

import codecs
import csv
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from infra.datasets.columns import canonical, canonical_type
from infra.errors import InvalidSourceError

_BLOCK = 4 << 20
_ALL = [pa.int64(), pa.bool_(), pa.date32(), pa.timestamp("s"), pa.timestamp("ns"), pa.float64(), pa.string()]
_CONVERSION = re.compile(r"In CSV column #(\d+): ")
_MOST_SHOWN = 12


def to_parquet(path: Path, target: Path, name: str, delimiter: str | None) -> None:
    """Parse a file with a header line, in UTF-8.

    The first block suggests a type for each column; where a later value does not fit, the column gets the next wider type and the file is
    read again. So the types are those of the whole file.

    Args:
        path: the text file.
        target: the Parquet file to write.
        name: for messages.
        delimiter: None: the one that the header has most of, of ``, ; tab |``.

    Raises:
        InvalidSourceError: not UTF-8, ragged rows, columns of the same name, no rows.
    """
    num_quotes = check_utf8(path, name)
    header, delimiter = _header(path, name, delimiter)
    if num_quotes % 2:
        _check_quotes(path, name, delimiter)
    types: dict[str, pa.DataType] = {}
    while True:
        wider = _parse(path, target, name, header, delimiter, types)
        if wider is None:
            return
        types = wider


def _parse(path: Path, target: Path, name: str, header: list[str], delimiter: str, types: dict[str, pa.DataType]) -> dict[str, Any] | None:
    """One attempt; None when all went well, else the types for the next one."""
    ragged: list[int] = []

    def skip(row: pa_csv.InvalidRow) -> str:
        ragged.append(row.actual_columns)
        return "skip"

    parse = pa_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True, invalid_row_handler=skip)
    read = pa_csv.ReadOptions(column_names=header, skip_rows_after_names=1, block_size=_BLOCK, use_threads=False)
    convert = pa_csv.ConvertOptions(column_types=types, strings_can_be_null=True, quoted_strings_can_be_null=False)
    current = dict(types)
    try:
        with pa_csv.open_csv(path, read, parse, convert) as reader:
            current = {field.name: field.type for field in reader.schema}
            schema = pa.schema([(field.name, canonical_type(field.type)) for field in reader.schema])
            with pq.ParquetWriter(target, schema, compression="ZSTD") as writer:
                for batch in reader:
                    columns = [canonical(column, field.type) for column, field in zip(batch.columns, schema, strict=True)]
                    writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
    except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
        match = _CONVERSION.search(str(error))
        if match is None or current.get(header[int(match[1])]) == pa.string():
            if "no rows" in str(error).lower() or "empty" in str(error).lower():
                raise InvalidSourceError(name, ["it has a header, but no rows"]) from None
            raise InvalidSourceError(name, ragged_lines(path, delimiter, len(header)) or [str(error).split("\n")[0]]) from error
        column = header[int(match[1])]
        return {**types, column: _wider(column, types, current.get(column))}
    if ragged:
        problems = ragged_lines(path, delimiter, len(header))
        more = [f"and {len(ragged) - len(problems)} more such lines"] if len(ragged) > len(problems) else []
        hint = (
            f"Every line needs the {len(header)} values that the header names; a value that has {delimiter!r} in it goes in double quotes."
        )
        raise InvalidSourceError(name, problems + more, hint)
    return None


def _wider(column: str, types: dict[str, pa.DataType], kind: pa.DataType | None) -> pa.DataType:
    """The type to try after this one failed."""
    if kind is None or pa.types.is_null(kind):
        return _ALL[0]
    if pa.types.is_time(kind) or kind == pa.string():
        return pa.string()
    if column not in types and pa.types.is_boolean(kind):
        return pa.string()
    later = _ALL[_ALL.index(kind) + 1 :] if kind in _ALL else [pa.string()]
    if column not in types:  # inferred from a block of values: what those are not, the column is not
        if pa.types.is_integer(kind):
            return pa.float64()
        return later[0] if pa.types.is_temporal(kind) and pa.types.is_temporal(later[0]) else pa.string()
    return later[0] if later else pa.string()


def _header(path: Path, name: str, delimiter: str | None) -> tuple[list[str], str]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        line = file.readline()
        if not line.strip():
            raise InvalidSourceError(name, ["its first line is empty; it should name the columns"])
        if delimiter is None:
            delimiter = max(",;\t|", key=line.count)
        file.seek(0)
        try:
            header = next(csv.reader(file, delimiter=delimiter))
        except csv.Error as error:
            raise InvalidSourceError(name, [f"its header cannot be read: {error}"]) from error
    header = [column.strip() or f"unnamed_{i}" for i, column in enumerate(header)]
    twice = [f"{count} columns are called {column!r}" for column, count in Counter(header).items() if count > 1]
    if twice:
        raise InvalidSourceError(name, twice, "Give each column a name of its own in the first line.")
    return header, delimiter


def ragged_lines(path: Path, delimiter: str, num_columns: int) -> list[str]:
    """The first lines with too many or too few values, in words. Read again by another parser, as pyarrow counts rows, not lines."""
    problems = []
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=delimiter)
        start = 1
        try:
            for row in reader:
                if row and len(row) != num_columns:
                    text = delimiter.join(row)
                    problems.append(
                        f"line {start}: {len(row)} values instead of {num_columns}: {text[:60]}{'...' if len(text) > 60 else ''}"
                    )
                    if len(problems) == _MOST_SHOWN - 1:
                        break
                start = reader.line_num + 1
        except csv.Error as error:
            problems.append(f"line {start}: {error}")
    return problems


def _check_quotes(path: Path, name: str, delimiter: str) -> None:
    """Refuse a file whose last value is quoted and never ends: pyarrow would take all the rest for that value."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        start = 1
        try:
            for _ in reader:
                start = reader.line_num + 1
        except csv.Error as error:
            if "unexpected end" in str(error) or "field limit" in str(error):
                raise InvalidSourceError(name, [f"line {start} opens a double quote that is never closed"]) from None


def check_utf8(path: Path, name: str) -> int:
    """Refuse other encodings, and say where and which; the number of double quotes in the file.

    Raises:
        InvalidSourceError
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    line, num_quotes = 1, 0
    with path.open("rb") as file:
        while True:
            chunk = file.read(_BLOCK)
            if line == 1 and chunk[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
                raise InvalidSourceError(name, ["it is UTF-16"], _ENCODING)
            try:
                decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                line += error.object[: error.start].count(b"\n")
                bad = f"line {line} has the byte 0x{error.object[error.start]:02x}, which is not UTF-8"
                raise InvalidSourceError(name, [bad], _ENCODING) from None
            if not chunk:
                return num_quotes
            num_quotes += chunk.count(b'"')
            if b"\0" in chunk:
                line += chunk[: chunk.index(b"\0")].count(b"\n")
                raise InvalidSourceError(name, [f"line {line} has a NUL byte: this is not a text file in UTF-8"], _ENCODING)
            line += chunk.count(b"\n")


_ENCODING = "Text files must be UTF-8 (with or without a byte order mark). To convert one: iconv -f LATIN1 -t UTF-8 old.csv > new.csv"
