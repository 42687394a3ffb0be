"""Simulated ranks of ``scaling.py``: threads that speak the HTTP of Horovod's gloo, each from its host's loopback address, a connection a request."""

from __future__ import annotations

import http.client
import json
import sys
import threading
import time

from infra import wire
from infra._rendezvous import Slot, assign_ranks

ADDRESS_BYTES = 136  # of one gloo pair


class Rank(threading.Thread):
    def __init__(self, slot: Slot, server: tuple[str, int], secret: str, protocol: str, barriers: dict[str, threading.Barrier]) -> None:
        super().__init__()
        self.slot, self.server, self.secret, self.protocol, self.barriers = slot, server, secret, protocol, barriers
        self.num_requests = 0

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        self.num_requests += 1
        connection = http.client.HTTPConnection(*self.server, timeout=120, source_address=(self.slot.host, 0))
        try:
            connection.request(method, path, body, {wire.HEADER: wire.digest(self.secret, method, path, body or b"")})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def wait_for(self, path: str) -> bytes:
        while True:
            status, value = self.ask("GET", path)
            if status == 200:
                return value
            time.sleep(0.01)

    def meet(self, scope: str, rank: int, size: int) -> None:
        """``connectFullMesh`` and ``Finalize``; connecting itself is left out, the barrier behind it stays."""
        mine = bytes([rank % 256]) * (ADDRESS_BYTES * (size - 1))
        others = [other for other in range(size) if other != rank]
        if self.protocol == "stock":
            self.ask("PUT", f"/{scope}/rank_{rank}", self.slot.host.encode())
            for other in range(rank):
                self.ask("GET", f"/{scope}/rank_{other}")
        self.ask("PUT", f"/{scope}/{rank}", mine)
        if self.protocol == "stock":
            for other in others:
                self.wait_for(f"/{scope}/{other}")
                value = self.ask("GET", f"/{scope}/{other}")[1]
                assert value[:1] == bytes([other % 256])
        elif others:
            parts = self.wait_for(f"/{scope}/for_{rank}")
            assert parts == b"".join(bytes([other % 256]) * ADDRESS_BYTES for other in others)
        self.barriers[scope].wait()
        self.ask("DELETE", f"/{scope}/{rank}")

    def run(self) -> None:
        slot = self.slot
        for suffix in ("", "_process_set_hash_1a2b"):
            self.meet(f"global{suffix}", slot.rank, slot.size)
            self.meet(f"local_{slot.host_name}{suffix}", slot.local_rank, slot.local_size)
            self.meet(f"cross_{slot.local_rank}{suffix}", slot.cross_rank, slot.cross_size)


def main() -> None:
    address, port, secret, protocol, hosts = sys.argv[1:]
    slots = assign_ranks(json.loads(hosts))
    sizes: dict[str, int] = {}
    for slot in slots:
        for suffix in ("", "_process_set_hash_1a2b"):
            sizes |= {
                f"global{suffix}": slot.size,
                f"local_{slot.host_name}{suffix}": slot.local_size,
                f"cross_{slot.local_rank}{suffix}": slot.cross_size,
            }
    barriers = {scope: threading.Barrier(size) for scope, size in sizes.items()}
    threading.stack_size(1 << 18)
    ranks = [Rank(slot, (address, int(port)), secret, protocol, barriers) for slot in slots]
    begin = time.perf_counter()
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    print(json.dumps({"seconds": time.perf_counter() - begin, "requests": sum(rank.num_requests for rank in ranks)}))


if __name__ == "__main__":
    main()
