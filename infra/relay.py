"""The line of gloo, inside a rank, to the key-value server of its job.

gloo's HTTP client knows an address and a port and can send no secret. So it talks to this small server, on loopback inside its own process, which
admits only connections of its own process, names the generation, and passes the request on with the job's keyed digest.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from infra import wire

FORWARD_TIMEOUT_S = 10.0
MAX_BODY_BYTES = 2**20


def is_own_connection(peer_port: int, own_port: int) -> bool:
    """Whether the other end of a loopback connection is a socket of this very process."""
    inodes = set()
    for fd in Path("/proc/self/fd").iterdir():
        try:
            inodes.add(fd.stat().st_ino)
        except OSError:
            continue  # closed meanwhile
    for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]:
        words = line.split()
        local, remote = int(words[1].split(":")[1], 16), int(words[2].split(":")[1], 16)
        if (local, remote) == (peer_port, own_port):
            return int(words[9]) in inodes
    return False


class Relay(ThreadingHTTPServer):
    """Listens from the start on, until the process ends; ``prefix`` comes before every path: in an elastic job it names the generation."""

    request_queue_size = 256
    daemon_threads = True

    def __init__(self, server: tuple[str, int], secret: str, admit: Callable[[int, int], bool] = is_own_connection) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.driver, self.secret, self.admit = server, secret, admit
        self.prefix = ""
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.5}, name="gloo relay", daemon=True).start()

    def become_rendezvous(self) -> None:
        """Let gloo, which is to be started in this process, ask here."""
        os.environ["HOROVOD_GLOO_RENDEZVOUS_ADDR"] = "127.0.0.1"
        os.environ["HOROVOD_GLOO_RENDEZVOUS_PORT"] = str(self.port)

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def verify_request(self, request: object, client_address: object) -> bool:
        return isinstance(client_address, tuple) and self.admit(int(client_address[1]), self.port)

    def handle_error(self, request: object, client_address: object) -> None:
        """gloo asks again."""


class _Handler(BaseHTTPRequestHandler):
    server: Relay
    timeout = FORWARD_TIMEOUT_S

    def log_message(self, format: str, *args: object) -> None:
        """Nobody's interest."""

    def _forward(self) -> None:
        length = self.headers.get("Content-Length") or "0"
        if not length.isdecimal() or int(length) > MAX_BODY_BYTES:
            self.send_error(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            return
        body = self.rfile.read(int(length))
        path = self.server.prefix + self.path
        try:
            status, answer = wire.request(self.server.driver, self.server.secret, self.command, path, body, timeout_s=FORWARD_TIMEOUT_S)
        except OSError:
            status, answer = HTTPStatus.NOT_FOUND, b""  # gloo goes on asking until its own time is up
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_PUT = do_DELETE = _forward
