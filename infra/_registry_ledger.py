"""How the registry changes: noted, done, logged; and what a kill in between left is finished by whoever comes next."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Literal

from filelock import FileLock

from infra._registry_log import EventLog, whoami
from infra._registry_mlflow import MlflowBackend
from infra._registry_sqlite import read_versions
from infra._registry_version import ModelVersion, check_name, to_tags
from infra.artifacts import Artifact, fetch, find, publish
from infra.errors import StoreAccessError
from infra.promotion import CHALLENGER, CHAMPION, LogEvent, registered_versions, replay_aliases
from infra.settings import Settings
from infra.store import Store


class Ledger:
    """MLflow's present and the log's past, kept in step.

    Args:
        settings: where MLflow is, and the state folder.
        store: packages and the log.
    """

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings, self._store = settings, store
        self.log = EventLog(store)
        self.mlflow = MlflowBackend.open(settings)
        self._database = None if settings.registry else settings.state_dir / "mlflow.db"

    @cached_property
    def lock(self) -> FileLock:
        """Held by one process of this machine at a time; reentrant."""
        folder = self._settings.state_dir
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreAccessError(
                str(folder), error.strerror or str(error), "The registry's database needs a folder that can be written."
            ) from error
        return FileLock(folder / "registry.lock", timeout=120)

    def read(self, name: str | None = None) -> list[ModelVersion]:
        """The versions that MLflow has; without importing it where the database is ours."""
        found = None if self._database is None else read_versions(self._database, name)
        return self.mlflow.versions(name) if found is None else found

    @contextmanager
    def changing(self, name: str) -> Iterator[None]:
        """The lock (it may be held already), with everything that was begun before finished, and the log up to date."""
        check_name(name)
        with self.lock:
            if self.lock.lock_counter == 1:
                self._heal(name)
            yield

    def carry_out(self, event: LogEvent) -> None:
        """Note the event, do it, log it."""
        while not self.log.begin(event):
            self._heal(event.name)  # another machine's, or one that was killed
        self._apply(event)
        self.log.finish(event)

    def _apply(self, event: LogEvent) -> None:
        """Do what the event says; doing it twice does no harm."""
        if event.operation == "delete":
            assert event.record is not None
            for alias in ModelVersion(**event.record).aliases:
                self.mlflow.delete_alias(event.name, alias)
            self.mlflow.delete_version(event.name, event.version)
            package = ModelVersion(**event.record).package
            if all(version.package.digest != package.digest for version in self.read(None)):
                self._store.delete(package.key)
        elif event.alias is not None and event.after is not None:
            self.mlflow.set_alias(event.name, event.alias, event.after)
            if event.alias == CHAMPION and aliases_of(self.read(event.name)).get(CHALLENGER) == event.after:
                self.mlflow.delete_alias(event.name, CHALLENGER)

    def _heal(self, name: str) -> None:
        """Finish what was begun, log what was not logged: a version without its entry, an alias that was moved in MLflow itself."""
        pending = self.log.pending(name)
        if pending is not None:
            self._apply(pending)
            self.log.finish(pending)
        self.restore(name)
        events = self.log.read(name)
        versions = self.read(name)
        logged = registered_versions(events)
        for version in versions:
            if version.version not in logged:
                self.log.append(self.registration(version, "register", None))
        was, found = replay_aliases(events), aliases_of(versions)
        for alias in sorted(was.keys() | found.keys()):
            before, after = was.get(alias), found.get(alias)
            if before != after:
                event = LogEvent(
                    at=self.log.stamp(name),
                    who="unknown",
                    operation="outside",
                    name=name,
                    version=after or before or 0,
                    alias=alias,
                    before=before,
                    after=after,
                    reason="changed in MLflow, not by Atelier",
                )
                self.log.append(event)

    def restore(self, name: str) -> None:
        """Bring the versions of the log into a database that has never seen the model: another machine's, or a new one after a loss."""
        events = self.log.read(name)
        alive = registered_versions(events)
        if not alive or self.read(name):
            return
        for number in range(1, max(alive) + 1):
            event = alive.get(number)
            record = ModelVersion(**event.record) if event and event.record else None
            made = self.create(record) if record else self.mlflow.create_version(name, "deleted", "", {})
            if made != number:  # it had versions, which were deleted in MLflow itself: that is for a person to decide
                self.mlflow.delete_version(name, made)
                return
            if record is None:
                self.mlflow.delete_version(name, number)
        for alias, number in replay_aliases(events).items():
            self.mlflow.set_alias(name, alias, number)

    def create(self, version: ModelVersion) -> int:
        """Put the version into MLflow; its number."""
        return self.mlflow.create_version(version.name, f"atelier:{version.package.key}", version.run_id, to_tags(version))

    def registration(self, version: ModelVersion, operation: Literal["register", "import"], who: str | None) -> LogEvent:
        """The event that says that this version is there."""
        return LogEvent(
            at=self.log.stamp(version.name),
            who=who or whoami(),
            operation=operation,
            name=version.name,
            version=version.version,
            record=version.model_copy(update={"aliases": []}).model_dump(),
        )

    def keep(self, package: Artifact) -> Artifact:
        """The package under its digest; copied there if it is not yet."""
        key = f"packages/{package.digest}"
        if package.key == key or (kept := find(self._store, key)) is None or kept.digest != package.digest:
            folder = fetch(self._store, package, self._settings.cache_path)
            return package if package.key == key else publish(self._store, folder, key, package.kind)
        return kept


def aliases_of(versions: list[ModelVersion]) -> dict[str, int]:
    """Where each alias of one model points."""
    return {alias: version.version for version in versions for alias in version.aliases}
