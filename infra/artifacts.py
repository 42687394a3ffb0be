"""Artifacts: folders in the store, published whole, named by the digest of their manifest, verified when they are read."""

from __future__ import annotations

import hashlib
import json
from functools import partial
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from infra.cache import Cache, sha256_file, verified
from infra.errors import ArtifactNotFoundError, CorruptArtifactError
from infra.store import FolderStore, Store

MANIFEST = "MANIFEST.json"
_ADOPTED_BYTES = 8 << 20


class Artifact(BaseModel):
    """The handle of a published folder: what stages pass to each other."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str = Field(description="Folder in the store.")
    kind: str = Field(description="What it is: train, evaluate, export, validation, ...")
    digest: str = Field(description="SHA-256 of its MANIFEST.json, hex.")


class FileEntry(BaseModel):
    """One file of an artifact."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int = Field(description="Bytes.")
    sha256: str


class Manifest(BaseModel):
    """What ``MANIFEST.json`` says: it is written last, so an artifact without one does not exist."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    files: dict[str, FileEntry] = Field(description="By path relative to the artifact, '/'-separated.")

    def to_bytes(self) -> bytes:
        return json.dumps(self.model_dump(), indent=1, sort_keys=True).encode()


def publish(store: Store, folder: Path, key: str, kind: str, *, replace: bool = True) -> Artifact:
    """Upload every file below ``folder`` to ``key``; the manifest (kind, and per file its size and SHA-256) goes last, and makes it visible.

    An equal artifact that is there already is kept. Another one is replaced, or kept if not ``replace``; either way the handle of what
    is there in the end is returned.
    """
    manifest = describe(folder, kind)
    if isinstance(store, FolderStore):
        return _publish_folder(store, folder, key, manifest, replace)
    there = find(store, key)
    if there is not None and (not replace or there == _handle(key, manifest.to_bytes())):
        return there
    if not replace:
        agreed = Manifest(kind=kind, files={name: _put_or_adopt(store, folder / name, f"{key}/{name}") for name in manifest.files})
        store.create(f"{key}/{MANIFEST}", agreed.to_bytes())
        there = find(store, key)
        assert there is not None, f"the manifest of {key} was just written"
        return there
    store.delete(f"{key}/{MANIFEST}")  # from here on nothing is visible, until the new one is whole
    stale = set(store.list(f"{key}/")) - {f"{key}/{name}" for name in manifest.files}
    for path in sorted(stale):
        store.delete(path)
    for name in manifest.files:
        store.put_file(folder / name, f"{key}/{name}")
    store.write_bytes(f"{key}/{MANIFEST}", manifest.to_bytes())
    return _handle(key, manifest.to_bytes())


def _put_or_adopt(store: Store, path: Path, key: str) -> FileEntry:
    """Put a file of an artifact whose key names its content. Two who publish the same at once must leave one set of files: what differs
    between them (when and by whom, in small files) is the first one's."""
    if path.stat().st_size > _ADOPTED_BYTES:
        store.put_file(path, key)
        return FileEntry(size=path.stat().st_size, sha256=sha256_file(path))
    data = path.read_bytes()
    if not store.create(key, data):
        data = store.read_bytes(key)
    return FileEntry(size=len(data), sha256=hashlib.sha256(data).hexdigest())


def _publish_folder(store: FolderStore, folder: Path, key: str, manifest: Manifest, replace: bool) -> Artifact:
    """Copy to the store's staging (or take a folder that lies there), rename."""
    artifact = _handle(key, manifest.to_bytes())
    with store.staging_folder() as staged:
        if store.is_staged(folder):
            staged = folder
        else:
            for name in manifest.files:
                store.stage_file(folder / name, staged / name)
        store.stage_bytes(manifest.to_bytes(), staged / MANIFEST)
        while not store.put_folder(staged, key):
            there = find(store, key)
            if there is not None and (there == artifact or not replace):
                return there
            if store.swap_folder(staged, key):
                break
    return artifact


def describe(folder: Path, kind: str) -> Manifest:
    """The manifest of a local folder."""
    files: dict[str, FileEntry] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != MANIFEST:
            files[name] = FileEntry(size=path.stat().st_size, sha256=sha256_file(path))
    return Manifest(kind=kind, files=files)


def _handle(key: str, manifest: bytes) -> Artifact:
    return Artifact(key=key, kind=json.loads(manifest)["kind"], digest=hashlib.sha256(manifest).hexdigest())


