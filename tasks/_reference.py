"""What a model learned from, as the model gets it, and what it says about the test split: what served requests are compared with.

Made once for a package, on the cluster, and kept as ``monitor/references/<package digest>.parquet``: the captured columns of a sample of the
train and the test split, and the column ``split``.
"""

from __future__ import annotations

import io
import math
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from infra.artifacts import Artifact, fetch
from infra.context import StageContext
from infra.datasets.card import DatasetRef
from infra.datasets.dataset import Dataset, RowGroup, open_dataset
from infra.store import open_store
from tasks._fan_out import in_order

if TYPE_CHECKING:
    from algorithms.package import Package

FORMAT = 1
MOST_PICTURES, MOST_ROWS = 2_000, 10_000  # of each split
INPUT = "input."
PICTURE_COLUMNS = ("brightness", "contrast", "width", "height")


def reference(package: Artifact, data: DatasetRef, *, context: StageContext) -> pa.Table:
    """The table for a package that was trained on ``data``.

    Raises:
        DatasetNotFoundError: the data is not in this workspace.
    """
    key = f"monitor/references/{package.digest[:40]}-{FORMAT}.parquet"
    if not context.fresh and context.store.exists(key):
        return pq.read_table(io.BytesIO(context.store.read_bytes(key)))
    dataset = open_dataset(context.store, data, context.settings.cache_path)
    most = MOST_PICTURES if dataset.card.kind == "image" else MOST_ROWS
    calls, sizes = [], []
    for split in ("train", "test"):
        stride, before = max(1, -(-dataset.num_rows(split) // most)), 0
        for group in dataset.row_groups(split):
            calls.append((context.store.uri, dataset.ref, dataset.cache_dir, package, group, before, stride))
            sizes.append(group.num_rows)
            before += group.num_rows
    table = pa.concat_tables(in_order(context, _reference_task, calls, sizes, phase="reference", retries=1))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    context.store.write_bytes(key, sink.getvalue().to_pybytes())
    return table


@lru_cache(maxsize=2)
def _open_data(uri: str, ref: DatasetRef, cache: Path) -> Dataset:
    return open_dataset(open_store(uri), ref, cache)


@lru_cache(maxsize=2)
def open_package(folder: str) -> Package:
    from algorithms.package import Package

    return Package.load(folder, providers=["CPUExecutionProvider"], threads=1, verify=False)


def _reference_task(uri: str, ref: DatasetRef, cache: Path, package: Artifact, group: RowGroup, before: int, stride: int) -> pa.Table:
    """On a worker: every ``stride``-th row of a split that has ``before`` rows in front of this group."""
    model = open_package(str(fetch(open_store(uri), package, cache)))
    rows = _open_data(uri, ref, cache).read(group)
    rows = rows.take([row for row in range(rows.num_rows) if (before + row) % stride == 0])
    columns, outputs = _pictures(model, rows) if model.is_image else _rows(model, rows)
    if model.output == "value":
        columns["value"] = pa.array(outputs, pa.float64())
    else:
        best = [max(range(len(scores)), key=scores.__getitem__) for scores in outputs]
        columns["label"] = pa.array([model.labels[index] for index in best], pa.string())
        columns["confidence"] = pa.array([scores[index] for scores, index in zip(outputs, best, strict=True)], pa.float64())
    columns["split"] = pa.array([group.split] * len(outputs), pa.string())
    return pa.table(columns)


def _pictures(model: Package, rows: pa.Table) -> tuple[dict[str, Any], list[Any]]:
    from algorithms._package_images import decode_picture

    measured: dict[str, list[float]] = {name: [] for name in PICTURE_COLUMNS}
    outputs: list[Any] = []
    images = rows.column("image")
    for index in range(rows.num_rows):  # one at a time: pictures may be large
        try:
            pixels = decode_picture(images[index].as_py() or b"")
        except OSError:
            continue  # validation has told of it; the server refuses such a picture, too
        outputs += model.predict_arrays([pixels]).tolist()
        for name, value in zip(PICTURE_COLUMNS, (pixels.mean(), pixels.std(), pixels.shape[1], pixels.shape[0]), strict=True):
            measured[name].append(float(value))
    return {name: pa.array(values, pa.float64()) for name, values in measured.items()}, outputs


def _rows(model: Package, rows: pa.Table) -> tuple[dict[str, Any], list[Any]]:
    from algorithms._package_tables import UnusableInputError, convert_row, stack_rows

    ready = []
    for row in rows.to_pylist():
        try:
            ready.append(convert_row(row, model.columns, model.description["inputs"]))
        except UnusableInputError:
            continue  # as above
    outputs = model.predict_arrays(stack_rows(ready, model.columns), batch_size=256).tolist() if ready else []
    columns: dict[str, Any] = {}
    for index, (name, kind) in enumerate(model.columns):
        values = [row[index] for row in ready]
        if kind == "string":
            columns[INPUT + name] = pa.array([value or None for value in values], pa.string())
        else:
            columns[INPUT + name] = pa.array([None if math.isnan(value) else float(value) for value in values], pa.float64())
    return columns, outputs
