"""One model version as a zip file: its record, and the files of its package with their digests."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from pydantic import BaseModel, ConfigDict, ValidationError

from infra._registry_version import ModelVersion
from infra.artifacts import Manifest, describe
from infra.errors import CorruptArtifactError, InvalidSourceError, SourceNotFoundError, StoreAccessError, UnsafeArchiveError

_RECORD = "atelier-model.json"
_MOST_TIMES = 200
_BLOCK = 1 << 20


class _Export(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = 1
    version: ModelVersion
    manifest: Manifest


def pack(version: ModelVersion, folder: Path, path: Path) -> None:
    """Write the zip file atomically; the same version gives the same bytes."""
    manifest = describe(folder, version.package.kind)
    text = _Export(version=version, manifest=manifest).model_dump_json(indent=1)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".atelier-", delete=False) as partial:
            try:
                with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
                    archive.writestr(zipfile.ZipInfo(_RECORD), text)
                    for name in manifest.files:
                        with (folder / name).open("rb") as source, archive.open(_info(f"package/{name}"), "w", force_zip64=True) as target:
                            while block := source.read(_BLOCK):
                                target.write(block)
                partial.flush()
                os.fsync(partial.fileno())
                Path(partial.name).chmod(0o644)
                Path(partial.name).replace(path)
            except BaseException:
                Path(partial.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        raise StoreAccessError(str(path), error.strerror or str(error), "Choose a place that can be written.") from error


def _info(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)  # dated 1980: the bytes depend on the content alone
    info.compress_type = zipfile.ZIP_DEFLATED
    return info


def unpack(path: Path, scratch: Path) -> tuple[ModelVersion, Path]:
    """The version in a zip file, and a folder below ``scratch`` with its package. Only files that the record lists are read, each up to its size.

    Raises:
        SourceNotFoundError, InvalidSourceError, UnsafeArchiveError, CorruptArtifactError
    """
    if not path.is_file():
        raise SourceNotFoundError(str(path), "Expected a file that `atelier models export` wrote.")
    try:
        with zipfile.ZipFile(path) as archive:
            export = _read_record(archive, path)
            folder = scratch / "package"
            folder.mkdir()
            for name in export.manifest.files:
                _extract(archive, path, export.manifest, name, folder)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise InvalidSourceError(str(path), [f"not a zip file that can be read: {error}"]) from None
    found = hashlib.sha256(export.manifest.to_bytes()).hexdigest()
    if found != export.version.package.digest:
        raise CorruptArtifactError(f"{path}: {_RECORD}", export.version.package.digest, found)
    return export.version, folder


def _read_record(archive: zipfile.ZipFile, path: Path) -> _Export:
    names = archive.namelist()
    for name in names:
        if name.startswith(("/", "\\")) or ".." in PurePosixPath(name.replace("\\", "/")).parts or ":" in name:
            raise UnsafeArchiveError(str(path), name, "climbs out of its folder")
    if _RECORD not in names:
        raise InvalidSourceError(str(path), [f"there is no {_RECORD} in it"], "Expected a file that `atelier models export` wrote.")
    info = archive.getinfo(_RECORD)
    if info.file_size > 64 * _BLOCK:
        raise UnsafeArchiveError(str(path), _RECORD, f"is {info.file_size:,} bytes")
    try:
        raw = json.loads(archive.read(_RECORD))
        export = _Export.model_validate(raw)
    except (ValueError, ValidationError) as error:
        raise InvalidSourceError(str(path), [f"{_RECORD} is not the record of a model: {str(error).splitlines()[0]}"]) from None
    if export.format != 1:
        raise InvalidSourceError(str(path), [f"its format is {export.format}, this Atelier reads 1"])
    stated = sum(entry.size for entry in export.manifest.files.values())
    if stated > _MOST_TIMES * path.stat().st_size + 64 * _BLOCK:
        raise UnsafeArchiveError(str(path), "package", f"would become {stated:,} bytes, more than {_MOST_TIMES} times the archive")
    return export


def _extract(archive: zipfile.ZipFile, path: Path, manifest: Manifest, name: str, folder: Path) -> None:
    entry = manifest.files[name]
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\\" in name:
        raise UnsafeArchiveError(str(path), name, "climbs out of its folder")
    try:
        info = archive.getinfo(f"package/{name}")
    except KeyError:
        raise CorruptArtifactError(f"{path}: {name}", entry.sha256, "missing: the file is gone") from None
    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    digest, size = hashlib.sha256(), 0
    with archive.open(info) as source, target.open("wb") as out:
        while block := source.read(min(_BLOCK, entry.size - size + 1)):
            size += len(block)
            if size > entry.size:
                raise UnsafeArchiveError(str(path), name, f"is larger than the {entry.size:,} bytes that the record states")
            digest.update(block)
            out.write(block)
    if digest.hexdigest() != entry.sha256:
        raise CorruptArtifactError(f"{path}: {name}", entry.sha256, digest.hexdigest())
