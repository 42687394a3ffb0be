"""The server that both rendezvous share: on one address of this machine, and for nobody but this job's ranks.

Every request carries the job's keyed digest (``infra.wire``); one that does not is answered 403 before anything looks at it. Bodies are bounded, one by one
and together, and are bytes: nothing here interprets them.
"""

from __future__ import annotations

import socket
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from infra import wire

MAX_BODY_BYTES = 2**20
MAX_TOTAL_BYTES = 2**28
REQUEST_TIMEOUT_S = 5.0


class KeyedServer(ThreadingHTTPServer):
    """Key-value pairs by scope, which its handler fills; ``lock`` guards them."""

    request_queue_size = 1024

    def __init__(self, address: str, secret: str, handler: type[KeyedHandler]) -> None:
        self.secret = secret
        self.lock = threading.Lock()
        self.values: dict[str, dict[str, bytes]] = defaultdict(dict)
        self.num_bytes = 0
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        super().__init__((address, 0), handler)

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def put(self, scope: str, key: str, value: bytes) -> None:
        """Call it with the lock."""
        self.num_bytes += len(value) - len(self.values[scope].get(key, b""))
        self.values[scope][key] = value

    def drop(self, scope: str) -> None:
        """Call it with the lock."""
        self.num_bytes -= sum(map(len, self.values.pop(scope, {}).values()))

    def handle_error(self, request: object, client_address: object) -> None:
        """A rank that was killed in the middle of a request: its task reports that, not this server."""

    @contextmanager
    def running(self, name: str) -> Iterator[None]:
        """Answer in a thread of that name, and end with the block."""
        thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, name=name, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self.shutdown()
            self.server_close()
            thread.join()


class KeyedHandler(BaseHTTPRequestHandler):
    server: KeyedServer
    timeout = REQUEST_TIMEOUT_S
    wbufsize = -1  # an answer in one packet: the second of two would wait for the first one's acknowledgement

    def log_message(self, format: str, *args: object) -> None:
        """Thousands of requests a start are nobody's interest."""

    def answer(self, status: HTTPStatus, body: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def body(self) -> bytes | None:
        """The body of a request of this job's; None, and answered, if it is none, or too large."""
        length = self.headers.get("Content-Length") or "0"
        if not length.isdecimal() or int(length) > MAX_BODY_BYTES or self.server.num_bytes + int(length) > MAX_TOTAL_BYTES:
            self.answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            return None
        body = self.rfile.read(int(length))
        if not wire.is_genuine(self.server.secret, self.command, self.path, body, self.headers.get(wire.HEADER) or ""):
            self.answer(HTTPStatus.FORBIDDEN)
            return None
        return body
