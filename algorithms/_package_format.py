"""The files of a package: written, listed with their digests, and verified. Only the standard library."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Collection
from importlib import metadata
from pathlib import Path
from typing import Any

from infra.errors import ArtifactNotFoundError, CorruptArtifactError, InvalidOptionError

FORMAT = 1
MODEL_FILE = "model.onnx"
SEALED_FILE = "model.onnx.sealed"
DESCRIPTION_FILE = "package.json"
_LIBRARIES = (
    "onnx",
    "onnxruntime-gpu",
    "onnxruntime",
    "onnxscript",
    "torch",
    "timm",
    "scikit-learn",
    "skl2onnx",
    "xgboost-cpu",
    "xgboost",
    "lightgbm",
)


def sha256_of(path: Path) -> str:
    """Hex digest of a file, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def library_versions() -> dict[str, str]:
    """Versions of what made the package, as far as it is installed; reads metadata, imports nothing."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def write_description(folder: Path, description: dict[str, Any], names: Collection[str] | None = None) -> None:
    """Write ``package.json`` last and atomically: what the caller describes, and size and SHA-256 of every other file below ``folder``.

    Args:
        names: of the files that belong to the package, where others lie beside it; None: all do.
    """
    files = {
        path.relative_to(folder).as_posix(): {"sha256": sha256_of(path), "size": path.stat().st_size}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != DESCRIPTION_FILE and not path.name.endswith(".partial")
    }
    if names is not None:
        files = {name: entry for name, entry in files.items() if name in names}
    text = json.dumps({**description, "files": files}, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    partial = folder / f"{DESCRIPTION_FILE}.partial"
    partial.write_text(text + "\n", encoding="utf-8")
    partial.replace(folder / DESCRIPTION_FILE)


def read_description(folder: Path) -> dict[str, Any]:
    """``package.json`` as it is, checked for being one that this version understands.

    Raises:
        ArtifactNotFoundError: there is none.
        CorruptArtifactError: it is not JSON.
        InvalidOptionError: it was written by a newer Atelier.
    """
    path = folder / DESCRIPTION_FILE
    if not path.is_file():
        raise ArtifactNotFoundError(str(folder), DESCRIPTION_FILE)
    try:
        description: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        version = int(description["format"])
        description["files"][SEALED_FILE if "sealed" in description else MODEL_FILE]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise CorruptArtifactError(str(path), "of a valid package.json", sha256_of(path)) from None
    if version > FORMAT:
        raise InvalidOptionError(
            f"the package {folder}", [f"its format is {version}, this Atelier reads up to {FORMAT}"], "Upgrade Atelier to read it."
        )
    return description


def verify_files(folder: Path, description: dict[str, Any]) -> None:
    """Compare every file with its recorded size and digest.

    Raises:
        ArtifactNotFoundError: a file is missing.
        CorruptArtifactError: a file differs; it is named.
    """
    for name, recorded in description["files"].items():
        path = folder / name
        if not path.is_file():
            raise ArtifactNotFoundError(str(folder), name)
        found = sha256_of(path)
        if found != recorded["sha256"]:
            raise CorruptArtifactError(str(path), recorded["sha256"], found)
