"""Who may ask the servers of a stack: on loopback everybody on this machine, elsewhere only who has the login.

One login (``ATELIER_LOGIN``, USER:PASSWORD) is for Prefect (its basic authentication) and MLflow (its app ``basic-auth``, whose users are kept as
salted hashes). The functions here give the variables for servers and clients; nothing here is ever printed or logged.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
from pathlib import Path

from infra._files import published_file
from infra.errors import InvalidSettingError
from infra.settings import Settings

LEAST_PASSWORD = 12  # what MLflow asks for, too


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens there."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def without_password(uri: str) -> str:
    """An address as it may be told: what stands before the host is left out."""
    scheme, separator, rest = uri.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}"


def login(settings: Settings) -> tuple[str, str] | None:
    """User and password; None if none is set.

    Raises:
        InvalidSettingError: not USER:PASSWORD, or too short. The value is not told.
    """
    text = settings.login.get_secret_value()
    if not text:
        return None
    user, colon, password = text.partition(":")
    if not user or not colon or len(password) < LEAST_PASSWORD or not text.isprintable():
        raise InvalidSettingError([f"login: must be USER:PASSWORD with a password of {LEAST_PASSWORD} characters or more"])
    return user, password


def check_exposure(service: str, host: str, settings: Settings) -> None:
    """Refuse to open a server to other machines without a login.

    Raises:
        InvalidSettingError: what to set.
    """
    if login(settings) is None and not is_loopback(host):
        raise InvalidSettingError(
            [f"login: {service} would listen on {host}, where other machines reach it: set ATELIER_LOGIN=USER:PASSWORD, or use 127.0.0.1"]
        )


def prefect_server_variables(settings: Settings) -> dict[str, str]:
    """For the process of the Prefect server."""
    found = login(settings)
    return {} if found is None else {"PREFECT_SERVER_API_AUTH_STRING": ":".join(found), **prefect_client_variables(settings)}


def prefect_client_variables(settings: Settings) -> dict[str, str]:
    """For whoever asks it: flows, workers, triggers."""
    found = login(settings)
    return {} if found is None else {"PREFECT_API_AUTH_STRING": ":".join(found)}


def mlflow_server_arguments(settings: Settings) -> list[str]:
    """Further arguments of ``mlflow server``."""
    return [] if login(settings) is None else ["--app-name", "basic-auth"]


def mlflow_server_variables(settings: Settings) -> dict[str, str]:
    """For the process of the MLflow server; its database of users lies in the state folder."""
    found = login(settings)
    if found is None:
        return {}
    user, password = found
    folder = settings.state_dir / "mlflow-auth"
    config = folder / "basic_auth.ini"
    lines = ["[mlflow]", "default_permission = READ", f"database_uri = sqlite:///{folder / 'users.db'}", f"admin_username = {user}"]
    lines += ["authorization_function = mlflow.server.auth:authenticate_request_basic_auth", "grant_default_workspace_access = false"]
    _write_private(config, "\n".join(lines) + "\n")
    return {
        "MLFLOW_AUTH_CONFIG_PATH": str(config),
        "MLFLOW_AUTH_ADMIN_USERNAME": user,
        "MLFLOW_AUTH_ADMIN_PASSWORD": password,
        # Signs its forms; the same after a restart.
        "MLFLOW_FLASK_SERVER_SECRET_KEY": hashlib.sha256(f"mlflow forms {user}:{password}".encode()).hexdigest(),
    }


def mlflow_client_variables(settings: Settings) -> dict[str, str]:
    """For whoever asks it."""
    found = login(settings)
    return {} if found is None else {"MLFLOW_TRACKING_USERNAME": found[0], "MLFLOW_TRACKING_PASSWORD": found[1]}


def _write_private(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.parent.chmod(0o700)
    with published_file(path) as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(text.encode())
