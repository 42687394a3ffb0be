"""The registry: versions of models, their aliases, and a log of what was live when and why.

MLflow holds runs, versions, tags and aliases (SQLite in the state folder, or the server of ``ATELIER_REGISTRY``); packages lie in the
store under the digest of their content, and so does the log, one immutable object an event. Whatever changes something is noted first
(``registry/pending``), then done, then logged: after a kill in between, the next call finishes it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from infra._registry_ledger import Ledger, aliases_of
from infra._registry_log import whoami
from infra._registry_search import matches
from infra._registry_version import ModelVersion, check_alias, check_name, figures, iso, now, parse_ref
from infra._registry_zip import pack, unpack
from infra.artifacts import Artifact, fetch, publish
from infra.errors import ArtifactNotFoundError, CorruptArtifactError, InvalidOptionError, ModelNotFoundError
from infra.promotion import CHALLENGER, CHAMPION, LogEvent, Operation, live_at, previous_champion, registered_versions, replay_aliases
from infra.settings import Settings
from infra.store import Store

__all__ = ["CHALLENGER", "CHAMPION", "ModelVersion", "Registry"]


class Registry:
    """Opens nothing when it is made; reading the embedded database needs no mlflow.

    Args:
        settings: where MLflow is, and the state folder.
        store: the workspace: packages and the log.
    """

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings, self._store = settings, store
        self._ledger = Ledger(settings, store)

    # Runs

    def start_run(self, name: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> str:
        """A new MLflow run with these parameters; its id."""
        with self._ledger.lock:
            return self._ledger.mlflow.start_run(name, params, tags)

    def has_run(self, run_id: str) -> bool:
        """Whether this MLflow knows the run; another machine's may not, when each has a database of its own."""
        with self._ledger.lock:
            return self._ledger.mlflow.has_run(run_id)

    def log_metrics(self, run_id: str, step: int, values: Mapping[str, Any]) -> None:
        """Log the finite numbers among ``values``, in one request."""
        if numbers := figures(values):
            self._ledger.mlflow.log_metrics(run_id, step, numbers)

    def log_run_end(self, run_id: str, status: Literal["FINISHED", "FAILED", "KILLED"] = "FINISHED") -> None:
        self._ledger.mlflow.end_run(run_id, status)

    def old_runs(self, before: float) -> list[tuple[str, float]]:
        """Id and end of MLflow runs that ended before a moment (seconds since 1970), whether a version points at them or not."""
        with self._ledger.lock:
            return self._ledger.mlflow.old_runs(before)

    def delete_run(self, run_id: str) -> None:
        with self._ledger.lock:
            self._ledger.mlflow.delete_run(run_id)

    def recorded(self) -> list[ModelVersion]:
        """Every version that the log says is there, and every one that MLflow has: what must not lose what it points at."""
        log = self._ledger.log
        noted = [event.record for name in log.names() for event in registered_versions(log.read(name)).values()]
        return [ModelVersion.model_validate(record) for record in noted if record is not None] + self.versions()

    # Reading

    def versions(self, name: str | None = None) -> list[ModelVersion]:
        """Versions of one model, or of all, by name and number."""
        return self._ledger.read(name)

    def get(self, ref: str) -> ModelVersion:
        """The version of ``name@alias`` or ``name/3``; of ``name`` the champion, or the latest if there is none.

        Raises:
            ModelNotFoundError: with the names, versions or aliases that there are.
        """
        name, wanted = parse_ref(ref)
        versions = self.versions(name)
        if not versions:
            raise ModelNotFoundError(ref, sorted({version.name for version in self.versions()}))
        if wanted is None:
            return next((version for version in versions if CHAMPION in version.aliases), versions[-1])
        for version in versions:
            if wanted == version.version or wanted in version.aliases:
                return version
        aliases = [f"{name}@{alias}" for version in versions for alias in version.aliases]
        raise ModelNotFoundError(ref, aliases + [version.ref for version in versions])

    def search(
        self,
        *,
        name: str | None = None,
        tag: str | None = None,
        metric: str | None = None,
        since: str | None = None,
        until: str | None = None,
    ) -> list[ModelVersion]:
        """Versions that satisfy every condition given; see ``infra._registry_search.matches``.

        Raises:
            InvalidOptionError: a condition that cannot be understood; all of them at once.
        """
        test = matches(name=name, tag=tag, metric=metric, since=since, until=until)
        return [version for version in self.versions() if test(version)]

    def package_folder(self, version: ModelVersion) -> Path:
        """A local folder with the version's package, every file verified.

        Raises:
            CorruptArtifactError: a file differs from its digest; it is named.
        """
        return fetch(self._store, version.package, self._settings.cache_path)

    def mend(self, version: ModelVersion, package: Artifact) -> None:
        """Put the version's package back from another copy of it, if it was lost or damaged."""
        try:
            self.package_folder(version)
        except (ArtifactNotFoundError, CorruptArtifactError):
            with self._ledger.changing(version.name):
                self._store.delete(version.package.key)
                self._ledger.keep(package)

    def history(self, name: str) -> list[LogEvent]:
        """The log of a model, oldest first.

        Raises:
            ModelNotFoundError: nothing was ever registered under this name.
        """
        check_name(name)
        if self._ledger.log.pending(name) is not None:
            with self._ledger.changing(name):
                return self._ledger.log.read(name)
        events = self._ledger.log.read(name)
        if not events:
            raise ModelNotFoundError(name, self._ledger.log.names())
        if replay_aliases(events) == aliases_of(self.versions(name)):
            return events
        with self._ledger.changing(name):
            return self._ledger.log.read(name)

    def live_at(self, name: str, moment: datetime) -> int | None:
        """The version that was champion at a moment (UTC if it has no time zone); None if there was none."""
        return live_at(self.history(name), moment)

    # Changing

    def register(
        self,
        name: str,
        package: Artifact,
        *,
        algorithm: str,
        dataset: str,
        metrics: Mapping[str, Any],
        run_id: str = "",
        run_card_key: str = "",
        tags: Mapping[str, str] | None = None,
        who: str | None = None,
        operation: Literal["register", "import"] = "register",
    ) -> ModelVersion:
        """A new version of a model, without an alias; the same package under the same name is the same version.

        The package's files are kept under their digest, so that a later run that writes where they came from cannot change them.

        Raises:
            InvalidOptionError: a name that is none.
        """
        check_name(name)
        with self._ledger.changing(name):
            known = [version for version in self._ledger.read(name) if version.package.digest == package.digest]
            if known:
                return known[0]
            record = ModelVersion(
                name=name,
                version=0,
                algorithm=algorithm,
                dataset=dataset,
                metrics=figures(metrics),
                created=iso(now()),
                package=self._ledger.keep(package),
                run_id=run_id,
                run_card=run_card_key,
                tags=dict(tags or {}),
            )
            return self._ledger.register(record, operation, who)

    def promote(
        self,
        name: str,
        version: int,
        alias: str = CHAMPION,
        *,
        reason: str = "",
        who: str | None = None,
        compared: Mapping[str, Any] | None = None,
        operation: Operation = "promote",
    ) -> ModelVersion:
        """Let the alias point at this version, and log it. It points there already: nothing happens.

        Raises:
            ModelNotFoundError: no such version.
        """
        check_alias(alias)
        with self._ledger.changing(name):
            found = self.get(f"{name}/{version}")
            before = aliases_of(self._ledger.read(name)).get(alias)
            if before != version:
                event = LogEvent(
                    at=self._ledger.log.stamp(name),
                    who=who or whoami(),
                    operation=operation,
                    name=name,
                    version=version,
                    alias=alias,
                    before=before,
                    after=version,
                    reason=reason,
                    compared=dict(compared or {}),
                )
                self._ledger.carry_out(event)
                found = self.get(f"{name}/{version}")
            return found

    def rollback(self, name: str, *, reason: str = "", who: str | None = None) -> ModelVersion:
        """Make the champion before the present one champion again; a second time, the one before that.

        Raises:
            InvalidOptionError: there is none.
        """
        with self._ledger.changing(name):
            versions = self.versions(name)
            if not versions:
                raise ModelNotFoundError(name, sorted({version.name for version in self.versions()}))
            target = previous_champion(self._ledger.log.read(name), [version.version for version in versions])
            if target is None:
                raise InvalidOptionError(
                    f"a rollback of {name!r}", ["no earlier champion still exists"], f"`atelier models history {name}` shows all."
                )
            return self.promote(name, target, reason=reason or "rollback", who=who, operation="rollback")

    def note(
        self,
        name: str,
        version: int,
        *,
        reason: str,
        compared: Mapping[str, Any] | None = None,
        who: str | None = None,
        operation: Literal["canary", "judge"] = "canary",
        withdraw: bool = False,
    ) -> None:
        """Write into the log what became of a version, as a canary or when it was judged.

        Args:
            withdraw: take the alias ``challenger`` away from it, so that it can be put forward again.

        Raises:
            ModelNotFoundError: no such version.
        """
        with self._ledger.changing(name):
            found = self.get(f"{name}/{version}")
            withdraw = withdraw and CHALLENGER in found.aliases
            event = LogEvent(
                at=self._ledger.log.stamp(name),
                who=who or whoami(),
                operation=operation,
                name=name,
                version=version,
                alias=CHALLENGER if withdraw else None,
                before=version if withdraw else None,
                reason=reason,
                compared=dict(compared or {}),
            )
            self._ledger.carry_out(event)

    def tag(self, name: str, version: int, key: str, value: str) -> ModelVersion:
        """Set a tag of a version."""
        if not key or key.startswith(("atelier.", "mlflow.")):
            raise InvalidOptionError("a tag", [f"{key!r}: must not be empty, nor begin with 'atelier.' or 'mlflow.'"])
        with self._ledger.changing(name):
            self.get(f"{name}/{version}")
            self._ledger.mlflow.set_tag(name, version, key, value)
            return self.get(f"{name}/{version}")

    def delete(self, name: str, version: int, *, force: bool = False, reason: str = "", who: str | None = None) -> None:
        """Remove a version, and its package if no other version is the same; the log keeps that it was there.

        Raises:
            InvalidOptionError: it is the champion, and not ``force``.
        """
        with self._ledger.changing(name):
            found = self.get(f"{name}/{version}")
            if CHAMPION in found.aliases and not force:
                hint = "Promote or roll back to another version first, or use --force."
                raise InvalidOptionError(f"deleting {found.ref}", ["it is the champion"], hint)
            event = LogEvent(
                at=self._ledger.log.stamp(name),
                who=who or whoami(),
                operation="delete",
                name=name,
                version=version,
                reason=reason,
                record=found.model_dump(),
            )
            self._ledger.carry_out(event)

    def export(self, ref: str, path: Path) -> Path:
        """Write the version and its package into a zip file."""
        version = self.get(ref)
        pack(version, self.package_folder(version), path)
        return path

    def import_(self, path: Path, *, name: str | None = None, who: str | None = None) -> ModelVersion:
        """Register what ``export`` wrote, under its own name or another.

        Raises:
            InvalidSourceError: not such a file. UnsafeArchiveError: a member that climbs, a bomb.
            CorruptArtifactError: files that are not those that were exported.
        """
        with tempfile.TemporaryDirectory(prefix="atelier-") as scratch:
            version, folder = unpack(path, Path(scratch))
            package = publish(self._store, folder, f"packages/{version.package.digest}", version.package.kind)
        return self.register(
            name or version.name,
            package,
            algorithm=version.algorithm,
            dataset=version.dataset,
            metrics=version.metrics,
            tags={**version.tags, "imported_from": version.ref},
            who=who,
            operation="import",
        )
