"""Packages of a run that lie in the store as they were exported, where the settings have a key: they are sealed in their place.

Whoever exports seals before it publishes (``algorithms.run``). What is left for here are packages of before there was a key, and of workers
that do not know it.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from algorithms._package_format import DESCRIPTION_FILE, MODEL_FILE
from algorithms._package_sealing import find_key, seal_in_place
from infra.artifacts import MANIFEST, Artifact, fetch, publish, read_manifest
from infra.context import StageContext

PACKAGES = ("export", "compress")  # kinds of artifacts that hold a model


def is_exposed(artifact: Artifact, context: StageContext) -> bool:
    """Whether it is a package with a plain model although the settings have a key.

    Raises:
        ArtifactNotFoundError, CorruptArtifactError
    """
    if artifact.kind not in PACKAGES or find_key() is None:
        return False
    files = read_manifest(context.store, artifact).files
    return MODEL_FILE in files and DESCRIPTION_FILE in files


def sealed_in_store(artifact: Artifact, context: StageContext) -> Artifact:
    """The artifact itself; or, where it was exposed, what lies in its place now."""
    key = find_key()
    if key is None or not is_exposed(artifact, context):
        return artifact
    source = fetch(context.store, artifact, context.settings.cache_path)
    with tempfile.TemporaryDirectory(prefix="atelier-") as scratch:
        folder = Path(scratch) / "package"
        shutil.copytree(source, folder, ignore=shutil.ignore_patterns(MANIFEST))
        seal_in_place(folder, key)
        return publish(context.store, folder, artifact.key, artifact.kind)
