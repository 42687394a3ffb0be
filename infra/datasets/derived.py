"""Versions made from versions: some samples left out, or changed and added to. The parent is never touched."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from infra import artifacts
from infra.datasets.card import SPLITS, Card, DatasetRef, Feature, Lineage, Shard
from infra.datasets.dataset import Dataset, open_dataset
from infra.datasets.images import GROUP_BYTES, GROUP_ROWS, SCHEMA
from infra.datasets.importer import now, publish_version, scratch_folder
from infra.datasets.shards import shard_writers
from infra.datasets.tables import ROW, class_names
from infra.settings import load_settings
from infra.store import Store

Rows = Iterable[tuple[str, pa.Table]]
_HEAD = b"atelier derived data set 1\n"


def derive(
    store: Store, parent: DatasetRef, drop: Collection[str] | Collection[int], operation: str, details: dict[str, Any]
) -> DatasetRef:
    """A version without some samples; splits and labels of the others stay as they are.

    Args:
        store: where the parent is.
        parent: the version to start from; its name is the new one's too, though the name itself keeps its meaning.
        drop: sample ids: ``path`` of pictures, ``_row`` of table rows.
        operation: for the lineage, such as ``quarantine``.
        details: for the lineage: JSON values; not part of the digest.

    Returns:
        The new version; the parent itself if nothing is to be dropped.
    """
    if not drop:
        return parent
    ids = sorted(set(drop))  # type: ignore[type-var]
    id_column = "path" if parent.kind == "image" else ROW
    dropped = pa.array(ids, pa.string() if parent.kind == "image" else pa.int64())

    def kept(data: Dataset) -> Rows:
        for split in SPLITS:
            for rows in data.iter_tables(split):
                yield split, rows.filter(pc.invert(pc.is_in(rows.column(id_column), dropped)))

    what = {"parent": parent.digest, "operation": operation, "drop": ids}
    ref = _named(parent, what)
    if artifacts.find(store, ref.key) is not None:
        return ref
    data = open_dataset(store, parent, load_settings().cache_path)
    return _write(store, data, ref, kept(data), data.card.features, operation, {"num_dropped": len(ids), **details})


def find_rewritten(store: Store, parent: DatasetRef, operation: str, recipe: dict[str, Any]) -> DatasetRef | None:
    """The version that ``rewrite`` made of a parent by the same recipe, if it is there."""
    ref = _named(parent, {"parent": parent.digest, "operation": operation, "recipe": recipe})
    return ref if artifacts.find(store, ref.key) is not None else None


def rewrite(
    store: Store,
    parent: DatasetRef,
    operation: str,
    recipe: dict[str, Any],
    rows: Rows,
    details: dict[str, Any],
    *,
    features: Sequence[Feature] | None = None,
    relabelled: bool = False,
) -> DatasetRef:
    """A version with other rows.

    Args:
        store: where the parent is.
        parent: the version to start from.
        operation: for the lineage, such as ``repair`` or ``augment``.
        recipe: JSON value that names the new content: the same parent, operation and recipe must always give the same rows.
        rows: split and rows, all of them, with the parent's columns; consumed once.
        details: for the lineage: JSON values; not part of the digest.
        features: where types of columns changed.
        relabelled: the classes are those of the new rows, not the parent's.
    """
    ref = _named(parent, {"parent": parent.digest, "operation": operation, "recipe": recipe})
    data = open_dataset(store, parent, load_settings().cache_path)
    return _write(store, data, ref, rows, features or data.card.features, operation, details, relabelled=relabelled)


def _named(parent: DatasetRef, what: dict[str, Any]) -> DatasetRef:
    digest = hashlib.sha256(_HEAD + json.dumps(what, sort_keys="recipe" in what).encode()).hexdigest()
    return DatasetRef(digest=digest, name=parent.name, kind=parent.kind)


def _write(
    store: Store,
    data: Dataset,
    ref: DatasetRef,
    rows: Rows,
    features: Sequence[Feature],
    operation: str,
    details: dict[str, Any],
    *,
    relabelled: bool = False,
) -> DatasetRef:
    with scratch_folder(store) as folder:
        writer = _Writer(data.card, folder)
        for split, some in rows:
            writer.add(split, some)
        shards = writer.close()
        classes = writer.found_classes() if relabelled else data.card.classes
        card = data.card.model_copy(
            update={
                "digest": ref.digest,
                "features": [feature.model_copy(update={"nulls": writer.nulls[feature.name]}) for feature in features],
                "classes": classes,
                "counts": writer.counts(classes),
                "num_rows": writer.num_rows,
                "shards": shards,
                "num_bytes": sum(shard.num_bytes for shard in shards),
                "lineage": Lineage(operation=operation, parents=[data.ref.digest], details=details),
                "source": data.card.source.model_copy(update={"imported_at": now()}),
            }
        )
        publish_version(store, folder, card)
    return ref


class _Writer:
    """Writes and counts rows."""

    def __init__(self, card: Card, folder: Path) -> None:
        self.card = card
        self.num_rows = dict.fromkeys(SPLITS, 0)
        self.nulls: Counter[str] = Counter()
        self._found: dict[str, Counter[str]] = {split: Counter() for split in SPLITS}
        self._folder = folder
        self._writers: dict[str, Any] = {}

    def add(self, split: str, rows: pa.Table) -> None:
        image = self.card.kind == "image"
        if not self._writers:
            most, fewest, size = (GROUP_ROWS, 32, GROUP_BYTES) if image else (100_000, 1000, 64 << 20)
            self._writers = shard_writers(self._folder, SCHEMA if image else rows.schema, self.card.num_rows, most, fewest, size)
        self._writers[split].add(rows)
        self.num_rows[split] += rows.num_rows
        for name in rows.column_names:
            self.nulls[name] += rows.column(name).null_count
        if image:
            labels = pc.value_counts(rows.column("label")).to_pylist()
            self._found[split].update({self.card.classes[entry["values"]]: entry["counts"] for entry in labels})
        elif self.card.classes:
            labels = pc.value_counts(class_names(rows.column(self.card.target))).to_pylist()
            self._found[split].update({entry["values"]: entry["counts"] for entry in labels if entry["values"] is not None})

    def found_classes(self) -> list[str]:
        return sorted(set().union(*self._found.values()))

    def counts(self, classes: Sequence[str]) -> dict[str, dict[str, int]]:
        if not classes:
            return {split: {"": self.num_rows[split]} for split in SPLITS}
        return {split: {name: self._found[split][name] for name in classes} for split in SPLITS}

    def close(self) -> list[Shard]:
        return [shard for writer in self._writers.values() for shard in writer.close()]
