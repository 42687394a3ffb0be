"""Where the ranks of one job find each other: who is which rank, and the key-value server that Horovod's gloo asks for addresses.

Horovod brings such a server; it listens on all interfaces, and takes and unpickles from anyone what it is sent. This one is bound to one address, talks
only to the machines of its job and answers only what carries the job's keyed digest (gloo's own client can send none: ``infra.relay`` stands between),
knows only the scopes of its job, and never interprets a value; it cuts values into parts of equal length, no more.
"""

from __future__ import annotations

import re
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from ipaddress import ip_address

from infra._keyed_server import KeyedHandler, KeyedServer

HOLD_S = 2.0  # how long a rank's question for the others is kept open while some have not come
# How long ranks wait for each other at the start, while the slowest still imports its libraries.
GLOO_TIMEOUT_S = 120


@dataclass(frozen=True)
class Slot:
    """One rank's place: among all, among those of its machine (local), among those with the same local rank on other machines (cross)."""

    host: str
    rank: int
    size: int
    local_rank: int
    local_size: int
    cross_rank: int
    cross_size: int

    @property
    def host_name(self) -> str:
        """The host as a part of a URL."""
        return re.sub(r"[^\w.-]", "_", self.host)

    def horovod_env(self, interface: str) -> dict[str, str]:
        return {
            "ATELIER_COLLECTIVES": "horovod",
            "HOROVOD_HOSTNAME": self.host_name,
            "HOROVOD_RANK": str(self.rank),
            "HOROVOD_SIZE": str(self.size),
            "HOROVOD_LOCAL_RANK": str(self.local_rank),
            "HOROVOD_LOCAL_SIZE": str(self.local_size),
            "HOROVOD_CROSS_RANK": str(self.cross_rank),
            "HOROVOD_CROSS_SIZE": str(self.cross_size),
            "HOROVOD_CONTROLLER": "gloo",
            "HOROVOD_CPU_OPERATIONS": "gloo",
            "HOROVOD_GLOO_IFACE": interface,
            "HOROVOD_GLOO_TIMEOUT_SECONDS": str(GLOO_TIMEOUT_S),
        }

    def torch_env(self, interface: str, master: tuple[str, int]) -> dict[str, str]:
        return {
            "ATELIER_COLLECTIVES": "torch",
            "RANK": str(self.rank),
            "WORLD_SIZE": str(self.size),
            "LOCAL_RANK": str(self.local_rank),
            "LOCAL_WORLD_SIZE": str(self.local_size),
            "GROUP_RANK": str(self.cross_rank),
            "MASTER_ADDR": master[0],
            "MASTER_PORT": str(master[1]),
            "GLOO_SOCKET_IFNAME": interface,
            "NCCL_SOCKET_IFNAME": interface,
        }


def assign_ranks(hosts: Sequence[str]) -> list[Slot]:
    """The place of each process, given its host; processes of one host get neighbouring ranks. As Horovod's ``get_host_assignments``.

    Returns:
        One slot per process, in the order of ``hosts`` (so not sorted by rank).
    """
    members: dict[str, list[int]] = {}
    for index, host in enumerate(hosts):
        members.setdefault(host, []).append(index)
    slots: dict[int, Slot] = {}
    for host, indices in members.items():
        for local_rank, index in enumerate(indices):
            peers = [other for other, theirs in members.items() if len(theirs) > local_rank]
            slots[index] = Slot(host, len(slots), len(hosts), local_rank, len(indices), peers.index(host), len(peers))
    return [slots[index] for index in range(len(hosts))]


