"""The column to predict: class names or a number, and how to read it from a table."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from algorithms.tables.config import TableConfig
from infra.datasets.card import Card
from infra.datasets.tables import class_names
from infra.errors import InvalidOptionError

ROW_ID = "_row"
MAX_CLASSES = 1000
RESERVED = {True: "value", False: "scores"}


class Target(BaseModel):
    """What is predicted. ``classes`` are sorted and empty for numbers, which are learned as (y - mean) / std."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    classes: list[str]
    mean: float = 0.0
    std: float = 1.0

    @property
    def is_class(self) -> bool:
        return bool(self.classes)

    @property
    def num_outputs(self) -> int:
        """Values that describe a row's target on average: shares of classes (of the second, if there are two), or the mean."""
        return len(self.classes) if len(self.classes) > 2 else 1

    def read(self, table: pa.Table) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """The target of each row, and whether it is there: int64 class indices or float64 numbers in the target's unit [N], bool [N]."""
        column = table[self.name]
        if not self.is_class:
            numbers = column.combine_chunks().cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
            return numbers, np.isfinite(numbers)
        codes = pc.index_in(label_text(column), value_set=pa.array(self.classes, pa.string()))
        return codes.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64), ~codes.is_null().to_numpy(zero_copy_only=False)

    def standardize(self, values: NDArray[Any]) -> NDArray[np.float64]:
        return (np.asarray(values, np.float64) - self.mean) / self.std

    def restore(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Standardised values [N] in the target's unit."""
        return np.asarray(values, np.float64) * self.std + self.mean


def label_text(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """Class names of a column, as on the data set's card; missing stays null."""
    return class_names(column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column)


def check_columns(config: TableConfig, card: Card, *, regression: bool) -> None:
    """Compare the options with the table's columns, before any row is read.

    Raises:
        InvalidOptionError: all faults at once.
    """
    types = {feature.name: feature.type for feature in card.features if feature.name != ROW_ID}
    problems = [f"{option}: there is no column {name!r}{_nearest(name, types)}" for option, name in _named(config) if name not in types]
    if config.target in config.features:
        problems.append(f"features: {config.target!r} is the target; it cannot be a feature too")
    if config.target in config.drop:
        problems.append(f"drop: {config.target!r} is the target; it cannot be left out")
    if both := sorted(set(config.features) & set(config.drop)):
        problems.append(f"features, drop: {', '.join(map(repr, both))} in both")
    kind = types.get(config.target)
    if regression and kind in ("string", "datetime"):
        problems.append(f"target: {config.target!r} is of type {kind}; a regression needs a number (classes: tabular-classification)")
    if not regression and kind == "datetime":
        problems.append(f"target: {config.target!r} is a date; classes are text, whole numbers or booleans")
    reserved = RESERVED[regression]
    if (
        reserved in types
        and reserved != config.target
        and reserved not in config.drop
        and (not config.features or reserved in config.features)
    ):
        problems.append(f"features: the name {reserved!r} is that of the model's output; rename the column or drop it")
    if problems:
        raise InvalidOptionError("this table", problems, f"Columns: {', '.join(list(types)[:50])}{', ...' if len(types) > 50 else ''}.")


def _named(config: TableConfig) -> Iterable[tuple[str, str]]:
    yield "target", config.target
    yield from (("features", name) for name in config.features)
    yield from (("drop", name) for name in config.drop)


def _nearest(name: str, known: Iterable[str]) -> str:
    folded = {key.lower(): key for key in known}
    near = [folded[key] for key in difflib.get_close_matches(name.lower(), list(folded), n=3, cutoff=0.5)]
    return f" (nearest: {', '.join(near)})" if near else ""
