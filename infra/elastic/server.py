"""What the ranks of an elastic job talk to, in the driving process: their places, notices, and the key-value pairs by which gloo finds the others.

It is bound to one address, answers only requests that carry the job's keyed digest, and interprets no value: JSON of a few fields from members,
bytes in and out for gloo.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from infra._keyed_server import KeyedHandler, KeyedServer

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


class _Server(KeyedServer):
    def __init__(self, address: str, secret: str, board: Board, on_word: Callable[[str, str, dict[str, Any]], None]) -> None:
        self.board, self.on_word = board, on_word
        super().__init__(address, secret, _Handler)

    def forget(self, before: int) -> None:
        """Drop the pairs of earlier generations."""
        with self.lock:
            for scope in [scope for scope in self.values if int(scope.split("/")[0]) < before]:
                self.drop(scope)


class _Handler(KeyedHandler):
    server: _Server

    def _pair(self) -> tuple[str, str] | None:
        match = re.fullmatch(r"/kv/(\d{1,9}/[\w.-]{1,300})/([^/]{1,300})", self.path)
        if match is None:
            self.answer(HTTPStatus.NOT_FOUND)
            return None
        return match[1], match[2]

    def do_GET(self) -> None:
        if self.body() is None or (name := self._pair()) is None:
            return
        with self.server.lock:
            value = self.server.values.get(name[0], {}).get(name[1])
        self.answer(HTTPStatus.NOT_FOUND if value is None else HTTPStatus.OK, value or b"")

    def do_PUT(self) -> None:
        if (body := self.body()) is None or (name := self._pair()) is None:
            return
        with self.server.lock:
            self.server.put(*name, body)
        self.answer(HTTPStatus.OK)

    def do_DELETE(self) -> None:
        """A rank has connected to all of its scope; the pairs go with their generation."""
        if self.body() is not None and self._pair() is not None:
            self.answer(HTTPStatus.OK)

    def do_POST(self) -> None:
        body = self.body()
        if body is None:
            return
        match = re.fullmatch(r"/member/([\w.-]{1,200})/(join|beat|measured|left)", self.path)
        if match is None:
            self.answer(HTTPStatus.NOT_FOUND)
            return
        name, kind = match.groups()
        word = json.loads(body)
        board = self.server.board
        if name not in board.gone and not board.closed:
            self.server.on_word(name, kind, word)
        if kind in ("measured", "left"):
            self.answer(HTTPStatus.OK, b"{}")
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
        self.answer(status, json.dumps(told).encode())


@contextmanager
def serve(address: str, secret: str, board: Board, on_word: Callable[[str, str, dict[str, Any]], None]) -> Iterator[_Server]:
    """Run the server on one address of this machine; ``on_word`` (name, kind of word, what was said) is called in its threads."""
    server = _Server(address, secret, board, on_word)
    with server.running("elastic rendezvous"):
        try:
            yield server
        finally:
            with board.change():
                board.closed = True
