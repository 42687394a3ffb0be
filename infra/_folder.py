"""A store in a folder of a local or shared file system."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import io
import os
import shutil
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from infra._files import CHUNK, STAGING, check_key, folder_error, save, sync_file, sync_folder, write_synced
from infra.errors import ArtifactNotFoundError, AtelierError, StoreAccessError

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # <fcntl.h>, <linux/fs.h>
_CONTENT = "content"  # in each folder below STAGING
_swept: set[tuple[int, str]] = set()


class FolderStore:
    """Files below a folder. What is being written lies in ``.staging`` on the same file system and is renamed into place when it is on disk."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).expanduser().absolute()

    @property
    def uri(self) -> str:
        return str(self.root)

    def __repr__(self) -> str:
        return f"FolderStore({self.uri!r})"

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)

    @contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        """The operating system's errors in our words."""
        try:
            yield
        except AtelierError:
            raise
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise ArtifactNotFoundError(self.uri, key) from error
        except OSError as error:
            raise folder_error(self.uri, error) from error

    @contextmanager
    def _write_errors(self) -> Iterator[None]:
        """As ``_errors``, but a folder that is not there is no missing key: it could not be made."""
        try:
            yield
        except AtelierError:
            raise
        except OSError as error:
            raise folder_error(self.uri, error) from error

    def read_bytes(self, key: str) -> bytes:
        with self._errors(key):
            return self._path(key).read_bytes()

    def open(self, key: str) -> BinaryIO:
        with self._errors(key):
            return self._path(key).open("rb")

    def write_bytes(self, key: str, data: bytes) -> None:
        self._write(key, io.BytesIO(data))

    def create(self, key: str, data: bytes) -> bool:
        target = self._path(key)
        with self._write_errors(), self._staged() as staged:
            write_synced(staged, io.BytesIO(data))
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(staged, target)  # unlike a rename, a link fails if the name is taken
            except FileExistsError:
                return False
            sync_folder(target.parent)
            return True

    def put_file(self, path: Path, key: str) -> None:
        with path.open("rb") as source:
            self._write(key, source)

    def _write(self, key: str, source: BinaryIO) -> None:
        target = self._path(key)
        with self._write_errors(), self._staged() as staged:
            write_synced(staged, source)
            target.parent.mkdir(parents=True, exist_ok=True)
            staged.replace(target)
            sync_folder(target.parent)

    def get_file(self, key: str, path: Path) -> None:
        with self.open(key) as source:
            save(source, path)

    def exists(self, key: str) -> bool:
        with self._errors(key):
            return self._path(key).is_file()

    def size(self, key: str) -> int:
        with self._errors(key):
            path = self._path(key)
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, key)
            return path.stat().st_size

    def list(self, prefix: str) -> Iterator[str]:
        check_key(prefix, prefix=True)
        if self.root.exists() and not self.root.is_dir():
            raise StoreAccessError(self.uri, "it is a file, not a folder", "Set ATELIER_WORKSPACE to a folder or to s3://bucket/prefix.")
        folder = prefix.rpartition("/")[0]
        found: list[str] = []
        with self._errors(prefix):
            for parent, folders, files in os.walk(self.root / folder):
                relative = os.path.relpath(parent, self.root).replace(os.sep, "/")
                start = "" if relative == "." else relative + "/"
                if not start:
                    folders[:] = [name for name in folders if name != STAGING]
                folders[:] = [name for name in folders if (start + name + "/").startswith(prefix) or prefix.startswith(start + name + "/")]
                found += [start + name for name in files if (start + name).startswith(prefix)]
        yield from sorted(found)

    def states(self, prefix: str) -> Iterator[tuple[str, str]]:
        for key in self.list(prefix):
            with self._errors(key):
                status = self._path(key).stat()
                yield key, f"{status.st_size} {status.st_ino} {status.st_mtime_ns} {status.st_ctime_ns}"

    def written(self, prefix: str) -> Iterator[tuple[str, int, float]]:
        for key in self.list(prefix):
            try:
                status = self._path(key).stat()
            except FileNotFoundError:
                continue  # removed since it was listed
            yield key, status.st_size, status.st_mtime

    def delete(self, prefix: str) -> None:
        path = self._path(prefix)
        with self._errors(prefix):
            if not path.exists() and not path.is_symlink():
                return
            with self._staged() as staged:  # a folder vanishes at once, not file by file
                with suppress(FileNotFoundError):
                    path.rename(staged)
                shutil.rmtree(staged) if staged.is_dir() else staged.unlink(missing_ok=True)

    def local_path(self, key: str) -> Path | None:
        return self._path(key)

    @contextmanager
    def staging_folder(self) -> Iterator[Path]:
        """A new folder on the store's own file system, to be filled and then handed to ``put_folder``; removed if it was not."""
        with self._staged() as staged:
            with self._write_errors():
                staged.mkdir(parents=True)
            yield staged

    def put_folder(self, staged: Path, key: str) -> bool:
        """Rename a folder made in ``staging_folder`` to ``key``; False if something is there already."""
        target = self._path(key)
        with self._write_errors():
            for parent, _, files in os.walk(staged):
                for name in files:
                    sync_file(Path(parent) / name)
                sync_folder(Path(parent))
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                staged.rename(target)
            except OSError as error:
                if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                    return False
                raise
            sync_folder(target.parent)
            return True

    def swap_folder(self, staged: Path, key: str) -> bool:
        """Put a staged folder in the place of one that is there, in one step where the system can; False if there is none any more."""
        target = self._path(key)
        with self._write_errors(), self._staged() as old:
            if _exchange(staged, target):
                return True
            try:
                target.rename(old)
            except FileNotFoundError:
                return False
            staged.rename(target)
            return True

    def is_staged(self, folder: Path) -> bool:
        """Whether a folder lies in this store's staging, so that it can be renamed into place."""
        return folder.absolute().parent.parent == self.root / STAGING

    def stage_file(self, source: Path, target: Path) -> None:
        """Copy a file into a staged folder."""
        with source.open("rb") as stream, self._write_errors():
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as copy:
                shutil.copyfileobj(stream, copy, CHUNK)

    def stage_bytes(self, data: bytes, target: Path) -> None:
        with self._write_errors():
            target.write_bytes(data)

    @contextmanager
    def _staged(self) -> Iterator[Path]:
        """A path that is not taken; whatever is there in the end is removed. It lies in a folder of its own that is locked meanwhile."""
        staging = self.root / STAGING
        with self._write_errors():
            staging.mkdir(parents=True, exist_ok=True)
            self._sweep(staging)
            folder, lock = _locked_folder(staging)
        try:
            yield folder / _CONTENT
        finally:
            shutil.rmtree(folder, ignore_errors=True)  # what could not be removed is swept later
            os.close(lock)

    def _sweep(self, staging: Path) -> None:
        """Remove, once per process and store, what killed processes of this machine left behind.

        The kernel gives a killed process's lock back, whichever container it ran in. The host's name is asked for too, because on some
        shared file systems a lock holds on one machine only.
        """
        me = (os.getpid(), self.uri)
        if me in _swept:
            return
        _swept.add(me)
        for path in staging.iterdir():
            if path.name.partition("~")[0] != socket.gethostname():
                continue
            with suppress(FileNotFoundError):  # its owner has just finished
                lock = os.open(path, os.O_RDONLY)
                try:
                    if _try_lock(lock):
                        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
                finally:
                    os.close(lock)


def _locked_folder(staging: Path) -> tuple[Path, int]:
    """A new folder, and the open file that holds its lock."""
    while True:
        folder = staging / f"{socket.gethostname()}~{uuid.uuid4().hex}"
        folder.mkdir()
        with suppress(FileNotFoundError):
            lock = os.open(folder, os.O_RDONLY)
            with suppress(OSError):  # where the file system has no locks, nobody else gets one either, and nothing is swept
                fcntl.flock(lock, fcntl.LOCK_EX)
            if folder.exists():  # a sweep may come between making and locking; it takes the folder for a dead one's
                return folder, lock
            os.close(lock)


def _try_lock(file: int) -> bool:
    """Whether the lock of an open file or folder could be had; it is given back when the file is closed or its process ends."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # somebody holds it, or there are no locks here
        return False
    return True


def _exchange(one: Path, other: Path) -> bool:
    """Swap two folders in one step (``renameat2`` of Linux); False where that does not exist, or one of them does not."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    return bool(renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0)
