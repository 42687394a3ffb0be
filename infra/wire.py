"""How a rank proves that it is one of this job's: every request carries a keyed digest of itself. Standard library only."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import secrets

HEADER = "X-Atelier-Digest"
SECRET_VARIABLE = "ATELIER_JOB_SECRET"
DRIVER_VARIABLE = "ATELIER_DRIVER"  # address and port of the driver's server
MEMBER_VARIABLE = "ATELIER_MEMBER"  # name of this attempt of a process; no two ever have the same
HOST_VARIABLE = "ATELIER_MEMBER_HOST"  # address and interface of this member towards the others
PLACE_VARIABLE = "ATELIER_MEMBER_PLACE"  # which of its machine's ranks: the GPU to take
MEMORY_VARIABLE = "ATELIER_COMMIT_MEMORY"  # file in memory that outlives the process
LARGEST_VARIABLE = "ATELIER_LARGEST_SIZE"
RESTART_STATUS = 75  # "start me again": the process could not leave a broken group in any other way
LEFT_STATUS = 76  # it left the group because it was asked to


def new_secret() -> str:
    return secrets.token_hex(32)


def digest(secret: str, method: str, path: str, body: bytes) -> str:
    """HMAC-SHA256 over everything that a request says; who listens on the wire can repeat a request, but make none of their own."""
    return hmac.new(bytes.fromhex(secret), f"{method} {path}\n".encode() + body, hashlib.sha256).hexdigest()


def is_genuine(secret: str, method: str, path: str, body: bytes, given: str) -> bool:
    return hmac.compare_digest(digest(secret, method, path, body), given)


def request(server: tuple[str, int], secret: str, method: str, path: str, body: bytes = b"", *, timeout_s: float) -> tuple[int, bytes]:
    """One request; returns status and body.

    Raises:
        OSError: the server does not answer (time-outs among them).
    """
    connection = http.client.HTTPConnection(*server, timeout=timeout_s)
    try:
        connection.request(method, path, body, {HEADER: digest(secret, method, path, body)})
        response = connection.getresponse()
        return response.status, response.read()
    except http.client.HTTPException as error:
        raise ConnectionError(f"{type(error).__name__}: {error}") from error
    finally:
        connection.close()
