"""Writing a version's Parquet files: bounded row groups, bounded files."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from infra.datasets.card import SPLITS, Shard

SHARD_BYTES = 128 << 20


class ShardWriter:
    """Files ``<split>-00000.parquet`` of one split; what is added is cut into row groups of ``rows_per_group``, fewer if ``group_bytes`` are reached."""

    def __init__(self, folder: Path, split: str, schema: pa.Schema, rows_per_group: int, group_bytes: int) -> None:
        self.shards: list[Shard] = []
        self._folder, self._split, self._schema, self._rows = folder, split, schema, rows_per_group
        self._pending: list[pa.Table] = []
        self._num_pending = 0
        self._pending_bytes = 0
        self._group_bytes = group_bytes
        self._writer: pq.ParquetWriter | None = None
        self._path = folder
        self._groups: list[int] = []
        self._written = 0

    def add(self, table: pa.Table) -> None:
        """Rows in the order in which they shall lie."""
        while table.num_rows:
            part = table.slice(0, self._rows - self._num_pending)
            table = table.slice(part.num_rows)
            if self._num_pending and self._pending_bytes + part.nbytes > self._group_bytes:
                self.flush()
            self._pending.append(part)
            self._num_pending += part.num_rows
            self._pending_bytes += part.nbytes
            if self._num_pending >= self._rows:
                self.flush()

    def flush(self) -> None:
        """End the row group."""
        if not self._num_pending:
            return
        table = pa.concat_tables(self._pending)
        self._pending, self._num_pending, self._pending_bytes = [], 0, 0
        if self._writer is None:
            self._path = self._folder / f"{self._split}-{len(self.shards):05d}.parquet"
            media = [field.name for field in self._schema if pa.types.is_binary(field.type)]  # compressed and unique already
            others = [field.name for field in self._schema if field.name not in media]
            compression = {**dict.fromkeys(media, "NONE"), **dict.fromkeys(others, "ZSTD")}
            self._writer = pq.ParquetWriter(
                self._path, self._schema, compression=compression, use_dictionary=others or False, write_statistics=others or False
            )
        self._writer.write_table(table, row_group_size=table.num_rows)
        self._groups.append(table.num_rows)
        self._written += table.nbytes
        if self._written >= SHARD_BYTES:
            self._end_shard()

    def _end_shard(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self.shards.append(Shard(file=self._path.name, split=self._split, row_groups=self._groups, num_bytes=self._path.stat().st_size))
            self._writer, self._groups, self._written = None, [], 0

    def close(self) -> list[Shard]:
        """Write what is left; all shards of the split."""
        self.flush()
        self._end_shard()
        return self.shards


def rows_per_group(num_rows: int, most: int, fewest: int) -> int:
    """Rows of a row group: at most ``most``, and so many groups (8 or more) that a few ranks have something to share."""
    return max(min(fewest, most), min(most, -(-num_rows // 8)))


def shard_writers(
    folder: Path, schema: pa.Schema, num_rows: dict[str, int], most: int, fewest: int, group_bytes: int
) -> dict[str, ShardWriter]:
    """One writer for each split."""
    rows = {split: rows_per_group(num_rows.get(split, 0), most, fewest) for split in SPLITS}
    return {split: ShardWriter(folder, split, schema, rows[split], group_bytes) for split in SPLITS}
