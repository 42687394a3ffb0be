"""HTTP as the server reads and writes it, straight on ASGI: on the way of an inference a framework's routing costs more than the model."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

import orjson

from deployments.serving.tensors import refuse

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

JSON = (b"content-type", b"application/json")
_LINGER_S = 10.0
_LINGER_BYTES = 1 << 30


def headers_of(scope: Scope) -> dict[bytes, bytes]:
    """Headers by name in small letters; of several the last."""
    return dict(scope["headers"])


def number_header(headers: Mapping[bytes, bytes], name: bytes) -> int | None:
    """A header that is a whole number from 0 up; None if it is not there.

    Raises:
        RequestRefusedError: it is something else.
    """
    value = headers.get(name)
    if value is None:
        return None
    if not value.isdigit() or len(value) > 18:
        raise refuse(f"the header {name.decode()} must be a whole number, got {value[:40].decode('latin-1')!r}")
    return int(value)


async def read_body(headers: dict[bytes, bytes], receive: Receive, limit: int) -> bytes | bytearray:
    """The whole body.

    Raises:
        RequestRefusedError: 413, before anything is read if the client states its length.
    """
    stated = number_header(headers, b"content-length")
    if stated is not None and stated > limit:
        raise too_large(limit)
    message = await receive()
    body: bytes | bytearray = message.get("body", b"")
    if not message.get("more_body"):
        _check_whole(message, body, limit)
        return body
    body = bytearray(body)
    while message.get("more_body"):
        message = await receive()
        body += message.get("body", b"")
        _check_whole(message, body, limit)
    return body


def _check_whole(message: MutableMapping[str, Any], body: bytes | bytearray, limit: int) -> None:
    if message["type"] == "http.disconnect":
        raise refuse("the client went away before the body was whole")
    if len(body) > limit:
        raise too_large(limit)


def too_large(limit: int) -> Exception:
    return refuse(f"the body is larger than the {limit / 2**20:g} MiB that are allowed", 413)


async def respond(send: Send, status: int, body: bytes, headers: Headers) -> None:
    """Send a whole answer."""
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"%d" % len(body)), *headers]})
    await send({"type": "http.response.body", "body": body})


async def respond_error(scope: Scope, receive: Receive, send: Send, status: int, reason: str, headers: Headers | None = None) -> None:
    """Send ``{"error": reason}``.

    After 413 the rest of the body is read and thrown away for a while: a client that only writes would otherwise see its connection
    reset instead of the answer.
    """
    body = orjson.dumps({"error": reason})
    more = [JSON, *(headers or [])]
    if status != 413:
        await respond(send, status, body, more)
        return
    start = {
        "type": "http.response.start",
        "status": status,
        "headers": [(b"content-length", b"%d" % len(body)), (b"connection", b"close"), *more],
    }
    await send(start)
    await send({"type": "http.response.body", "body": body, "more_body": True})
    expects = any(name == b"expect" for name, _ in scope["headers"])
    if not expects:  # who waits for "100 Continue" has sent nothing and reads the answer
        await _linger(receive)
    await send({"type": "http.response.body", "body": b""})


async def _linger(receive: Receive) -> None:
    end, size = time.monotonic() + _LINGER_S, 0
    while size < _LINGER_BYTES and (left := end - time.monotonic()) > 0:
        try:
            message = await asyncio.wait_for(receive(), left)
        except TimeoutError:
            return
        size += len(message.get("body", b""))
        if not message.get("more_body"):
            return
