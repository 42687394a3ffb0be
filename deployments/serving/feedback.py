"""True answers that come later. A prediction's token says which version predicted what for which request, signed, so nothing has to be
remembered: any worker takes the feedback, also after a restart."""

from __future__ import annotations

import base64
import hashlib
import hmac
import itertools
import os
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from deployments.serving.tensors import refuse

HEADER = b"atelier-prediction"
MOST_ROWS = 16
_MAC_BYTES = 12
_SECRET = "serving/secret"


def secret_of(state_dir: Path) -> bytes:
    """The secret of this machine's servers, made when it is first needed; nobody else may read the file."""
    path = state_dir / _SECRET
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_bytes(32))
    except FileExistsError:
        pass  # every start but the first
    return path.read_bytes()


def request_ids() -> Iterator[str]:
    """Names for requests that no other process, on whatever machine, gives."""
    prefix = secrets.token_hex(8)
    return (f"{prefix}-{number:x}" for number in itertools.count())


class Told(NamedTuple):
    """What a token says: label or value of each row of a request; a token of before requests had ids has an empty one."""

    model: str
    version: int
    told: list[Any]
    request: str


class Signer:
    """Makes and reads tokens."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def sign(self, model: str, version: int, told: Sequence[str | float], request: str) -> bytes:
        """The token of a prediction: label or value of each row."""
        payload = base64.urlsafe_b64encode(orjson.dumps([model, version, told, request])).rstrip(b"=")
        return payload + b"." + self._mac(payload)

    def _mac(self, payload: bytes) -> bytes:
        code = hashlib.blake2b(payload, key=self._secret, digest_size=_MAC_BYTES).digest()
        return base64.urlsafe_b64encode(code)

    def read(self, token: str) -> Told:
        """What the token says.

        Raises:
            RequestRefusedError: not a token of ours.
        """
        payload, dot, code = token.encode(errors="replace").partition(b".")
        if not dot or not hmac.compare_digest(code, self._mac(payload)):
            raise refuse("'prediction' is not a token that this server gave: it stands in the header Atelier-Prediction of an answer")
        model, version, told, *request = orjson.loads(base64.urlsafe_b64decode(payload + b"=" * (-len(payload) % 4)))
        return Told(model, version, told, request[0] if request else "")
