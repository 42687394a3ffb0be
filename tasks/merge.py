"""Merge: the next version of a data set, all that a model was trained on and what came since."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field

from infra.context import StageContext
from infra.datasets import names
from infra.datasets.card import SPLITS, Card, DatasetRef
from infra.datasets.dataset import Dataset, open_dataset
from infra.datasets.derived import find_rewritten, rewrite
from infra.errors import InvalidSourceError

_ROW = "_row"


class Merged(BaseModel):
    """The new version."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: DatasetRef
    num_added: int = Field(description="Rows that were not there before.")


def merge(old: DatasetRef, new: Sequence[DatasetRef], name: str, *, context: StageContext) -> Merged:
    """Old and new rows as one version, each in the split that it has; what is there already is not added again.

    Pictures are the same if their bytes are, rows if all their values are. Old rows keep their ids, so that a later comparison finds them.

    Args:
        old: what the live model was trained on; its classes are those of the new version.
        new: in the order in which they came.
        name: of the new version; it means the new version from now on.

    Raises:
        InvalidSourceError: other columns or classes, or another kind of data.
    """
    before = open_dataset(context.store, old, context.settings.cache_path)
    parts = [open_dataset(context.store, one, context.settings.cache_path) for one in new if one.digest != old.digest]
    for part in parts:
        check_fit(before.card, part.card)
    if not parts:
        return Merged(data=old, num_added=0)
    recipe = {"with": [part.card.digest for part in parts]}
    ref = find_rewritten(context.store, old, "merge", recipe)
    if ref is None:
        rows = _image_rows(before, parts) if old.kind == "image" else _table_rows(before, parts)
        ref = rewrite(context.store, old, "merge", recipe, rows, {"with": recipe["with"]})
    num_added = sum(open_dataset(context.store, ref, context.settings.cache_path).card.num_rows.values()) - sum(
        before.card.num_rows.values()
    )
    if num_added == 0:
        return Merged(data=old, num_added=0)
    ref = ref.model_copy(update={"name": name})
    names.record(context.store, ref, f"merged from {old.digest[:16]} and {', '.join(part.card.digest[:16] for part in parts)}")
    return Merged(data=ref, num_added=num_added)


def check_fit(old: Card, new: Card) -> None:
    """Raises:
    InvalidSourceError: the new data cannot be added to the old; all reasons at once.
    """
    problems = []
    if old.kind != new.kind:
        problems.append(f"it holds {new.kind}s, and the model was trained on {old.kind}s")
    elif old.kind == "image":
        if unknown := sorted(set(new.classes) - set(old.classes)):
            problems.append(f"the model does not know the classes {', '.join(unknown[:10])}")
    else:
        there = {feature.name for feature in new.features}
        if missing := [feature.name for feature in old.features if feature.name not in there]:
            problems.append(f"it has no column {', '.join(missing[:10])}")
    if problems:
        raise InvalidSourceError(new.name or new.digest[:16], problems, "Train a model of its own on it, with `atelier run`.")


def _image_rows(before: Dataset, parts: Sequence[Dataset]) -> Iterator[tuple[str, pa.Table]]:
    known: set[str] = set()
    for split in SPLITS:
        for rows in before.iter_tables(split):
            known.update(rows["sha256"].to_pylist())
            yield split, rows
    for part in parts:
        place = np.asarray([before.card.classes.index(name) for name in part.card.classes], np.int32)
        for split in SPLITS:
            for rows in part.iter_tables(split):
                fresh = [digest not in known for digest in rows["sha256"].to_pylist()]
                if not any(fresh):
                    continue
                rows = rows.filter(pa.array(fresh))
                known.update(rows["sha256"].to_pylist())
                paths = pa.array([f"added-{part.card.digest[:12]}/{path}" for path in rows["path"].to_pylist()])
                labels = pa.array(place[rows["label"].to_numpy()], pa.int32())
                yield split, pa.table({"path": paths, "sha256": rows["sha256"], "label": labels, "image": rows["image"]})


def _table_rows(before: Dataset, parts: Sequence[Dataset]) -> Iterator[tuple[str, pa.Table]]:
    columns = [feature.name for feature in before.card.features if feature.name != _ROW]
    known: set[int] = set()
    last, schema = -1, None
    for split in SPLITS:
        for rows in before.iter_tables(split):
            schema = rows.schema
            known.update(_hashes(rows, columns))
            if rows.num_rows:
                last = max(last, int(pc.max(rows[_ROW]).as_py()))
            yield split, rows
    for part in parts:
        for split in SPLITS:
            for rows in part.iter_tables(split, [*columns, _ROW]):
                marks = _hashes(rows, columns)
                rows = rows.filter(pa.array([mark not in known for mark in marks]))
                known.update(marks)
                if not rows.num_rows:
                    continue
                rows = rows.set_column(
                    rows.schema.get_field_index(_ROW), _ROW, pa.array(np.arange(last + 1, last + 1 + rows.num_rows), pa.int64())
                )
                last += rows.num_rows
                assert schema is not None, "a data set has rows"
                yield split, _cast(rows.select(schema.names), schema, part.card)


def _cast(rows: pa.Table, schema: pa.Schema, card: Card) -> pa.Table:
    try:
        return rows.cast(schema)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InvalidSourceError(card.name or card.digest[:16], [f"its columns have other types: {error}"]) from None


def _hashes(rows: pa.Table, columns: Sequence[str]) -> list[int]:
    """One number a row, the same for equal values (64 bits; among a billion rows one pair in 37 collides by chance)."""
    import pandas as pd

    if not rows.num_rows:
        return []
    frame: Any = rows.select(list(columns)).to_pandas()
    return [int(number) for number in pd.util.hash_pandas_object(frame, index=False)]
