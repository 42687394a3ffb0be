"""Artifacts: folders in the store, published whole, named by the digest of their manifest, verified when they are read."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from infra.store import Store

MANIFEST = "MANIFEST.json"


class Artifact(BaseModel):
    """The handle of a published folder: what stages pass to each other."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str = Field(description="Folder in the store.")
    kind: str = Field(description="What it is: train, evaluate, export, validation, ...")
    digest: str = Field(description="SHA-256 of its MANIFEST.json, hex.")


def publish(store: Store, folder: Path, key: str, kind: str) -> Artifact:
    """Upload every file below ``folder`` to ``key``; the manifest (kind, and per file its size and SHA-256) goes last, and makes it visible."""
    raise NotImplementedError  # H1


def find(store: Store, key: str) -> Artifact | None:
    """The artifact at ``key``, or None if none was published whole."""
    raise NotImplementedError  # H1


def fetch(store: Store, artifact: Artifact, cache: Path) -> Path:
    """A local folder with the artifact's files, each verified: the store's own folder if it is local, else a copy in the cache.

    Raises:
        ArtifactNotFoundError, CorruptArtifactError: with the file's name.
    """
    raise NotImplementedError  # H1


def read_file(store: Store, artifact: Artifact, name: str) -> bytes:
    """One verified file of an artifact."""
    raise NotImplementedError  # H1
