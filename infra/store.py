"""The object store: one small protocol over a folder, S3 and memory. Keys are ``/``-separated; no other module imports s3fs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol, runtime_checkable


@runtime_checkable
class Store(Protocol):
    """Bytes under keys. Every write is atomic: a reader sees the old bytes or the new, never a part.

    Raises, everywhere: ``ArtifactNotFoundError`` (no such key), ``StoreAccessError`` (credentials, permission, no space; at once),
    ``StoreUnavailableError`` (transient faults that outlasted the retries).
    """

    @property
    def uri(self) -> str: ...

    def read_bytes(self, key: str) -> bytes: ...

    def open(self, key: str) -> BinaryIO:
        """A seekable binary reader that fetches ranges, for Parquet."""
        ...

    def write_bytes(self, key: str, data: bytes) -> None:
        """Put or replace."""
        ...

    def create(self, key: str, data: bytes) -> bool:
        """Put only if nothing is there; whether it was put."""
        ...

    def put_file(self, path: Path, key: str) -> None:
        """Upload a local file (streamed, bounded memory)."""
        ...

    def get_file(self, key: str, path: Path) -> None:
        """Download to a local file, published there atomically."""
        ...

    def exists(self, key: str) -> bool: ...

    def size(self, key: str) -> int:
        """Bytes."""
        ...

    def list(self, prefix: str) -> Iterator[str]:
        """All keys that begin with ``prefix``, sorted; unfinished writes are not shown."""
        ...

    def delete(self, prefix: str) -> None:
        """Remove the key, or everything below the folder, of this name. Nothing there: no error."""
        ...

    def local_path(self, key: str) -> Path | None:
        """The file or folder itself, if the store is one on this machine."""
        ...


def open_store(uri: str) -> Store:
    """The store of a URI: ``s3://bucket/prefix``, ``memory://name``, or a folder (a path or ``file://``)."""
    raise NotImplementedError  # H1
