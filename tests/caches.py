"""Caches of tests: empty, but for the migrated databases that a set-up leaves in a user's cache, too."""

from __future__ import annotations

from pathlib import Path

import pytest


def fresh_cache(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make ``folder``, a cache in which nothing is but the migrated databases; the first test that needs one makes it for the whole session."""
    templates = tmp_path_factory.getbasetemp() / "atelier-cache" / "templates"
    templates.mkdir(parents=True, exist_ok=True)
    folder.mkdir()
    (folder / "templates").symlink_to(templates)
    return folder
