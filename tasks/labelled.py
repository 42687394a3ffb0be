"""Labelled requests: what a model was asked, joined with the truth that came later, as a data set version of its own.

A truth belongs to the captured row of its request; one that was told twice counts once, the last one holds. Requests whose truth did not come,
or that were not captured, are none of it.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from infra.context import StageContext
from infra.datasets.card import Card, DatasetRef, Feature
from infra.datasets.dataset import open_dataset
from tasks._reference import INPUT
from tasks._served import FEEDBACK, PLACE, REQUEST, last_told, pictures_of, read_requests, read_rows
from tasks.ingest import ingest

MOST_TRUTHS = 50_000
_TRUE = {"true", "yes", "t", "y", "1", "1.0"}


def labelled_requests(
    model: str, old: DatasetRef, target: str | None, hours: float, until: str, regression: bool = False, *, context: StageContext
) -> DatasetRef | None:
    """The labelled requests of some hours as a version that fits the data which the model was trained on; None if there is none.

    Args:
        model: its name; whichever version answered.
        old: what the live version was trained on.
        target: tables: the column that the truth goes to.
        hours: how far back to look.
        until: end of that time, ISO 8601: a truth that came later is none of it.
        regression: the truth is a number.

    Raises:
        InvalidSourceError: they cannot be imported.
    """
    end = datetime.fromisoformat(until)
    since = end - timedelta(hours=hours)
    rows = _joined(model, since, end, context)
    if rows is None:
        return None
    card = open_dataset(context.store, old, context.settings.cache_path).card
    with tempfile.TemporaryDirectory(prefix="atelier-labelled-") as scratch:
        folder = Path(scratch) / f"requests-of-{model}"
        folder.mkdir()
        number = (
            _write_pictures(folder, rows, card, context)
            if card.kind == "image"
            else _write_rows(folder, rows, card, str(target), regression)
        )
        context.report({"kind": "log", "message": f"{number:,} labelled requests of {model} since {since:%Y-%m-%d %H:%M}"})
        if not number:
            return None
        source = folder if card.kind == "image" else folder / "rows.parquet"
        return ingest(
            str(source), name=f"{model}-labelled", algorithm_kind=card.kind, target=target, regression=regression, context=context
        )


def _joined(model: str, since: datetime, end: datetime, context: StageContext) -> pa.Table | None:
    """The captured rows that have a truth, with the column ``truth``."""
    told = read_rows(context.store, FEEDBACK, model, None, since, end, MOST_TRUTHS)
    if told is None or REQUEST not in told.column_names:
        return None
    told = last_told(told)
    pairs = zip(told.column(REQUEST).to_pylist(), told.column(PLACE).to_pylist(), strict=True)
    truths = {pair: truth for pair, truth in zip(pairs, told.column("truth").to_pylist(), strict=True) if pair[0]}
    served = read_requests(context.store, model, since, {request for request, _ in truths})
    if served is None:
        return None
    found = [truths.get(pair) for pair in zip(served.column(REQUEST).to_pylist(), served.column(PLACE).to_pylist(), strict=True)]
    joined = served.append_column("truth", pa.array(found, pa.string()))
    return joined.filter(pc.is_valid(joined.column("truth")))


def _write_pictures(folder: Path, rows: pa.Table, card: Card, context: StageContext) -> int:
    """An image folder of the pictures that were kept; of the same picture, however often it was asked, the last truth holds."""
    truths = rows.column("truth").to_pylist()
    known = {name for name in card.classes if _is_folder_name(name)}  # a class is a folder's name, and names may come from anywhere
    labels: dict[str, tuple[int, str]] = {}
    for place, data in pictures_of(context.store, rows):
        if data is None or truths[place] not in known:
            continue  # only its statistics were kept; or a class of another version
        name = hashlib.sha256(data).hexdigest()[:32] + (
            ".png" if data.startswith(b"\x89PNG") else ".jpg" if data.startswith(b"\xff\xd8") else ".img"
        )
        if name not in labels:
            (folder / f".{name}").write_bytes(data)
        labels[name] = max(labels.get(name, (-1, "")), (place, truths[place]))
    for name, (_, label) in labels.items():
        (folder / label).mkdir(exist_ok=True)
        (folder / f".{name}").rename(folder / label / name)
    return len(labels)


def _is_folder_name(name: str) -> bool:
    return not name.startswith(".") and not set(name) & set("/\\\0") and 0 < len(name.encode()) < 200


def _write_rows(folder: Path, rows: pa.Table, card: Card, target: str, regression: bool) -> int:
    """A Parquet file with the columns of the old data; what the model does not look at is missing in it."""
    columns = {
        feature.name: as_column(feature, rows.column("truth" if feature.name == target else INPUT + feature.name).to_pylist())
        for feature in card.features
        if feature.name == target or INPUT + feature.name in rows.column_names
    }
    table = pa.table(columns).filter(pc.is_valid(columns[target]))
    if not regression:  # a class with one row cannot be split; it waits for its second
        names = [str(value) for value in table.column(target).to_pylist()]
        often = Counter(names)
        table = table.filter(pa.array([often[name] > 1 for name in names], pa.bool_()))
    missing = [feature for feature in card.features if feature.name not in columns and feature.name != "_row"]
    for feature in missing:
        table = table.append_column(feature.name, as_column(feature, [None] * table.num_rows))
    pq.write_table(table, folder / "rows.parquet")
    return int(table.num_rows)


def as_column(feature: Feature, values: list[Any]) -> pa.Array:
    """What the model got, or a truth, as the column it came from: numbers went in as 32-bit floats, dates as days since 1970.

    A value that is none of the column's is missing.
    """
    makers = {"integer": _whole, "float": _number, "boolean": _boolean, "datetime": _moment}
    types = {"integer": pa.int64(), "float": pa.float64(), "boolean": pa.bool_(), "datetime": pa.timestamp("us")}
    if feature.type not in makers:
        return pa.array([None if value is None else str(value) for value in values], pa.string())
    return pa.array([None if value is None or value == "" else makers[feature.type](value) for value in values], types[feature.type])


def _number(value: Any) -> float | None:
    """The shortest number that is this 32-bit float: 0.1, not 0.10000000149; a text (a truth) as it is."""
    try:
        number = float(value) if isinstance(value, str) else float(str(np.float32(value)))
    except ValueError:
        return None
    return number if np.isfinite(number) else None


def _whole(value: Any) -> int | None:
    number = _number(value) if isinstance(value, str) else float(value)
    return int(number) if number is not None and number.is_integer() else None


def _boolean(value: Any) -> bool:
    return value.strip().lower() in _TRUE if isinstance(value, str) else bool(value)


def _moment(value: Any) -> datetime | None:
    number = _number(value)
    return None if number is None else (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=number)).replace(tzinfo=None)
