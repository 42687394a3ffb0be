"""How the registry changes: noted, done, logged; and what a kill in between left is finished by whoever comes next."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Literal

from filelock import FileLock

from infra._registry_log import EventLog, whoami
from infra._registry_mirror import Mirror, version_of
from infra._registry_mlflow import MlflowBackend
from infra._registry_version import ModelVersion, check_name, to_tags
from infra.artifacts import Artifact, fetch, find, publish
from infra.errors import StoreAccessError
from infra.promotion import CHALLENGER, CHAMPION, LogEvent, registered_versions, replay_aliases
from infra.settings import Settings
from infra.store import Store


class Ledger:
    """MLflow's present and the log's past, kept in step.

    The embedded database is one machine's own, so there the log is the truth and the database follows it (``Mirror``). A server of
    ``settings.registry`` is common to all and may be changed by others: what it says that the log does not is logged.

    Args:
        settings: where MLflow is, and the state folder.
        store: packages and the log.
    """

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings, self._store = settings, store
        self.log = EventLog(store)
        self.mlflow = MlflowBackend.open(settings)
        self._mirror = None if settings.registry else Mirror(settings.state_dir / "mlflow.db", self.mlflow, self.log)

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
        """The versions that there are; without importing MLflow where the database is ours and in step with the log."""
        if self._mirror is None:
            return self._read_server(name)
        if self._mirror.stale(name):
            with self.lock:
                for model in self._mirror.stale(name):  # another process may have been faster
                    self._heal(model)
        return self._mirror.present(name)

    def _read_server(self, name: str | None) -> list[ModelVersion]:
        found = self.mlflow.versions(name)
        if found:
            return found
        lost = [model for model in ([name] if name else self.log.names()) if registered_versions(self.log.read(model))]
        if not lost:
            return found
        with self.lock:
            for model in lost:
                self._restore_server(model)
        return self.mlflow.versions(name)

    @contextmanager
    def changing(self, name: str) -> Iterator[None]:
        """The lock (it may be held already), with everything that was begun before finished, and log and database in step."""
        check_name(name)
        with self.lock:
            if self.lock.lock_counter == 1:
                self._heal(name)
            yield

    def register(self, record: ModelVersion, operation: Literal["register", "import"], who: str | None) -> ModelVersion:
        """Give the version its number, and log it."""
        if self._mirror is not None:
            number = self.log.next_number(record.name, above=self._mirror.last_number(record.name))
            version = record.model_copy(update={"version": number})
            self.carry_out(self._registration(version, operation, who))
            return version
        # A server gives the number, so the version is made first; one that is not in the log yet is taken up by _heal.
        version = record.model_copy(update={"version": self._create(record)})
        self.log.append(self._registration(version, operation, who))
        return version

    def carry_out(self, event: LogEvent) -> None:
        """Note the event, do it, log it."""
        while not self.log.begin(event):
            self._heal(event.name)  # another machine's, or one that was killed
            event = event.model_copy(update={"at": self.log.stamp(event.name)})
        self._finish(event)
        if self._mirror is not None:
            self._mirror.follow(event.name)

    def _finish(self, event: LogEvent) -> None:
        """Do what was begun, then log it; doing it twice does no harm."""
        if self._mirror is not None:
            self._mirror.follow(event.name, event)
        else:
            self._apply_to_server(event)
        if event.operation == "delete":
            self._drop_package(event)
        self.log.finish(event)

    def _apply_to_server(self, event: LogEvent) -> None:
        if event.operation == "delete":
            for alias in version_of(event).aliases:
                self.mlflow.delete_alias(event.name, alias)
            self.mlflow.delete_version(event.name, event.version)
        elif event.alias is not None and event.after is None:  # withdrawn
            self.mlflow.delete_alias(event.name, event.alias)
        elif event.alias is not None and event.after is not None:
            self.mlflow.set_alias(event.name, event.alias, event.after)
            if event.alias == CHAMPION and aliases_of(self.mlflow.versions(event.name)).get(CHALLENGER) == event.after:
                self.mlflow.delete_alias(event.name, CHALLENGER)

    def _drop_package(self, event: LogEvent) -> None:
        """Remove the package of a deleted version unless another version, of any model, has the same."""
        package = version_of(event).package
        if self._mirror is None:
            others = self.mlflow.versions(None)
        else:  # the database may not know the models of other machines
            logs = [self.log.read(name) + [event] * (name == event.name) for name in self.log.names()]
            others = [version_of(made) for events in logs for made in registered_versions(events).values()]
        if all(version.package.digest != package.digest for version in others):
            self._store.delete(package.key)

    def _heal(self, name: str) -> None:
        """Finish what was begun, and bring log and database together."""
        pending = self.log.pending(name)
        if pending is not None:
            self._finish(pending)
        if self._mirror is None:
            self._restore_server(name)
            self._log_the_unlogged(name, self.mlflow.versions(name), "outside", "changed in MLflow, not by Atelier")
            return
        if not self.log.keys(name) and (versions := self._mirror.present(name)):
            self._log_the_unlogged(name, versions, "promote", "found in the database; the log was lost")
        self._mirror.follow(name)

    def _log_the_unlogged(self, name: str, versions: list[ModelVersion], operation: Literal["outside", "promote"], reason: str) -> None:
        """Write down what the database has and the log has not: a version without its entry, an alias that was moved."""
        events = self.log.read(name)
        logged = registered_versions(events)
        for version in versions:
            if version.version not in logged:
                self.log.append(self._registration(version, "register", None))
        was, found = replay_aliases(events), aliases_of(versions)
        for alias in sorted(was.keys() | found.keys()):
            before, after = was.get(alias), found.get(alias)
            if before != after:
                event = LogEvent(
                    at=self.log.stamp(name),
                    who="unknown",
                    operation=operation,
                    name=name,
                    version=after or before or 0,
                    alias=alias,
                    before=before,
                    after=after,
                    reason=reason,
                )
                self.log.append(event)

    def _restore_server(self, name: str) -> None:
        """Bring the versions of the log into a server that has never seen the model: a new one after a loss."""
        events = self.log.read(name)
        alive = registered_versions(events)
        if not alive or self.mlflow.versions(name):
            return
        for number in range(1, max(alive) + 1):
            event = alive.get(number)
            made = self._create(version_of(event)) if event else self.mlflow.create_version(name, "deleted", "", {})
            if made != number:  # it had versions, which were deleted in MLflow itself: that is for a person to decide
                self.mlflow.delete_version(name, made)
                return
            if event is None:
                self.mlflow.delete_version(name, number)
        for alias, number in replay_aliases(events).items():
            self.mlflow.set_alias(name, alias, number)

    def _create(self, version: ModelVersion) -> int:
        """Put the version into MLflow; its number."""
        return self.mlflow.create_version(version.name, f"atelier:{version.package.key}", version.run_id, to_tags(version))

    def _registration(self, version: ModelVersion, operation: Literal["register", "import"], who: str | None) -> LogEvent:
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