def find(store: Store, key: str) -> Artifact | None:
    """The artifact at ``key``, or None if none was published whole.

    Raises:
        CorruptArtifactError: its manifest cannot be read.
    """
    try:
        data = store.read_bytes(f"{key}/{MANIFEST}")
    except ArtifactNotFoundError:
        return None
    _parse(store, key, data, expected="")
    return _handle(key, data)


def read_manifest(store: Store, artifact: Artifact) -> Manifest:
    """The manifest of an artifact, checked against its digest.

    Raises:
        ArtifactNotFoundError, CorruptArtifactError
    """
    try:
        data = store.read_bytes(f"{artifact.key}/{MANIFEST}")
    except ArtifactNotFoundError:
        raise ArtifactNotFoundError(store.uri, artifact.key) from None
    found = hashlib.sha256(data).hexdigest()
    if found != artifact.digest:
        raise CorruptArtifactError(f"{store.uri}/{artifact.key}/{MANIFEST}", artifact.digest, found)
    return _parse(store, artifact.key, data, expected=artifact.digest)


def _parse(store: Store, key: str, data: bytes, expected: str) -> Manifest:
    try:
        return Manifest.model_validate_json(data)
    except ValueError as error:
        found = hashlib.sha256(data).hexdigest()
        raise CorruptArtifactError(f"{store.uri}/{key}/{MANIFEST}", expected or "that of a manifest", found) from error


def fetch(store: Store, artifact: Artifact, cache: Path) -> Path:
    """A local folder with the artifact's files, each verified: the store's own folder if it is local, else a copy in the cache.

    A file is hashed again only if it changed since this process last hashed it.

    Raises:
        ArtifactNotFoundError, CorruptArtifactError: with the file's name.
    """
    manifest = read_manifest(store, artifact)
    local = store.local_path(artifact.key)
    if local is not None:
        for name, entry in manifest.files.items():
            _check_local(store, artifact.key, name, entry, local / name)
        return local
    entry_name = f"artifacts/{artifact.digest}"
    is_good = partial(_is_whole, manifest)
    return Cache(cache).get(entry_name, partial(_download, store, artifact, manifest), is_good=is_good)


def _is_whole(manifest: Manifest, folder: Path) -> bool:
    return all((folder / name).is_file() and verified(folder / name) == entry.sha256 for name, entry in manifest.files.items())


def _download(store: Store, artifact: Artifact, manifest: Manifest, folder: Path) -> None:
    folder.mkdir(parents=True)
    for name, entry in manifest.files.items():
        target = folder / name
        store.get_file(f"{artifact.key}/{name}", target)
        found = verified(target)
        if found != entry.sha256:
            raise CorruptArtifactError(f"{store.uri}/{artifact.key}/{name}", entry.sha256, found)
    (folder / MANIFEST).write_bytes(manifest.to_bytes())


def _check_local(store: Store, key: str, name: str, entry: FileEntry, path: Path) -> None:
    if not path.is_file():
        raise CorruptArtifactError(f"{store.uri}/{key}/{name}", entry.sha256, "missing: the file is gone")
    found = verified(path)
    if found != entry.sha256:
        raise CorruptArtifactError(str(path), entry.sha256, found)


def fetch_file(store: Store, artifact: Artifact, manifest: Manifest, name: str, cache: Path) -> Path:
    """One verified file of an artifact as a local path: the store's own if it is local, else a copy in the cache.

    Raises:
        ArtifactNotFoundError, CorruptArtifactError
    """
    entry = _entry(store, artifact, manifest, name)
    local = store.local_path(f"{artifact.key}/{name}")
    if local is not None:
        _check_local(store, artifact.key, name, entry, local)
        return local

    def download(target: Path) -> None:
        store.get_file(f"{artifact.key}/{name}", target)
        found = verified(target)
        if found != entry.sha256:
            raise CorruptArtifactError(f"{store.uri}/{artifact.key}/{name}", entry.sha256, found)

    return Cache(cache).get(f"files/{entry.sha256}", download, is_good=lambda path: verified(path) == entry.sha256)


def read_file(store: Store, artifact: Artifact, name: str) -> bytes:
    """One verified file of an artifact."""
    entry = _entry(store, artifact, read_manifest(store, artifact), name)
    data = store.read_bytes(f"{artifact.key}/{name}")
    found = hashlib.sha256(data).hexdigest()
    if found != entry.sha256:
        raise CorruptArtifactError(f"{store.uri}/{artifact.key}/{name}", entry.sha256, found)
    return data


def _entry(store: Store, artifact: Artifact, manifest: Manifest, name: str) -> FileEntry:
    if name not in manifest.files:
        raise ArtifactNotFoundError(store.uri, f"{artifact.key}/{name}")
    return manifest.files[name]
