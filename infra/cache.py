"""A bounded cache on the local disk, shared by all processes of a machine; the least recently used goes first, what is in use never.

Each entry is a file or a folder, made once under a temporary name and renamed into place. A process that uses an entry holds a shared
lock on the entry's lock file; whoever removes an entry must have the exclusive one. Locks end with their process.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from infra._files import folder_error
from infra.errors import AtelierError
from infra.settings import load_settings

_MOST_HELD = 256  # lock files kept open by one process; an entry not used for that long may go
_CHUNK = 4 << 20

_guard = threading.RLock()
_held: OrderedDict[str, int] = OrderedDict()
_digests: dict[str, tuple[tuple[int, ...], str]] = {}


def _forget_after_fork() -> None:
    """A lock belongs to the open file, which a child shares: the child's copies are closed, its own are taken when it needs them."""
    global _guard
    _guard = threading.RLock()
    for fd in _held.values():
        os.close(fd)
    _held.clear()


os.register_at_fork(after_in_child=_forget_after_fork)


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def verified(path: Path) -> str:
    """SHA-256 of a file, hashed anew only if the file changed (by size, times or inode) since this process last did."""
    status = path.stat()
    now = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    known = _digests.get(str(path))
    if known is not None and known[0] == now:
        return known[1]
    digest = sha256_file(path)
    _digests[str(path)] = (now, digest)
    return digest


class Cache:
    """Entries by name below a folder.

    Args:
        folder: made when it is first needed.
        limit_bytes: by default ``ATELIER_CACHE_GIB``. An entry larger than that is still kept as long as it is in use.
    """

    def __init__(self, folder: Path, limit_bytes: int | None = None) -> None:
        self.folder = folder
        self.limit_bytes = int(load_settings().cache_gib * 2**30) if limit_bytes is None else limit_bytes

    def get(self, name: str, make: Callable[[Path], None], is_good: Callable[[Path], bool] = lambda path: True) -> Path:
        """The entry's path; made by ``make(path)``, which writes a file or a folder there, if it is not in the cache.

        One process makes it while others wait. An entry that is there but not good (a damaged disk) is made again. The entry stays at least
        as long as this process uses fewer than 256 others after it.
        """
        entry = self.folder / name
        try:
            self._hold(name)  # from here on nobody removes it
            if not (entry.exists() and is_good(entry)):
                with self._lock(f"{name}.make", fcntl.LOCK_EX):
                    if not (entry.exists() and is_good(entry)):
                        self._make(entry, make)
                self._evict(keep=name)
            return entry
        except AtelierError:
            raise
        except OSError as error:
            raise folder_error(f"cache {self.folder}", error) from error

    def _make(self, entry: Path, make: Callable[[Path], None]) -> None:
        entry.parent.mkdir(parents=True, exist_ok=True)
        staging = self.folder / ".staging"
        staging.mkdir(exist_ok=True)
        staged = staging / f"{os.getpid()}~{uuid.uuid4().hex}"
        try:
            make(staged)
            if entry.is_dir():  # damaged; a file is replaced in one step, a folder only in two
                entry.rename(grave := staged.with_name(f"{staged.name}.old"))
                _delete(grave)
            staged.replace(entry)
        finally:
            _delete(staged)

    def _hold(self, name: str) -> None:
        """Take a shared lock on the entry and keep it; mark the entry as used now."""
        path = self._lock_path(name)
        with _guard:
            fd = _held.pop(str(path), None)
            if fd is None:
                fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
                fcntl.flock(fd, fcntl.LOCK_SH)
            _held[str(path)] = fd
            while len(_held) > _MOST_HELD:
                os.close(_held.popitem(last=False)[1])
        os.utime(path)

    def _lock_path(self, name: str) -> Path:
        path = self.folder / ".locks" / name.replace("/", "~")
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    @contextmanager
    def _lock(self, name: str, how: int) -> Iterator[None]:
        fd = os.open(self._lock_path(name), os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(fd, how)
            yield
        finally:
            os.close(fd)

    def _remove(self, name: str) -> bool:
        """Remove an entry that nobody holds."""
        try:
            with self._lock(name, fcntl.LOCK_EX | fcntl.LOCK_NB):
                grave = self.folder / ".staging" / f"{os.getpid()}~{uuid.uuid4().hex}"
                grave.parent.mkdir(parents=True, exist_ok=True)
                (self.folder / name).rename(grave)
        except (BlockingIOError, FileNotFoundError):
            return False
        _delete(grave)
        return True

    def _evict(self, keep: str) -> None:
        """Remove the least recently used entries until the rest fits; one process at a time."""
        try:
            with self._lock("evict", fcntl.LOCK_EX | fcntl.LOCK_NB):
                entries = sorted((self._lock_path(name).stat().st_mtime_ns, name, size) for name, size in self.entries())
                total = sum(size for _, _, size in entries)
                for _, name, size in entries:
                    if total <= self.limit_bytes:
                        break
                    with _guard:
                        mine = str(self._lock_path(name)) in _held
                    if name != keep and not mine and self._remove(name):
                        total -= size
        except (BlockingIOError, FileNotFoundError):
            return  # another process is at it

    def entries(self) -> Iterator[tuple[str, int]]:
        """Name and bytes of every entry."""
        for group in self.folder.iterdir():
            if group.is_dir() and not group.name.startswith("."):
                for entry in group.iterdir():
                    if self._lock_path(f"{group.name}/{entry.name}").exists():
                        files = [entry] if entry.is_file() else [path for path in entry.rglob("*") if path.is_file()]
                        yield f"{group.name}/{entry.name}", sum(path.stat().st_size for path in files)


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
