"""Where outside data comes from: a path, ``file://`` or ``s3://``, a folder, a file or an archive; all become a local path."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from infra.datasets.archives import is_archive, stem, unpack
from infra.datasets.card import Kind
from infra.datasets.images import SPLIT_FOLDERS, is_hidden, is_picture, walk
from infra.datasets.tabular_files import FORMATS, table_format
from infra.errors import InvalidSourceError, SourceNotFoundError
from infra.store import FolderStore, Store, open_store

_DOWNLOADS = 8


@dataclass(frozen=True)
class LocalSource:
    """A source on this machine.

    Attributes:
        path: a folder, or one table file.
        uri: as the user may give it again.
        archive: ``zip``, ``tar`` or nothing, what it was unpacked from.
    """

    path: Path
    uri: str
    archive: Literal["", "zip", "tar"] = ""


def local_path(source: str) -> Path | None:
    """The path of a local source; None for a URI of another machine."""
    scheme = source.split("://", 1)[0].lower() if "://" in source else ""
    if scheme == "file":
        return Path(unquote(urlsplit(source).path))
    return None if scheme else Path(source).expanduser()


def exists(source: str) -> bool:
    """Whether there is something at a path or URI."""
    path = local_path(source)
    if path is not None:
        return path.exists()
    return next(_remote_files(source), None) is not None


def default_name(source: str) -> str:
    """A data set's name from the base name of its source."""
    base = source.rstrip("/").rpartition("/")[2] if "://" in source else Path(source).expanduser().resolve().name
    name = re.sub(r"[^A-Za-z0-9._]+", "-", stem(base) if is_archive(base) or table_format(base) else base).strip("-._")
    return name.lower()[:100] or "data"


def listing(source: str) -> list[tuple[str, str]]:
    """Every file with a short text that changes when the file does (size and times, or size and ETag), sorted.

    Raises:
        SourceNotFoundError
    """
    path = local_path(source)
    if path is None:
        found = sorted(_remote_files(source))
        if not found:
            raise SourceNotFoundError(source)
        return found
    if not path.exists():
        raise SourceNotFoundError(source)
    files = [(".", path)] if path.is_file() else [(name, path / name) for name, is_file in walk(path) if is_file]
    return sorted((name, _state(file)) for name, file in files)


def _state(file: Path) -> str:
    try:
        status = file.stat()
    except FileNotFoundError:  # a link to nowhere
        return "gone"
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


def open_source(source: str) -> tuple[Store, str]:
    """The store in which a source lies, and what stands there before the names of ``listing``; a source that is one file is that key itself."""
    path = local_path(source)
    if path is None:
        root, prefix = _split_remote(source)
        return open_store(root), prefix
    path = path.absolute()
    return (FolderStore(str(path)), "") if path.is_dir() else (FolderStore(str(path.parent)), path.name)


def _split_remote(source: str) -> tuple[str, str]:
    """The bucket's URI, and the key prefix below it."""
    scheme, _, rest = source.partition("://")
    bucket, _, prefix = rest.partition("/")
    if scheme.lower() not in ("s3", "s3a", "memory") or not bucket:
        allowed = "a path, file://, or s3://bucket/prefix"
        raise InvalidSourceError(source, [f"data cannot be read from {scheme}:// addresses; allowed are {allowed}"])
    return f"{scheme}://{bucket}", prefix.strip("/")


def _remote_files(source: str) -> Iterator[tuple[str, str]]:
    """Name relative to the source ("." for a source that is one object) and state of each object."""
    root, prefix = _split_remote(source)
    store = open_store(root)
    for key, state in store.states(prefix):
        if key == prefix:
            yield ".", state
        elif not prefix or key.startswith(prefix + "/"):
            yield key.removeprefix(prefix + "/") if prefix else key, state


def fetch_source(source: str, scratch: Path) -> LocalSource:
    """Bring a source to this machine, and unpack it if it is an archive.

    Raises:
        SourceNotFoundError, UnsafeArchiveError, InvalidSourceError
    """
    path, uri = local_path(source), source
    if path is None:
        path = _download(source, scratch / "download")
    elif not path.exists():
        raise SourceNotFoundError(source)
    else:
        path = path.resolve()
        uri = str(path)
    if path.is_dir():
        return LocalSource(_without_wrappers(path), uri)
    if is_archive(path.name):
        unpack(path, scratch / "unpacked", source)
        return LocalSource(_without_wrappers(scratch / "unpacked"), uri, "zip" if path.name.lower().endswith(".zip") else "tar")
    if table_format(path.name) is None:
        raise InvalidSourceError(
            source,
            ["it is neither a folder, an archive, nor a table"],
            f"Allowed are folders, .zip, .tar(.gz/.xz/.bz2) and {', '.join(FORMATS)} files.",
        )
    return LocalSource(path, uri)


def _download(source: str, target: Path) -> Path:
    root, prefix = _split_remote(source)
    names = [name for name, _ in _remote_files(source)]
    if not names:
        raise SourceNotFoundError(source)
    bad = [name for name in names if name != "." and (not all(name.split("/")) or {".", ".."} & set(name.split("/")))]
    if bad:
        raise InvalidSourceError(source, [f"the object name {name!r} is not a path" for name in bad])
    store = open_store(root)
    target.mkdir(parents=True)
    if names == ["."]:
        path = target / prefix.rpartition("/")[2]
        store.get_file(prefix, path)
        return path
    start = prefix + "/" if prefix else ""
    with ThreadPoolExecutor(_DOWNLOADS) as pool:
        for _ in pool.map(lambda name: store.get_file(start + name, target / name), [name for name in names if name != "."]):
            pass
    return target


def _without_wrappers(folder: Path) -> Path:
    """Step into folders that hold nothing but one other folder, which is neither a class nor a split: archives often have one."""
    while True:
        entries = [entry for entry in folder.iterdir() if not is_hidden(entry.name)]
        if len(entries) != 1 or not entries[0].is_dir() or entries[0].name.lower() in SPLIT_FOLDERS:
            return folder
        if any(is_picture(entry.name) and entry.is_file() for entry in entries[0].iterdir()):
            return folder  # the one folder is a class
        folder = entries[0]


def kind_of(local: LocalSource, source: str) -> Kind:
    """Whether a source is pictures or a table.

    Raises:
        InvalidSourceError: neither.
    """
    if local.path.is_file():
        return "table"
    files = [path for path, is_file in walk(local.path) if is_file and not is_hidden(path)]
    if any(map(is_picture, files)):
        return "image"
    if any(map(table_format, files)):
        return "table"
    what = f"it holds {len(files)} files, but none is a picture or a table" if files else "the folder is empty"
    raise InvalidSourceError(
        source,
        [what] + [f"such as {path}" for path in files[:3]],
        f"An image data set has a folder with pictures for each class; a table is a file that ends in {', '.join(FORMATS)}.",
    )
