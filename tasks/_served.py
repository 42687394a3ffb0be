"""What the inference server kept: served requests and true answers, read back in bounded memory.

captures/MODEL/DATE/TIME-ID.parquet    see deployments/serving/capture.py
feedback/MODEL/DATE/TIME-ID.parquet    time, model, version, told, truth, correct (labels), squared_error (values), request, row

``request`` and ``row`` say which captured row a truth belongs to. A truth may be told again; the last one holds (``last_told``).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from infra.store import Store

CAPTURES, FEEDBACK = "captures", "feedback"
FILE, ROW = "_file", "_row"
HEAVY = "image"
REQUEST, PLACE = "request", "row"


def _written(key: str) -> datetime:
    """When a file was written, by its name."""
    date, name = key.split("/")[-2:]
    return datetime.strptime(f"{date} {name.split('-')[0]}", "%Y-%m-%d %H%M%S.%f").replace(tzinfo=UTC)


def _files(store: Store, folder: str, model: str, since: datetime) -> list[str]:
    """Files written since then, the newest first; a row is never newer than its file."""
    keys = [key for key in store.list(f"{folder}/{model}/") if key.endswith(".parquet")]
    return sorted((key for key in keys if _written(key) >= since), key=_written, reverse=True)


def _read_file(store: Store, key: str) -> pa.Table:
    """The rows of one file; without pictures, but with where to find them."""
    with store.open(key) as stream:
        file = pq.ParquetFile(stream)
        table = file.read(columns=[name for name in file.schema_arrow.names if name != HEAVY])
    table = table.append_column(FILE, pa.array([key] * table.num_rows, pa.string()))
    return table.append_column(ROW, pa.array(range(table.num_rows), pa.int32()))


def _read(store: Store, key: str, version: int | None, since: datetime, until: datetime) -> pa.Table:
    """The rows of one file that are of the version and within the time."""
    table = _read_file(store, key)
    time = table.column("time")
    within = pc.and_(pc.greater_equal(time, pa.scalar(since, time.type)), pc.less_equal(time, pa.scalar(until, time.type)))
    return table.filter(within if version is None else pc.and_(within, pc.equal(table.column("version"), version)))


def read_rows(store: Store, folder: str, model: str, version: int | None, since: datetime, until: datetime, most: int) -> pa.Table | None:
    """The newest ``most`` rows of a version in order of time; None if there is none.

    Args:
        folder: ``CAPTURES`` or ``FEEDBACK``.
        version: None: of all versions.
    """
    tables: list[pa.Table] = []
    num_rows = 0
    for key in _files(store, folder, model, since):
        table = _read(store, key, version, since, until)
        if table.num_rows:
            tables.append(table)
            num_rows += table.num_rows
        if num_rows >= most:
            break
    if not tables:
        return None
    whole = pa.concat_tables(tables, promote_options="default").sort_by("time")
    return whole.slice(max(0, whole.num_rows - most))


def last_told(truths: pa.Table) -> pa.Table:
    """Of several truths of one row of a request the last one, in order of time; those of before requests had ids all stay."""
    truths = truths.sort_by("time")
    if REQUEST not in truths.column_names:
        return truths
    requests, places = truths.column(REQUEST).to_pylist(), truths.column(PLACE).to_pylist()
    last = {(request, place): index for index, (request, place) in enumerate(zip(requests, places, strict=True))}
    return truths.take([index for index, pair in enumerate(zip(requests, places, strict=True)) if not pair[0] or last[pair] == index])


def read_requests(store: Store, model: str, since: datetime, requests: Collection[str]) -> pa.Table | None:
    """The captured rows of these requests in order of time, of whatever version; None if there is none."""
    wanted, tables = pa.array(sorted(requests), pa.string()), []
    for key in _files(store, CAPTURES, model, since) if requests else []:
        table = _read_file(store, key)
        if REQUEST in table.column_names:
            tables.append(table.filter(pc.is_in(table.column(REQUEST), wanted)))
    found = [table for table in tables if table.num_rows]
    return pa.concat_tables(found, promote_options="default").sort_by("time") if found else None


def pictures_of(store: Store, table: pa.Table) -> Iterator[tuple[int, bytes | None]]:
    """Place in the table and bytes of each row's picture, a file at a time; None if only its statistics were kept."""
    places: dict[str, list[tuple[int, int]]] = {}
    for place, (file, row) in enumerate(zip(table.column(FILE).to_pylist(), table.column(ROW).to_pylist(), strict=True)):
        places.setdefault(file, []).append((place, row))
    for file, rows in places.items():
        with store.open(file) as stream:
            images = pq.ParquetFile(stream).read(columns=[HEAVY]).column(HEAVY)
        for place, row in rows:
            value: Any = images[row].as_py()
            yield place, value
