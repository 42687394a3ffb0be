"""Rows made of rows, on a worker: noisy copies, or rows between neighbours (SMOTE), for a new version of a table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from infra.datasets.tables import ROW, class_names
from infra.errors import InvalidOptionError
from tasks._look import open_here

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from infra.datasets.card import DatasetRef
    from infra.datasets.dataset import Dataset

ROW_POLICIES = ("noise", "smote")
NOISE_SIGMA = 0.1  # standard deviations of a column
_NEIGHBOURS = 5


def rows_task(uri: str, ref: DatasetRef, cache: Path, policy: str, wanted: Mapping[str, int], seed: int) -> pa.Table:
    """New training rows, ``wanted`` of each class (of '' where there are none)."""
    dataset = open_here(uri, ref, cache)
    table = pa.concat_tables(dataset.iter_tables("train"))
    make = _between if policy == "smote" else _noisy
    return _numbered(make(table, dataset.card.target, wanted, np.random.default_rng(seed), seed), dataset)


def _numbered(table: pa.Table, dataset: Dataset) -> pa.Table:
    """Row numbers go on where the version's end."""
    last = max(int(part.column(ROW).to_numpy().max()) for split in ("train", "valid", "test") for part in dataset.iter_tables(split, [ROW]))
    place = table.column_names.index(ROW)
    return table.set_column(place, table.schema.field(ROW), pa.array(np.arange(last + 1, last + 1 + table.num_rows)))


def _labels(table: pa.Table, target: str | None, wanted: Mapping[str, int]) -> NDArray[Any]:
    if not target or set(wanted) == {""}:
        return np.full(table.num_rows, "", dtype=object)
    return np.asarray(class_names(table.column(target)).to_pylist(), dtype=object)


def _numbers(table: pa.Table, target: str | None) -> list[str]:
    """Columns of numbers that may vary a little."""
    return [field.name for field in table.schema if field.name not in (ROW, target) and field.type in (pa.int64(), pa.float64())]


def _drawn(labels: NDArray[Any], wanted: Mapping[str, int], rng: np.random.Generator) -> NDArray[np.int64]:
    """Rows to start from: every row of a class in turn, in an order of chance."""
    parts = []
    for name, count in sorted(wanted.items()):
        rows = np.flatnonzero(labels == name)
        if len(rows) and count:
            parts.append(np.resize(rng.permutation(rows), count))
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def _noisy(table: pa.Table, target: str | None, wanted: Mapping[str, int], rng: np.random.Generator, seed: int) -> pa.Table:
    """Copies with Gaussian noise on numbers; whole numbers stay whole, missing ones missing."""
    copies = table.take(pa.array(_drawn(_labels(table, target, wanted), wanted, rng)))
    for name in _numbers(table, target):
        column, whole = copies.column(name), table.schema.field(name).type == pa.int64()
        spread = float(np.nanstd(_values(table, name)))
        values = _values(copies, name) + rng.standard_normal(len(copies)) * spread * NOISE_SIGMA
        copies = _replaced(copies, name, values, np.asarray(column.is_null()), whole=whole)
    return copies


def _between(table: pa.Table, target: str | None, wanted: Mapping[str, int], rng: np.random.Generator, seed: int) -> pa.Table:
    """SMOTE (Chawla et al., arXiv 1106.1813) on the columns of numbers; everything else, and what is missing, is the nearest row's.

    Raises:
        InvalidOptionError: no columns of numbers, or a class with a single row.
    """
    from imblearn.over_sampling import SMOTE  # type: ignore[import-untyped]
    from sklearn.neighbors import NearestNeighbors

    names, labels = _numbers(table, target), _labels(table, target, wanted)
    counts = {name: int((labels == name).sum()) for name in wanted}
    alone = [name for name, count in wanted.items() if count and counts[name] < 2]
    problems = [f"smote: class {name!r} has one training row, and a new one lies between two" for name in alone]
    if not names:
        problems.append("smote: there is no column of numbers")
    if problems:
        raise InvalidOptionError("augmentation", problems, "Use noise, or leave the class out.")
    matrix = np.stack([_values(table, name) for name in names], axis=1)
    centre, spread = np.nanmean(matrix, axis=0), np.nanstd(matrix, axis=0)
    scale = np.where(spread > 0, spread, 1.0)
    scaled = np.where(np.isnan(matrix), 0.0, (matrix - centre) / scale)
    there = np.array([label is not None for label in labels])
    goal = {name: counts[name] + count for name, count in wanted.items() if count}
    least = min(counts[name] for name in goal)
    sampler = SMOTE(sampling_strategy=goal, random_state=seed, k_neighbors=min(_NEIGHBOURS, least - 1))
    grown, grown_labels = sampler.fit_resample(scaled[there], labels[there].astype(str))
    new, new_labels = grown[int(there.sum()) :], grown_labels[int(there.sum()) :]
    nearest = np.zeros(len(new), np.int64)
    for name in goal:
        rows = np.flatnonzero(labels == name)
        found = NearestNeighbors(n_neighbors=1).fit(scaled[rows]).kneighbors(new[new_labels == name], return_distance=False)
        nearest[new_labels == name] = rows[found[:, 0]]
    copies = table.take(pa.array(nearest))
    for column, name in enumerate(names):
        missing, whole = np.asarray(copies.column(name).is_null()), table.schema.field(name).type == pa.int64()
        copies = _replaced(copies, name, new[:, column] * scale[column] + centre[column], missing, whole=whole)
    return copies


def _values(table: pa.Table, name: str) -> NDArray[np.float64]:
    """A column of numbers, missing ones as NaN: float64 [N]."""
    found: NDArray[np.float64] = table.column(name).cast(pa.float64(), safe=False).to_numpy().astype(np.float64)
    return found


def _replaced(table: pa.Table, name: str, values: NDArray[np.float64], missing: NDArray[np.bool_], *, whole: bool) -> pa.Table:
    if whole:
        column = pa.array(np.where(missing, 0, np.round(values)).astype(np.int64), mask=missing)
    else:
        column = pa.array(values, mask=missing)
    return table.set_column(table.column_names.index(name), table.schema.field(name), column)
