"""What the ranks of an elastic job talk to, in the driving process: their places, notices, and the key-value pairs by which gloo finds the others.

It is bound to one address, answers only requests that carry the job's keyed digest, and interprets no value: JSON of a few fields from members,
bytes in and out for gloo.
"""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from infra import wire

MAX_BODY_BYTES = 2**20
MAX_TOTAL_BYTES = 2**28
REQUEST_TIMEOUT_S = 5.0
HOLD_S = 0.5  # how long a question waits for news


@dataclass
class Board:
    """What is to be told to members; written by the driver, read by the server's threads."""

    plans: dict[str, dict[str, Any]] = field(default_factory=dict)  # by member
    notices: dict[str, str] = field(default_factory=dict)  # by member: "", "regroup", "break"
    gone: set[str] = field(default_factory=set)
    closed: bool = False
    changed: threading.Condition = field(default_factory=threading.Condition)

    @contextmanager
    def change(self) -> Iterator[None]:
        with self.changed:
            yield
            self.changed.notify_all()

    def wait(self, ready: Callable[[], bool]) -> None:
        """Return when ``ready()``, or after a moment."""
        deadline = time.monotonic() + HOLD_S
        while not (self.closed or ready()) and (left := deadline - time.monotonic()) > 0:
            self.changed.wait(left)


class _Server(ThreadingHTTPServer):
    request_queue_size = 1024
    daemon_threads = True

    def __init__(self, address: str, secret: str, board: Board, on_word: Callable[[str, str, dict[str, Any]], None]) -> None:
        self.secret, self.board, self.on_word = secret, board, on_word
        self.lock = threading.Lock()
        self.values: dict[str, dict[str, bytes]] = defaultdict(dict)
        self.num_bytes = 0
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        super().__init__((address, 0), _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """A rank that was killed in the middle of a request: its task reports that, not this server."""

    def forget(self, before: int) -> None:
        """Drop the pairs of earlier generations."""
        with self.lock:
            for scope in [scope for scope in self.values if int(scope.split("/")[0]) < before]:
                self.num_bytes -= sum(map(len, self.values.pop(scope).values()))


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = REQUEST_TIMEOUT_S

    def log_message(self, format: str, *args: object) -> None:
        """Thousands of requests are nobody's interest."""

    def _answer(self, status: HTTPStatus, body: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _body(self) -> bytes | None:
        """The body of a request that is one of this job's; None, and answered, if it is none."""
        length = self.headers.get("Content-Length") or "0"
        if not length.isdecimal() or int(length) > MAX_BODY_BYTES or self.server.num_bytes + int(length) > MAX_TOTAL_BYTES:
            self._answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            return None
        body = self.rfile.read(int(length))
        if not wire.is_genuine(self.server.secret, self.command, self.path, body, self.headers.get(wire.HEADER) or ""):
            self._answer(HTTPStatus.FORBIDDEN)
            return None
        return body

    def _pair(self) -> tuple[str, str] | None:
        match = re.fullmatch(r"/kv/(\d{1,9}/[\w.-]{1,300})/([^/]{1,300})", self.path)
        if match is None:
            self._answer(HTTPStatus.NOT_FOUND)
            return None
        return match[1], match[2]

    def do_GET(self) -> None:
        if self._body() is None or (name := self._pair()) is None:
            return
        with self.server.lock:
            value = self.server.values.get(name[0], {}).get(name[1])
        self._answer(HTTPStatus.NOT_FOUND if value is None else HTTPStatus.OK, value or b"")

    def do_PUT(self) -> None:
        if (body := self._body()) is None or (name := self._pair()) is None:
            return
        with self.server.lock:
            self.server.num_bytes += len(body)
            self.server.values[name[0]][name[1]] = body
        self._answer(HTTPStatus.OK)

    def do_DELETE(self) -> None:
        """A rank has connected to all of its scope; the pairs go with their generation."""
        if self._body() is not None and self._pair() is not None:
            self._answer(HTTPStatus.OK)

    def do_POST(self) -> None:
        body = self._body()
        if body is None:
            return
        match = re.fullmatch(r"/member/([\w.-]{1,200})/(join|beat|measured|left)", self.path)
        if match is None:
            self._answer(HTTPStatus.NOT_FOUND)
            return
        name, kind = match.groups()
        word = json.loads(body)
        board = self.server.board
        if name not in board.gone and not board.closed:
            self.server.on_word(name, kind, word)
        if kind in ("measured", "left"):
            self._answer(HTTPStatus.OK, b"{}")
            return
        with board.changed:
            if kind == "join":
                board.wait(lambda: name in board.gone or board.plans.get(name, {}).get("generation", 0) > word["generation"])
            else:
                board.wait(lambda: name in board.gone or board.notices.get(name, "") != word["notice"])
            if name in board.gone or board.closed:
                status, told = HTTPStatus.GONE, {}
            elif kind == "beat":
                status, told = HTTPStatus.OK, {"notice": board.notices.get(name, "")}
            elif board.plans.get(name, {}).get("generation", 0) > word["generation"]:
                status, told = HTTPStatus.OK, board.plans[name]
            else:
                status, told = HTTPStatus.OK, {}
        self._answer(status, json.dumps(told).encode())


@contextmanager
def serve(address: str, secret: str, board: Board, on_word: Callable[[str, str, dict[str, Any]], None]) -> Iterator[_Server]:
    """Run the server on one address of this machine; ``on_word`` (name, kind of word, what was said) is called in its threads."""
    server = _Server(address, secret, board, on_word)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, name="elastic rendezvous", daemon=True)
    thread.start()
    try:
        yield server
    finally:
        with board.change():
            board.closed = True
        server.shutdown()
        server.server_close()
        thread.join()