def address_towards(host: str) -> str:
    """This machine's address as ``host`` sees it."""
    address = ip_address(socket.getaddrinfo(host, None)[0][4][0])
    with socket.socket(socket.AF_INET6 if address.version == 6 else socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((str(address), 9))  # sends nothing: the kernel only looks up the route
        return str(probe.getsockname()[0])


class _Server(KeyedServer):
    def __init__(self, address: str, slots: Sequence[Slot], secret: str) -> None:
        self.admitted = {slot.host for slot in slots} | {address}
        self.sizes = {"global": len(slots)}
        for slot in slots:
            self.sizes[f"local_{slot.host_name}"] = slot.local_size
            self.sizes[f"cross_{slot.local_rank}"] = slot.cross_size
        super().__init__(address, secret, _Handler)
        self.complete = threading.Condition(self.lock)
        self.left: dict[str, set[str]] = defaultdict(set)

    def size_of(self, scope: str) -> int:
        """How many ranks meet in a scope, also if it is that of a process set, which is all of them; 0: it is none of this job's."""
        return self.sizes.get(re.sub(r"_process_set_hash_[0-9a-f]+$", "", scope), 0)

    def parts_for(self, scope: str, rank: int) -> bytes | None:
        """What all other ranks have put for this one, in their order; None if not all have come. Call it with the lock.

        A rank's value is one part of equal length for each other rank, in the order of the ranks.
        """
        size, values = self.size_of(scope), self.values[scope]
        if not 0 <= rank < size or any(str(other) not in values for other in range(size)):
            return None
        parts = []
        for other in range(size):
            if other != rank:
                value, place = values[str(other)], rank if rank < other else rank - 1
                length = len(value) // (size - 1)
                parts.append(value[place * length : (place + 1) * length])
        return b"".join(parts)

    def verify_request(self, request: object, client_address: object) -> bool:
        return isinstance(client_address, tuple) and client_address[0] in self.admitted


class _Handler(KeyedHandler):
    server: _Server

    def _name(self) -> tuple[str, str] | None:
        """Scope and key of the request; None, and answered, if they are none of this job's."""
        match = re.fullmatch(r"/([\w.-]{1,300})/([^/]{1,300})", self.path)
        if match is None:
            self.answer(HTTPStatus.BAD_REQUEST)
            return None
        scope, key = match.groups()
        if not self.server.size_of(scope):
            self.answer(HTTPStatus.FORBIDDEN)
            return None
        return scope, key

    def do_GET(self) -> None:
        if self.body() is not None and (name := self._name()):
            scope, key = name
            with self.server.lock:
                if match := re.fullmatch(r"for_(\d{1,9})", key):
                    value = self._parts(scope, int(match[1]))
                else:
                    value = self.server.values[scope].get(key)
            if value is None:
                self.answer(HTTPStatus.NOT_FOUND)
            else:
                self.answer(HTTPStatus.OK, value)

    def _parts(self, scope: str, rank: int) -> bytes | None:
        """Answers when all have come, since asking again and again would be hundreds of requests a second; but not much later than now."""
        deadline = time.monotonic() + HOLD_S
        while (parts := self.server.parts_for(scope, rank)) is None and (left := deadline - time.monotonic()) > 0:
            self.server.complete.wait(left)
        return parts

    def do_PUT(self) -> None:
        if (value := self.body()) is None or (name := self._name()) is None:
            return
        with self.server.lock:
            self.server.put(*name, value)
            if len(self.server.values[name[0]]) >= self.server.size_of(name[0]):
                self.server.complete.notify_all()
        self.answer(HTTPStatus.OK)

    def do_DELETE(self) -> None:
        """A rank has connected to all of its scope; when all have, the scope is emptied, so that they can meet a second time."""
        if self.body() is not None and (name := self._name()):
            scope, key = name
            with self.server.lock:
                self.server.left[scope].add(key)
                if len(self.server.left[scope]) >= self.server.size_of(scope):
                    del self.server.left[scope]
                    self.server.drop(scope)
            self.answer(HTTPStatus.OK)


@contextmanager
def serve_rendezvous(address: str, slots: Sequence[Slot], secret: str) -> Iterator[tuple[str, int]]:
    """Run the key-value server of one job on one address of this machine; gives its address and port."""
    server = _Server(address, slots, secret)
    with server.running("rendezvous"):
        yield address, server.port
