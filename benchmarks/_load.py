"""A light HTTP/1.1 load generator on one core: prebuilt requests over keep-alive connections, one request on its way on each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import uvloop


@dataclass
class Load:
    """What was seen.

    Attributes:
        latencies_s: of each answered request.
        statuses: how many of each.
        seconds: how long it took in all.
    """

    latencies_s: list[float] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def per_second(self) -> float:
        return len(self.latencies_s) / self.seconds

    @property
    def failed(self) -> int:
        return sum(count for status, count in self.statuses.items() if status != 200)


def post(path: str, body: bytes, headers: dict[str, str]) -> bytes:
    """A whole request as bytes."""
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: localhost",
        f"Content-Length: {len(body)}",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class _Client(asyncio.Protocol):
    def __init__(self, request: bytes, load: Load, end: float, done: asyncio.Future[None]) -> None:
        self._request, self._load, self._end, self._done = request, load, end, done
        self._buffer = b""
        self._begun = 0.0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's has another base
        self._send()

    def _send(self) -> None:
        assert self._transport is not None
        self._begun = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        head = self._buffer.find(b"\r\n\r\n")
        if head < 0:
            return
        lower = self._buffer[:head].lower()
        at = lower.index(b"content-length:") + 15
        stop = lower.find(b"\r\n", at)
        size = int(lower[at : stop if stop >= 0 else head])
        if len(self._buffer) < head + 4 + size:
            return
        now = time.perf_counter()
        self._load.latencies_s.append(now - self._begun)
        status = int(self._buffer[9:12])
        self._load.statuses[status] = self._load.statuses.get(status, 0) + 1
        self._buffer = b""
        if now >= self._end:
            assert self._transport is not None
            self._transport.close()
            if not self._done.done():
                self._done.set_result(None)
        else:
            self._send()

    def connection_lost(self, error: Exception | None) -> None:
        if not self._done.done():
            self._done.set_exception(error or ConnectionError("the server closed the connection"))


async def _run(port: int, requests: Sequence[bytes], seconds: float) -> Load:
    loop = asyncio.get_running_loop()
    load, begun = Load(), time.perf_counter()
    dones: list[asyncio.Future[None]] = [loop.create_future() for _ in requests]
    for request, done in zip(requests, dones, strict=True):
        await loop.create_connection(lambda request=request, done=done: _Client(request, load, begun + seconds, done), "127.0.0.1", port)  # type: ignore[misc]
    await asyncio.wait_for(asyncio.gather(*dones), seconds + 30)
    load.seconds = time.perf_counter() - begun
    return load


def run_load(port: int, requests: Sequence[bytes], seconds: float) -> Load:
    """Send each request again and again on a connection of its own, for so many seconds."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(port, requests, seconds))
