"""A Dask scheduler that somebody else started; its workers are theirs, too."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from infra.clusters import Opened
from infra.clusters.tls import read_pems, security_of
from infra.errors import InvalidSettingError, ServiceError
from infra.settings import Settings

CONNECT_TIMEOUT_S = 10.0


def check(settings: Settings) -> None:
    """Raises:
    InvalidSettingError: settings that do not go with a cluster of somebody else's, or with this address.
    """
    address = settings.cluster
    if settings.min_slots:
        raise InvalidSettingError([f"min_slots: the workers of {address} are not ours to start and end; leave it out"])
    if settings.tls and not address.startswith("tls://"):
        raise InvalidSettingError([f"cluster: {address} is not encrypted, but ATELIER_TLS is set; write tls://, or leave ATELIER_TLS out"])
    if settings.tls is None and address.startswith("tls://"):
        security: Any = security_of(None)  # Dask's own configuration may name some
        if not (security.tls_ca_file and security.tls_client_cert):
            raise InvalidSettingError([f"cluster: {address} needs certificates; ATELIER_TLS names their folder"])


def open_kind(settings: Settings, stack: ExitStack) -> Opened:
    from distributed import Client

    address = settings.cluster
    security = security_of(read_pems(settings.tls) if settings.tls else None)
    try:
        client = Client(address, timeout=CONNECT_TIMEOUT_S, security=security, set_as_default=False)
        return Opened(stack.enter_context(client))
    except (OSError, ValueError) as error:
        raise ServiceError(f"The Dask scheduler at {address}", _why(error)) from error


def _why(error: BaseException) -> str:
    import ssl

    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ssl.SSLError):
            return f"it and we do not accept each other's certificates ({seen.reason}). Take those of its CA: ATELIER_TLS."
        seen = seen.__cause__ or seen.__context__
    return f"{error or type(error).__name__}. Check ATELIER_CLUSTER, or leave it out to use this machine."
