"""Reading a version: its card, and its rows by row group, with bounded memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from infra.artifacts import Artifact, Manifest, fetch_file, find, read_file, read_manifest
from infra.datasets.card import SPLITS, Card, DatasetRef
from infra.errors import DatasetNotFoundError
from infra.store import Store, open_store

CARD = "card.json"


@dataclass(frozen=True)
class RowGroup:
    """A part of a split that is read at once: a few megabytes. A plain value, so it may go to Dask workers."""

    shard: str
    index: int
    num_rows: int
    split: str


class Dataset:
    """One version in a store. Safe for several threads, and pickles by its reference."""

    def __init__(self, store: Store, card: Card, artifact: Artifact, manifest: Manifest, cache_dir: Path) -> None:
        self.store, self.card, self.cache_dir = store, card, cache_dir
        self._artifact, self._manifest = artifact, manifest
        self._footers: dict[str, pq.FileMetaData] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.store.uri, self.ref, self.cache_dir)

    def __repr__(self) -> str:
        return f"Dataset({self.card.name or self.card.digest[:12]}, {self.card.num_rows})"

    @property
    def ref(self) -> DatasetRef:
        return self.card.ref

    def num_rows(self, split: str) -> int:
        return self.card.num_rows.get(split, 0)

    def row_groups(self, split: str) -> list[RowGroup]:
        """All row groups of a split (``train``, ``valid``, ``test``), in order."""
        if split not in SPLITS:
            raise ValueError(f"{split!r} is not a split; splits are {', '.join(SPLITS)}")
        shards = [shard for shard in self.card.shards if shard.split == split]
        return [RowGroup(shard.file, index, rows, split) for shard in shards for index, rows in enumerate(shard.row_groups)]

    def read(self, row_group: RowGroup, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of one row group.

        Args:
            row_group: one of ``row_groups``.
            columns: only these, in this order.

        Raises:
            CorruptArtifactError: the file is not what was written; it is named.
        """
        path = self.local_shard(row_group.shard)
        with self._lock:
            footer = self._footers.get(row_group.shard)
        with pq.ParquetFile(path, metadata=footer, pre_buffer=False) as file:
            with self._lock:
                self._footers.setdefault(row_group.shard, file.metadata)
            return file.read_row_group(row_group.index, columns=list(columns) if columns is not None else None)

    def local_shard(self, file: str) -> Path:
        """A shard as a verified local file: the store's own, or a copy in the cache."""
        return fetch_file(self.store, self._artifact, self._manifest, file, self.cache_dir)

    def iter_tables(self, split: str, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """All row groups of a split, one after the other."""
        for row_group in self.row_groups(split):
            yield self.read(row_group, columns)


def open_dataset(store: Store, ref: DatasetRef, cache_dir: Path) -> Dataset:
    """Open a version.

    Raises:
        DatasetNotFoundError, CorruptArtifactError
    """
    artifact = find(store, ref.key)
    if artifact is None:
        raise DatasetNotFoundError(ref.name or ref.digest[:16], [])
    card = read_card(store, artifact)
    if ref.name and ref.name != card.name:
        card = card.model_copy(update={"name": ref.name})
    return Dataset(store, card, artifact, read_manifest(store, artifact), cache_dir)


def read_card(store: Store, artifact: Artifact) -> Card:
    return Card.model_validate_json(read_file(store, artifact, CARD))


def _reopen(uri: str, ref: DatasetRef, cache_dir: Path) -> Dataset:
    return open_dataset(open_store(uri), ref, cache_dir)
