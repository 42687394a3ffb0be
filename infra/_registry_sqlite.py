"""Model versions read straight from the embedded MLflow database: 1 ms, where importing mlflow costs seconds. Reads only.

What ``MlflowBackend.versions`` gives is the contract; a test holds both to it. Databases with other tables are left to mlflow.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from contextlib import closing
from pathlib import Path

from infra._registry_version import ModelVersion, from_tags

_DELETED = "Deleted_Internal"
MARK = "atelier.log"  # tag of a registered model, see Mirror


def read_versions(database: Path, name: str | None = None) -> list[ModelVersion] | None:
    """As ``MlflowBackend.versions``; None if the tables are not those of the MLflow that this was written for."""
    if not database.exists():
        return []
    where, values = ("WHERE name = ?", (name,)) if name else ("", ())
    try:
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=30)) as connection:
            rows = connection.execute(f"SELECT name, version, run_id, current_stage FROM model_versions {where}", values).fetchall()
            tag_rows = connection.execute(f"SELECT name, version, key, value FROM model_version_tags {where}", values).fetchall()
            alias_rows = connection.execute(f"SELECT name, version, alias FROM registered_model_aliases {where}", values).fetchall()
    except sqlite3.DatabaseError:
        return None  # mlflow reads it, or says what is wrong with it
    tags: dict[tuple[str, int], dict[str, str | None]] = defaultdict(dict)
    for model, version, key, value in tag_rows:
        tags[model, int(version)][key] = value
    aliases: dict[tuple[str, int], list[str]] = defaultdict(list)
    for model, version, alias in alias_rows:
        aliases[model, int(version)].append(alias)
    found = [
        from_tags(model, int(version), aliases[model, int(version)], run_id, tags[model, int(version)])
        for model, version, run_id, stage in rows
        if stage != _DELETED
    ]
    return sorted((version for version in found if version is not None), key=lambda version: (version.name, version.version))


def read_marks(database: Path) -> dict[str, str]:
    """The tag ``MARK`` of each model; none if the tables are not those of the MLflow that this was written for."""
    if not database.exists():
        return {}
    try:
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=30)) as connection:
            rows = connection.execute("SELECT name, value FROM registered_model_tags WHERE key = ?", (MARK,)).fetchall()
    except sqlite3.DatabaseError:
        return {}  # a model without a mark is compared with its log
    return {str(name): str(value) for name, value in rows}


def last_number(database: Path, name: str) -> int:
    """The highest number that a version ever had, deleted ones and those of others included; 0 if there is none."""
    if not database.exists():
        return 0
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=30)) as connection:
        (last,) = connection.execute("SELECT MAX(version) FROM model_versions WHERE name = ?", (name,)).fetchone()
    return int(last or 0)
