"""Who may do what: a request's API key against the key ring."""

from __future__ import annotations

from typing import Final

from deployments.serving.keys import KeyRing, Role, read_keys
from deployments.serving.tensors import refuse
from infra.access import is_loopback
from infra.errors import InvalidOptionError
from infra.settings import Settings
from infra.store import open_store

ANYBODY: Final = "anybody"
CHALLENGE = [(b"www-authenticate", b'Bearer realm="atelier"')]


def check_access(host: str, settings: Settings, command: str) -> None:
    """Refuse to open a door to a network without a lock.

    Raises:
        InvalidOptionError: the address is not loopback and there is no API key.
    """
    if is_loopback(host) or read_keys(open_store(settings.workspace_uri)):
        return
    hint = "Make one: atelier keys create NAME --role admin"
    raise InvalidOptionError(command, [f"--host {host} is reached from outside, and there is no API key"], hint)


def allow(ring: KeyRing, headers: dict[bytes, bytes], role: Role) -> str:
    """The name of who asks, if their key has the role (an admin may predict, too).

    The key comes as ``Authorization: Bearer KEY`` or ``X-API-Key: KEY``.

    Raises:
        RequestRefusedError: 401 without a key that is known, 403 if it may not do this.
    """
    if ring.is_open:
        return ANYBODY
    sent = headers.get(b"x-api-key")
    if sent is None:
        scheme, _, sent = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer":
            raise refuse("an API key is needed: send it as 'Authorization: Bearer KEY' or as 'X-API-Key: KEY'", 401)
    key = ring.find(sent.strip().decode("latin-1"))
    if key is None:
        raise refuse("this API key is not known here, or was revoked", 401)
    if role == "admin" and key.role != "admin":
        raise refuse(f"the API key {key.name!r} has the role {key.role!r}, this needs 'admin'", 403)
    return key.name
