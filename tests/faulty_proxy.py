"""An HTTP proxy in front of a server that fails some requests, the same ones in every run of the same requests: for tests of retries.

    with FaultyProxy("http://127.0.0.1:9000", rate=0.05, seed=0) as proxy:
        use(proxy.url)
    assert proxy.num_faults > 0

Every request has its number; whether it fails, and how, is drawn from a generator with a fixed seed. A failed request is answered with status 500
(once it was passed on, once it was not), or its connection is reset: before it was passed on, or after, or in the middle of the answer.
"""

from __future__ import annotations

import http.client
import random
import socket
import struct
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

FAULTS = ("status 500 before", "status 500 after", "reset before", "reset after", "reset in the answer")
_ERROR = (
    b'<?xml version="1.0"?><Error><Code>InternalError</Code><Message>We encountered an internal error. Please try again.</Message></Error>'
)
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "proxy-authorization", "proxy-authenticate"}


class FaultyProxy:
    """A context manager; ``url`` is where to send requests instead of to the server.

    Args:
        upstream: address of the server, ``http://host:port``.
        rate: share of the requests that fail, 0 to 1.
        seed: another seed, other requests.
        faults: kinds to choose from, see ``FAULTS``.

    Attributes:
        num_requests: seen so far.
        faults_seen: how often each kind was done.
    """

    def __init__(self, upstream: str, rate: float = 0.05, seed: int = 0, faults: tuple[str, ...] = FAULTS) -> None:
        self.upstream, self.rate, self.faults = urlsplit(upstream), rate, faults
        self.num_requests = 0
        self.faults_seen: Counter[str] = Counter()
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), self)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def num_faults(self) -> int:
        return self.faults_seen.total()

    def next_fault(self) -> str | None:
        """What happens to the next request."""
        with self._lock:
            self.num_requests += 1
            fault = self._random.choice(self.faults) if self._random.random() < self.rate else None
            if fault:
                self.faults_seen[fault] += 1
            return fault

    def __enter__(self) -> FaultyProxy:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], proxy: FaultyProxy) -> None:
        super().__init__(address, _Handler)
        self.proxy = proxy

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no news here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def _serve(self) -> None:
        body = self._body()
        fault = self.server.proxy.next_fault()
        if fault == "reset before":
            return self._reset()
        if fault == "status 500 before":
            return self._answer(500, [("Content-Type", "application/xml")], _ERROR)
        status, headers, data = self._forward(body)
        if fault == "reset after":
            return self._reset()
        if fault == "status 500 after":
            return self._answer(500, [("Content-Type", "application/xml")], _ERROR)
        self._answer(status, headers, data, cut=fault is not None)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _serve

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", "").lower():
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            continue
        return b"".join(parts)

    def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        upstream = self.server.proxy.upstream
        connection = http.client.HTTPConnection(upstream.hostname or "", upstream.port, timeout=60)
        try:
            # The Host header stays the client's, as its signature covers it.
            headers = {
                name: value for name, value in self.headers.items() if name.lower() not in _HOP_BY_HOP | {"expect", "content-length"}
            }
            headers["Content-Length"] = str(len(body))
            connection.request(self.command, self.path, body=body, headers=headers)
            answer = connection.getresponse()
            data = answer.read()
            return answer.status, [(name, value) for name, value in answer.getheaders() if name.lower() not in _HOP_BY_HOP], data
        finally:
            connection.close()

    def _answer(self, status: int, headers: list[tuple[str, str]], data: bytes, cut: bool = False) -> None:
        self.send_response_only(status)
        names = {name.lower() for name, _ in headers}
        for name, value in headers:
            self.send_header(name, value)
        if "content-length" not in names:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[: len(data) // 2] if cut else data)
        if cut:
            self._reset()

    def _reset(self) -> None:
        """Close with a TCP reset instead of an orderly end."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""
