"""MLflow's client behind the registry: runs, model versions, aliases. Alone in importing mlflow, and only when it is used (seconds).

Reads of the embedded SQLite database go through ``infra._registry_sqlite`` instead, which needs no mlflow.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from functools import cached_property
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from infra._registry_sqlite import MARK
from infra._registry_version import ModelVersion, from_tags
from infra.access import mlflow_client_variables, without_password
from infra.errors import ServiceError
from infra.settings import Settings

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_EXPERIMENT = "atelier"
_MISSING = "RESOURCE_DOES_NOT_EXIST"
_EXISTS = "RESOURCE_ALREADY_EXISTS"
_PAGE = 1000
_BATCH = 1000
_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "4",
}


class MlflowBackend:
    """What the registry needs of MLflow, in our values and our errors.

    Args:
        uri: tracking URI of a server or a database; with ``database`` it is ours, and made when it is first needed.
        database: the file of the embedded SQLite database, or None.
        artifacts: where MLflow runs may keep files.
        variables: by which MLflow's client says who it is.
        cache: local folder that keeps an empty database, so that a new workspace does not wait for MLflow's migrations.
    """

    def __init__(
        self, uri: str, database: Path | None, artifacts: Path, cache: Path, variables: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        self._uri, self._database, self._artifacts, self._cache = uri, database, artifacts, cache
        self._variables = variables

    @classmethod
    def open(cls, settings: Settings) -> MlflowBackend:
        """The backend of ``settings.registry``, or of ``mlflow.db`` in the state folder; touches nothing yet."""
        artifacts = settings.state_dir / "mlflow-artifacts"
        if settings.registry:
            return cls(settings.registry, None, artifacts, settings.cache_path, mlflow_client_variables(settings))
        database = settings.state_dir / "mlflow.db"
        return cls(f"sqlite:///{database}", database, artifacts, settings.cache_path)

    @cached_property
    def _client(self) -> MlflowClient:
        for key, value in (*_QUIET.items(), *self._variables.items()):
            os.environ.setdefault(key, value)
        from mlflow.tracking import MlflowClient

        self.make_ready()
        return MlflowClient(tracking_uri=self._uri, registry_uri=self._uri)

    def make_ready(self) -> None:
        """Make the database if it is ours and not there, so that MLflow's own server can be started on it."""
        if self._database is not None and not self._database.exists():
            self._new_database(self._database)

    def make_template(self) -> Path:
        """Make an empty database of this version of MLflow if it is not in the cache: a new workspace then has its own at once. Takes seconds."""
        empty = self._cache / "templates" / f"mlflow-{metadata.version('mlflow')}.db"
        empty.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{empty}.lock"):
            if not empty.exists():
                with tempfile.TemporaryDirectory(dir=empty.parent) as scratch:
                    made = Path(scratch) / "mlflow.db"
                    self._make_database(made)
                    made.replace(empty)
        return empty

    def _new_database(self, database: Path) -> None:
        """Copy an empty database of this version of MLflow; the first time on a machine, let MLflow make it."""
        empty = self.make_template()
        database.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{database}.lock"):
            if database.exists():
                return
            partial = database.with_name(f".{database.name}.{os.getpid()}.partial")
            shutil.copyfile(empty, partial)
            with closing(sqlite3.connect(partial)) as connection, connection:
                # MLflow wrote down the folder in which the empty database was made.
                connection.execute("UPDATE experiments SET artifact_location = ?", (self._artifacts.as_uri(),))
            partial.replace(database)

    def _make_database(self, database: Path) -> None:
        make_schema(f"sqlite:///{database}", self._artifacts.as_uri())

    @contextmanager
    def _ours(self, unless: str = "") -> Iterator[MlflowClient]:
        """MLflow's client; its errors become ours. The body ends early, without an error, at one with the code ``unless``."""
        client = self._client
        from mlflow.exceptions import MlflowException

        try:
            yield client
        except MlflowException as error:
            if error.error_code != unless:
                raise ServiceError(f"The model registry (MLflow at {without_password(self._uri)})", str(error)) from error

    @cached_property
    def _experiment(self) -> str:
        with self._ours() as client:
            found = client.get_experiment_by_name(_EXPERIMENT)
            if found is not None:
                return str(found.experiment_id)
            location = self._artifacts.as_uri() if self._database is not None else None
            return str(client.create_experiment(_EXPERIMENT, artifact_location=location))

    def start_run(self, name: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> str:
        """A new run; its id."""
        from mlflow.entities import Param

        experiment = self._experiment
        with self._ours() as client:
            run_id = str(client.create_run(experiment, run_name=name, tags=dict(tags)).info.run_id)
            values = [Param(_key(key), str(value)[:6000]) for key, value in params.items()]
            for start in range(0, len(values), 100):
                client.log_batch(run_id, params=values[start : start + 100])
            return run_id

    def has_run(self, run_id: str) -> bool:
        found = False
        with self._ours(unless=_MISSING) as client:
            client.get_run(run_id)
            found = True
        return found

    def log_metrics(self, run_id: str, step: int, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        at = int(time.time() * 1000)
        metrics = [Metric(_key(key), float(value), at, step) for key, value in values.items()]
        with self._ours() as client:
            for start in range(0, len(metrics), _BATCH):
                client.log_batch(run_id, metrics=metrics[start : start + _BATCH])

    def end_run(self, run_id: str, status: str) -> None:
        with self._ours() as client:
            client.set_terminated(run_id, status)

    def old_runs(self, before: float) -> list[tuple[str, float]]:
        """Id and end of the runs that ended before a moment (seconds since 1970); those that still run are none."""
        if self._database is not None and not self._database.exists():
            return []
        found: list[tuple[str, float]] = []
        with self._ours() as client:
            token: str | None = None
            while token is None or token:
                query = f"attributes.end_time > 0 and attributes.end_time < {int(before * 1000)}"
                page = client.search_runs([self._experiment], query, max_results=_PAGE, page_token=token)
                found += [(run.info.run_id, run.info.end_time / 1000) for run in page]
                token = page.token or ""
        return found

    def delete_run(self, run_id: str) -> None:
        """Remove a run with its metrics; on a server it is marked as deleted, and ``mlflow gc`` there removes it."""
        with self._ours(unless=_MISSING) as client:
            client.delete_run(run_id)
            if self._database is not None:
                client._tracking_client.store._hard_delete_run(run_id)

    def versions(self, name: str | None = None) -> list[ModelVersion]:
        """All versions that Atelier registered, of one name or of all, by name and number."""
        found: list[ModelVersion] = []
        with self._ours() as client:
            raw: list[Any] = []
            token: str | None = None
            while token is None or token:
                page = client.search_model_versions(f"name='{name}'" if name else None, max_results=_PAGE, page_token=token)
                raw.extend(page)
                token = page.token or ""
            # A search leaves the aliases out; the model itself has them.
            aliases = {model: client.get_registered_model(model).aliases for model in {version.name for version in raw}}
        for version in raw:
            own = [alias for alias, number in aliases[version.name].items() if int(number) == int(version.version)]
            value = from_tags(version.name, int(version.version), own, version.run_id, version.tags)
            found.extend([value] if value else [])
        return sorted(found, key=lambda version: (version.name, version.version))

    def create_version(self, name: str, source: str, run_id: str, tags: Mapping[str, str]) -> int:
        """A new version with all its tags at once; its number."""
        self._create_model(name)
        with self._ours() as client:
            return int(client.create_model_version(name, source, run_id=run_id or None, tags=dict(tags), await_creation_for=0).version)

    def _create_model(self, name: str) -> None:
        with self._ours(unless=_EXISTS) as client:
            client.create_registered_model(name)

    def set_mark(self, name: str, value: str) -> None:
        """Note on the model itself which state of the log it was brought to."""
        self._create_model(name)
        with self._ours() as client:
            client.set_registered_model_tag(name, MARK, value)

    def delete_model(self, name: str) -> None:
        """Remove all versions and forget their numbers; nothing happens if there is no such model."""
        with self._ours(unless=_MISSING) as client:
            client.delete_registered_model(name)

    def set_tag(self, name: str, version: int, key: str, value: str) -> None:
        with self._ours() as client:
            client.set_model_version_tag(name, str(version), key, value)

    def set_alias(self, name: str, alias: str, version: int) -> None:
        with self._ours() as client:
            client.set_registered_model_alias(name, alias, str(version))

    def delete_alias(self, name: str, alias: str) -> None:
        with self._ours() as client:
            client.delete_registered_model_alias(name, alias)

    def delete_version(self, name: str, version: int) -> None:
        """Remove it; nothing happens if it is gone already."""
        with self._ours(unless=_MISSING) as client:
            client.delete_model_version(name, str(version))


def _key(name: str) -> str:
    """A name that MLflow accepts for a parameter or metric."""
    return re.sub(r"[^\w\-./ ]", "_", name)[:250]


def make_schema(uri: str, artifacts: str) -> None:
    """Let MLflow make its tables in an empty database.

    Its server does so, too, but in several processes at once, which get into each other's way in a database that is no file.

    Args:
        uri: SQLAlchemy's; may hold a password.
        artifacts: URI below which the files of runs go that name no other place.

    Raises:
        ServiceError: the database refuses.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
    from sqlalchemy.exc import SQLAlchemyError

    logging.getLogger("mlflow").setLevel(logging.ERROR)  # the migrations tell of each step, whatever MLflow's variables say
    try:
        SqlAlchemyStore(uri, artifacts).engine.dispose()
    except (MlflowException, SQLAlchemyError) as error:
        raise ServiceError(f"MLflow's database at {without_password(uri)}", str(error)) from error


if __name__ == "__main__":
    from infra.settings import load_settings

    print(MlflowBackend.open(load_settings()).make_template())
