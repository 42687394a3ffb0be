"""What a package says about the samples of a split, with what is needed to look deeper; read once, with bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from algorithms.package import Package, decode_picture
from infra.datasets.dataset import Dataset, RowGroup

PICTURES_AT_ONCE = 64
ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class Scored:
    """Some samples of a split, in the split's order.

    Attributes:
        ids: as in ``predictions.parquet``.
        truth: int64 class indices in the order of the package's labels, or float64 numbers [N].
        outputs: scores [N, C] or values [N].
        properties: what slices are cut by: numbers float64 [N] or texts object [N].
        total: samples of the split, of which these were chosen by the seed.
        rows: of tables, what the package takes: its columns [N] each.
        table: of tables, the rows with all their columns.
    """

    ids: list[str]
    truth: NDArray[Any]
    outputs: NDArray[Any]
    properties: dict[str, NDArray[Any]]
    total: int
    rows: dict[str, NDArray[Any]] = field(default_factory=dict)
    table: pa.Table | None = None

    def __len__(self) -> int:
        return len(self.ids)


def choose(total: int, most: int, seed: int) -> NDArray[np.int64]:
    """At most ``most`` of ``total`` places, without bias, in order."""
    return np.arange(total) if total <= most else np.sort(np.random.default_rng(seed).permutation(total)[:most])


def iter_chosen(data: Dataset, split: str, places: NDArray[np.int64]) -> Iterator[tuple[RowGroup, NDArray[np.int64]]]:
    """The row groups that hold chosen places of a split, and the rows in them."""
    first = 0
    for group in data.row_groups(split):
        low, high = np.searchsorted(places, [first, first + group.num_rows])
        if low < high:
            yield group, places[low:high] - first
        first += group.num_rows


def iter_pictures(data: Dataset, split: str, places: NDArray[np.int64]) -> Iterator[tuple[str, NDArray[np.uint8], int]]:
    """Path, pixels uint8 [H, W, 3] and label of the chosen pictures, one after the other."""
    for group, rows in iter_chosen(data, split, places):
        table = data.read(group, ["path", "image", "label"]).take(pa.array(rows))
        for path, encoded, label in zip(table["path"], table["image"], table["label"], strict=True):
            yield path.as_py(), decode_picture(encoded.as_py()), label.as_py()


def score_pictures(
    package: Package, data: Dataset, split: str, places: NDArray[np.int64], tell: Callable[[int], None] = lambda done: None
) -> Scored:
    """Scores and properties of the pictures at the chosen places of a split."""
    from algorithms.analysis.properties import measure, stack_properties

    place_of_label = [package.labels.index(name) for name in data.card.classes]
    ids: list[str] = []
    truth: list[int] = []
    measured: list[dict[str, float]] = []
    outputs: list[NDArray[Any]] = []
    batch: list[NDArray[np.uint8]] = []
    for path, pixels, label in iter_pictures(data, split, places):
        ids.append(path)
        truth.append(place_of_label[label])
        measured.append(measure(pixels))
        batch.append(pixels)
        if len(batch) == PICTURES_AT_ONCE or len(ids) == len(places):
            outputs.append(package.predict_arrays(batch))
            batch = []
            tell(len(ids))
    scores = np.concatenate(outputs) if outputs else np.zeros((0, len(package.labels)), np.float32)
    return Scored(ids, np.asarray(truth, np.int64), scores, stack_properties(measured), data.num_rows(split))


def score_rows(package: Package, data: Dataset, split: str, places: NDArray[np.int64]) -> Scored:
    """Outputs of the chosen rows of a split that have a target, with all their columns."""
    from algorithms.tables.columns import ColumnPlan
    from algorithms.tables.target import ROW_ID, Target

    plan = ColumnPlan.model_validate(package.description["preprocessing"]["columns"])
    target = Target.model_validate(package.description["preprocessing"]["target"])
    names = [feature.name for feature in data.card.features if feature.name != ROW_ID]
    tables, truth = [], []
    for group, rows in iter_chosen(data, split, places):
        table = data.read(group, [ROW_ID, *names]).take(pa.array(rows))
        labels, there = target.read(table)
        tables.append(table.filter(pa.array(there)))
        truth.append(labels[there])
    table = (
        pa.concat_tables(tables).combine_chunks() if tables else pa.table({name: pa.array([], pa.string()) for name in [ROW_ID, *names]})
    )
    columns = plan.raw(table) if len(table) else {}
    outputs = package.predict_arrays(columns, batch_size=ROWS_AT_ONCE) if columns else np.zeros((0, max(len(target.classes), 1)))
    ids = [str(value) for value in table[ROW_ID].to_pylist()]
    properties = {name: _property(table[name]) for name in names if name != target.name}
    joined = np.concatenate(truth) if truth else np.zeros(0)
    return Scored(ids, joined, outputs, properties, data.num_rows(split), columns, table)


def _property(column: pa.ChunkedArray) -> NDArray[Any]:
    """Numbers float64 (missing: NaN), or texts (missing: ``""``)."""
    import pyarrow.types as kinds

    from algorithms.tables.columns import read_number, read_text

    if kinds.is_integer(column.type) or kinds.is_floating(column.type) or kinds.is_decimal(column.type):
        return read_number(column).astype(np.float64)
    if kinds.is_temporal(column.type):
        return np.array([value.isoformat()[:7] if value is not None else "" for value in column.to_pylist()], dtype=object)
    return np.array(read_text(column).to_pylist(), dtype=object)
