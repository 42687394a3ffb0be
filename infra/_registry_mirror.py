"""The embedded MLflow database of one machine, kept as the log in the store says: other machines write to that log too."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from infra._registry_log import EventLog
from infra._registry_mlflow import MlflowBackend
from infra._registry_sqlite import last_number, read_marks, read_versions
from infra._registry_version import ModelVersion, to_tags
from infra.promotion import LogEvent, registered_versions, replay_aliases


class Mirror:
    """Versions and aliases of a database that holds what the log says and nothing else.

    Each model carries a mark: a digest of the log's keys, and of the versions and aliases that follow from them. So a look at the keys
    tells whether another machine went on, or a kill left something half done.

    Args:
        database: the file; it need not be there yet.
        mlflow: writes it.
        log: what it follows.
    """

    def __init__(self, database: Path, mlflow: MlflowBackend, log: EventLog) -> None:
        self._database, self._mlflow, self._log = database, mlflow, log

    def present(self, name: str | None = None) -> list[ModelVersion]:
        """The versions that the database has."""
        found = read_versions(self._database, name)
        return self._mlflow.versions(name) if found is None else found

    def last_number(self, name: str) -> int:
        """The highest number that MLflow ever gave to a version of this model in this database."""
        return last_number(self._database, name)

    def stale(self, name: str | None = None) -> list[str]:
        """The logged models, of this name or all, that the database does not hold as the log says."""
        keys = self._log.keys(name)
        if not keys:
            return []
        marks = read_marks(self._database)
        versions = self.present(name)
        return [model for model, own in keys.items() if marks.get(model) != _mark(own, _of(model, versions))]

    def follow(self, name: str, event: LogEvent | None = None) -> None:
        """Bring the model into the state of its log; with ``event``, into the one that it will have with that event. Call it under the lock."""
        keys = self._log.keys(name).get(name, [])
        events = [self._log.event(key) for key in keys]
        if event is not None and event not in events:
            events.append(event)
        self._change(name, events)
        mark = _mark(keys, self.present(name))
        if event is None and keys and read_marks(self._database).get(name) != mark:
            self._mlflow.set_mark(name, mark)

    def _change(self, name: str, events: Sequence[LogEvent]) -> None:
        wanted = {number: version_of(event) for number, event in registered_versions(events).items()}
        present = {version.version: version for version in self.present(name)}
        missing = sorted(wanted.keys() - present.keys())
        others = [number for number in wanted.keys() & present.keys() if wanted[number].package.digest != present[number].package.digest]
        # MLflow gives numbers in order and never again: what stands in the way of a logged version goes away with the whole model.
        if others or (missing and missing[0] <= last_number(self._database, name)):
            self._mlflow.delete_model(name)
            present, missing = {}, sorted(wanted)
        for number in missing:
            self._create(wanted[number])
        points = replay_aliases(events)
        was = {alias: version.version for version in present.values() for alias in version.aliases}
        for alias, number in points.items():
            if was.get(alias) != number and number in wanted:
                self._mlflow.set_alias(name, alias, number)
        for alias in sorted(was.keys() - points.keys()):
            self._mlflow.delete_alias(name, alias)
        for number in sorted(present.keys() - wanted.keys()):
            self._mlflow.delete_version(name, number)

    def _create(self, version: ModelVersion) -> None:
        """The version under its own number; those before it that are gone get one that is deleted."""
        name, number = version.name, version.version
        while (last := last_number(self._database, name)) < number - 1:
            self._mlflow.delete_version(name, self._mlflow.create_version(name, "deleted", "", {}))
            assert last_number(self._database, name) == last + 1, "MLflow counts versions one by one"
        made = self._mlflow.create_version(name, f"atelier:{version.package.key}", version.run_id, to_tags(version))
        assert made == number, f"MLflow made version {made} of {name} where the log has {number}"


def version_of(event: LogEvent) -> ModelVersion:
    """The version that an event of ``registered_versions`` registered."""
    assert event.record is not None, "registrations carry their version"
    return ModelVersion(**event.record)


def _of(name: str, versions: Sequence[ModelVersion]) -> list[ModelVersion]:
    return [version for version in versions if version.name == name]


def _mark(keys: Sequence[str], versions: Sequence[ModelVersion]) -> str:
    state = [[version.version, version.package.digest, sorted(version.aliases)] for version in versions]
    return hashlib.sha256(json.dumps([list(keys), state]).encode()).hexdigest()
