"""Where Prefect and MLflow keep what they know: SQLite in the state folder, or two databases of one PostgreSQL server."""

from __future__ import annotations

import re
import shutil
from contextlib import closing
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

from infra._registry_mlflow import MlflowBackend, make_schema
from infra.errors import InvalidSettingError, MissingExtraError, ServiceError
from infra.prefect_server import make_template
from infra.settings import Settings


@dataclass(frozen=True, repr=False)
class Databases:
    """URLs; they may hold a password, so they are never printed.

    Attributes:
        prefect: for Prefect's server (SQLAlchemy, asynchronous).
        mlflow: for MLflow's server (SQLAlchemy).
        registry: for ``ATELIER_REGISTRY``; empty where the registry reads SQLite itself.
    """

    prefect: str
    mlflow: str
    registry: str


def plan_databases(settings: Settings) -> Databases:
    """The URLs that the settings ask for.

    Raises:
        InvalidSettingError: not a PostgreSQL URL with a database's name.
    """
    url = settings.database.get_secret_value()
    if not url:
        registry = settings.registry or f"sqlite:///{settings.state_dir / 'mlflow.db'}"
        return Databases(f"sqlite+aiosqlite:///{settings.state_dir / 'prefect' / 'prefect.db'}", registry, settings.registry)
    parts = urlsplit(url)
    name = parts.path.strip("/")
    if parts.scheme not in ("postgresql", "postgres") or not parts.hostname or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,50}", name):
        raise InvalidSettingError(["database: expected postgresql://USER:PASSWORD@HOST:PORT/NAME"])
    prefect = parts._replace(scheme="postgresql+asyncpg", path=f"/{name}_prefect").geturl()
    mlflow = parts._replace(scheme="postgresql+pg8000", path=f"/{name}_mlflow").geturl()
    return Databases(prefect, mlflow, mlflow)


def prepare_databases(settings: Settings) -> Databases:
    """Make what is not there yet: a migrated SQLite file, or the two databases.

    Raises:
        ServiceError: PostgreSQL does not answer, or does not let us make a database.
        MissingExtraError: its driver is not installed.
    """
    planned = plan_databases(settings)
    if not settings.database.get_secret_value():
        database = settings.state_dir / "prefect" / "prefect.db"
        database.parent.mkdir(parents=True, exist_ok=True)
        if not database.exists():
            partial = database.with_name("prefect.db.partial")
            shutil.copyfile(make_template(settings), partial)
            partial.replace(database)
        MlflowBackend.open(settings).make_ready()
        return planned
    if not _create_missing(settings.database.get_secret_value()):
        make_schema(planned.mlflow, "mlflow-artifacts:/")
    return planned


def _create_missing(url: str) -> bool:
    """``CREATE DATABASE`` for those of NAME_prefect and NAME_mlflow that do not exist, by way of the database ``postgres``.

    Returns:
        Whether MLflow's tables are there.
    """
    try:
        import pg8000.native as driver
    except ImportError:
        raise MissingExtraError("PostgreSQL", "postgresql") from None
    parts = urlsplit(url)
    name = parts.path.strip("/")

    def connect(database: str) -> Any:
        return closing(
            driver.Connection(
                unquote(parts.username or "postgres"),
                host=parts.hostname or "localhost",
                port=parts.port or 5432,
                password=unquote(parts.password) if parts.password else None,
                database=database,
                timeout=10,
            )
        )

    try:
        with connect("postgres") as connection:
            there = {row[0] for row in connection.run("SELECT datname FROM pg_database")}
            for wanted in (f"{name}_prefect", f"{name}_mlflow"):
                if wanted not in there:
                    connection.run(f'CREATE DATABASE "{wanted}"')  # the name was checked letter by letter
        with connect(f"{name}_mlflow") as connection:
            # The last thing that MLflow writes when it makes its tables.
            return bool(connection.run("SELECT 1 FROM information_schema.tables WHERE table_name = 'alembic_version'")) and bool(
                connection.run("SELECT 1 FROM alembic_version")
            )
    except (driver.DatabaseError, driver.InterfaceError, OSError) as error:
        raise ServiceError(f"PostgreSQL at {parts.hostname}:{parts.port or 5432}", f"{error}. Check ATELIER_DATABASE.") from None
