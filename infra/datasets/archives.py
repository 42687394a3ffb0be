"""Unpacking zip and tar files that may be hostile: no path out of the folder, no links, no bombs."""

from __future__ import annotations

import errno
import gzip
import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from infra.errors import InvalidSourceError, StoreAccessError, UnsafeArchiveError

TARS = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2")
ARCHIVES = (".zip", *TARS)
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Limits:
    """What an archive may unpack to.

    Attributes:
        max_bytes: all files together.
        max_files: their number.
        max_ratio: unpacked bytes for each packed byte; what is below ``free_bytes`` is not judged.
        free_bytes: see there.
    """

    max_bytes: int = 256 << 30
    max_files: int = 5_000_000
    max_ratio: float = 200.0
    free_bytes: int = 256 << 20


def is_archive(name: str) -> bool:
    return name.lower().endswith(ARCHIVES)


def stem(name: str) -> str:
    """The name without the archive's or table's suffixes."""
    for suffix in sorted(ARCHIVES, key=len, reverse=True):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return Path(name).stem


def unpack(archive: Path, target: Path, name: str, limits: Limits | None = None) -> None:
    """Unpack into a new folder; on an error the caller throws the folder away.

    Raises:
        UnsafeArchiveError: a member that climbs out, is a link or a device, comes twice; or more than the limits allow.
        InvalidSourceError: not an archive that can be read.
    """
    target.mkdir(parents=True)
    budget = _Budget(name, archive.stat().st_size, limits or Limits(), target)
    try:
        if archive.name.lower().endswith(".zip"):
            _unpack_zip(archive, target, budget)
        else:
            _unpack_tar(archive, target, budget)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, OSError, NotImplementedError) as error:
        # Damaged bzip2 data is an OSError without a number, a zip that points before its own start one with EINVAL; others are the disk's.
        if isinstance(error, OSError) and not isinstance(error, gzip.BadGzipFile) and error.errno not in (None, errno.EINVAL):
            raise
        raise InvalidSourceError(
            name, [f"the archive cannot be read: {error or type(error).__name__}"], "Make or download it again."
        ) from error


class _Budget:
    """Counts what was unpacked: the sizes that an archive states may lie."""

    def __init__(self, name: str, packed_bytes: int, limits: Limits, target: Path) -> None:
        self.name, self.limits = name, limits
        self.num_files = self.num_bytes = 0
        self.most_bytes = min(limits.max_bytes, max(limits.free_bytes, int(packed_bytes * limits.max_ratio)))
        self.disk_bytes = shutil.disk_usage(target).free
        self.target = target

    def check(self, member: str, more_files: int, more_bytes: int) -> None:
        self.num_files += more_files
        self.num_bytes += more_bytes
        if self.num_files > self.limits.max_files:
            raise UnsafeArchiveError(self.name, member, f"is file number {self.num_files:,}; at most {self.limits.max_files:,} are allowed")
        if self.num_bytes > self.most_bytes:
            why = f"brings the unpacked size to {self.num_bytes:,} bytes; at most {self.most_bytes:,} are allowed for this archive"
            raise UnsafeArchiveError(self.name, member, why)
        if self.num_bytes > self.disk_bytes:
            raise StoreAccessError(
                str(self.target.parent), f"no room to unpack {self.name}: {self.disk_bytes:,} bytes are free", "Free some disk space."
            )


def _inside(name: str, archive: str, target: Path) -> Path:
    """Where a member goes."""
    parts = name.replace("\\", "/").split("/")
    if ".." in parts:
        raise UnsafeArchiveError(archive, name, "climbs out of its folder")
    if name.startswith(("/", "\\")) or (len(parts[0]) == 2 and parts[0][1] == ":"):
        raise UnsafeArchiveError(archive, name, "has an absolute path")
    if "\0" in name:
        raise UnsafeArchiveError(archive, name, "has a NUL character in its name")
    return target.joinpath(*[part for part in parts if part not in ("", ".")])


def _unpack_zip(archive: Path, target: Path, budget: _Budget) -> None:
    with zipfile.ZipFile(archive) as file:
        members = file.infolist()
        for member in members:  # all names are looked at before the first byte is unpacked
            _inside(member.filename, budget.name, target)
            if stat.S_ISLNK(member.external_attr >> 16):
                raise UnsafeArchiveError(budget.name, member.filename, "is a link")
            if member.flag_bits & 1:
                raise InvalidSourceError(budget.name, [f"{member.filename} is encrypted"], "Unpack it yourself and import the folder.")
        stated = _Budget(budget.name, archive.stat().st_size, budget.limits, target)
        for member in members:
            stated.check(member.filename, not member.is_dir(), member.file_size)
        for member in members:
            path = _inside(member.filename, budget.name, target)
            if member.is_dir():
                path.mkdir(parents=True, exist_ok=True)
            else:
                with file.open(member) as stream:
                    _copy(stream, path, member.filename, budget)


def _unpack_tar(archive: Path, target: Path, budget: _Budget) -> None:
    with tarfile.open(archive, "r:*") as file:
        for member in _members(file):
            path = _inside(member.name, budget.name, target)
            if member.issym() or member.islnk():
                raise UnsafeArchiveError(budget.name, member.name, "is a link")
            if member.isdir():
                path.mkdir(parents=True, exist_ok=True)
            elif member.isreg():
                stream = file.extractfile(member)
                assert stream is not None, "regular files have contents"
                with stream:
                    _copy(stream, path, member.name, budget)
            else:
                raise UnsafeArchiveError(budget.name, member.name, "is neither a file nor a folder")
        # The checksum of compressed data stands behind its end, and tarfile stops before that.
        assert file.fileobj is not None, "open for reading"
        while chunk := file.fileobj.read(_CHUNK):
            budget.check("its end", 0, len(chunk))


def _members(file: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Members one after the other, without keeping all of them in memory."""
    while (member := file.next()) is not None:
        yield member
        file.members = []  # type: ignore[attr-defined]


def _copy(stream: IO[bytes], path: Path, member: str, budget: _Budget) -> None:
    budget.check(member, 1, 0)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as target:
            while chunk := stream.read(_CHUNK):
                budget.check(member, 0, len(chunk))
                target.write(chunk)
    except (FileExistsError, NotADirectoryError):
        raise UnsafeArchiveError(budget.name, member, "comes twice") from None
