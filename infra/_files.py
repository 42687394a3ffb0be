"""Keys and local files: what the stores have in common."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from infra.errors import AtelierError, StoreAccessError, StoreUnavailableError

STAGING = ".staging"
CHUNK = 4 << 20  # bytes moved at a time


def check_key(key: str, *, prefix: bool = False) -> str:
    """The key itself, if it is one; callers make keys, so a bad one is our own mistake."""
    parts = key.split("/")
    if prefix and not parts[-1]:
        parts.pop()
    if not all(parts) or not {".", ".."}.isdisjoint(parts) or "\0" in key or parts[:1] == [STAGING] or (not parts and not prefix):
        raise ValueError(
            f"{key!r} is not a key: keys are relative, separated by '/', without empty parts, '.', '..' and not below {STAGING!r}"
        )
    return key


@contextmanager
def published_file(path: Path) -> Iterator[BinaryIO]:
    """A new file that appears under its name when it is whole and on disk.

    Raises:
        StoreAccessError: the disk is full, the folder cannot be written to.
    """
    staged = path.with_name(f".{path.name[:80]}~{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with staged.open("xb") as target:
                yield target
                target.flush()
                os.fsync(target.fileno())
            staged.replace(path)
        finally:
            staged.unlink(missing_ok=True)
    except AtelierError:
        raise
    except OSError as error:
        raise folder_error(str(path.parent), error) from error


def save(source: BinaryIO, path: Path) -> None:
    """Write a stream to a local file, published there atomically."""
    with published_file(path) as target:
        shutil.copyfileobj(source, target, CHUNK)


def folder_error(store: str, error: OSError) -> StoreAccessError | StoreUnavailableError:
    """An operating system's error about a folder in our words: what the user must mend, or a fault that may pass."""
    why = f"{error.strerror or error}" + (f" ({error.filename})" if error.filename else "")
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return StoreAccessError(
            store, why, "The disk is full: free some space, or set ATELIER_WORKSPACE to a folder on another disk, and run it again."
        )
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return StoreAccessError(store, why, "Make the folder writable, or set ATELIER_WORKSPACE to one that is.")
    if error.errno in (errno.EEXIST, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EINVAL, errno.ELOOP):
        return StoreAccessError(store, why, "Set ATELIER_WORKSPACE to a folder that can be written.")
    return StoreUnavailableError(store, why)


def write_synced(path: Path, source: BinaryIO) -> None:
    with path.open("xb") as target:
        shutil.copyfileobj(source, target, CHUNK)
        target.flush()
        os.fsync(target.fileno())


def sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
