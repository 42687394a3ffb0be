"""The object store: one small protocol over a folder, S3 and memory. Keys are ``/``-separated; no other module imports s3fs."""

from __future__ import annotations

import hashlib
import io
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, ClassVar, Protocol, runtime_checkable
from urllib.parse import unquote, urlsplit

from infra._files import check_key, folder_error, save
from infra._folder import FolderStore
from infra.errors import ArtifactNotFoundError, InvalidSettingError

__all__ = ["FolderStore", "MemoryStore", "Store", "folder_error", "open_store"]


@runtime_checkable
class Store(Protocol):
    """Bytes under keys. Every write is atomic: a reader sees the old bytes or the new, never a part.

    Stores hold nothing but their URI and pickle by it, so they may go to Dask workers and survive a fork.

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

    def states(self, prefix: str) -> Iterator[tuple[str, str]]:
        """As ``list``, each key with a short text that changes when its bytes are replaced."""
        ...

    def written(self, prefix: str) -> Iterator[tuple[str, int, float]]:
        """As ``list``, each key with its bytes and when it was written, seconds since 1970."""
        ...

    def delete(self, prefix: str) -> None:
        """Remove the key, or everything below the folder, of this name. Nothing there: no error."""
        ...

    def local_path(self, key: str) -> Path | None:
        """The file or folder itself, if the store is one on this machine."""
        ...


def open_store(uri: str) -> Store:
    """The store of a URI: ``s3://bucket/prefix``, ``memory://name``, or a folder (a path or ``file://``).

    Touches neither disk nor network: what is wrong with a store shows at its first use.
    """
    scheme = uri.split("://", 1)[0].lower() if "://" in uri else ""
    if scheme in ("s3", "s3a"):
        from infra._s3 import S3Store

        return S3Store(uri)
    if scheme == "memory":
        return MemoryStore(uri)
    if scheme == "file":
        return FolderStore(unquote(urlsplit(uri).path))
    if scheme:
        raise InvalidSettingError(
            [f"workspace: {uri!r} has the scheme {scheme!r}; allowed are a folder, file://, s3://bucket/prefix and memory://name"]
        )
    return FolderStore(uri)


class MemoryStore:
    """Bytes in a dictionary of this process, one for each name: for tests and trials."""

    _all: ClassVar[dict[str, dict[str, bytes]]] = {}
    _times: ClassVar[dict[str, dict[str, float]]] = {}
    _lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, uri: str) -> None:
        self._uri = uri

    @property
    def uri(self) -> str:
        return self._uri

    @property
    def _objects(self) -> dict[str, bytes]:
        return self._all.setdefault(self._uri, {})

    def __repr__(self) -> str:
        return f"MemoryStore({self._uri!r})"

    def read_bytes(self, key: str) -> bytes:
        try:
            return self._objects[check_key(key)]
        except KeyError:
            raise ArtifactNotFoundError(self._uri, key) from None

    def open(self, key: str) -> BinaryIO:
        return io.BytesIO(self.read_bytes(key))

    def write_bytes(self, key: str, data: bytes) -> None:
        self._objects[check_key(key)] = bytes(data)
        self._times.setdefault(self._uri, {})[key] = time.time()

    def create(self, key: str, data: bytes) -> bool:
        check_key(key)
        with self._lock:
            if key in self._objects:
                return False
            self.write_bytes(key, data)
            return True

    def put_file(self, path: Path, key: str) -> None:
        self.write_bytes(key, path.read_bytes())

    def get_file(self, key: str, path: Path) -> None:
        save(self.open(key), path)

    def exists(self, key: str) -> bool:
        return check_key(key) in self._objects

    def size(self, key: str) -> int:
        return len(self.read_bytes(key))

    def list(self, prefix: str) -> Iterator[str]:
        check_key(prefix, prefix=True)
        yield from sorted(key for key in tuple(self._objects) if key.startswith(prefix))

    def states(self, prefix: str) -> Iterator[tuple[str, str]]:
        for key in self.list(prefix):
            yield key, hashlib.sha256(self.read_bytes(key)).hexdigest()

    def written(self, prefix: str) -> Iterator[tuple[str, int, float]]:
        for key in self.list(prefix):
            yield key, len(self._objects[key]), self._times[self._uri][key]

    def delete(self, prefix: str) -> None:
        check_key(prefix)
        with self._lock:
            for key in [key for key in self._objects if key == prefix or key.startswith(prefix + "/")]:
                del self._objects[key]

    def local_path(self, key: str) -> Path | None:
        return None
