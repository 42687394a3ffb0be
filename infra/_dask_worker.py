"""One worker of a Dask cluster that we started: ``python -m infra._dask_worker ORDER_FD``, started by ``infra.clusters`` under a supervisor.

One thread and one resource ``slot``: what holds the slot is a rank, or a task that keeps a core busy. No nanny: the supervisor ends
this process with the driver, and the driver starts a new one if it dies. The order, a line of JSON, is read from a pipe after the imports, so that they
overlap with the driver's own:

    name        of this worker
    scheduler   its address
    host        the address to listen on; empty: the one of this machine by which it reaches the scheduler
    tls         certificates as texts: ca, cert, key; or null
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import socket
import sys
from collections.abc import Callable


def own_address(scheduler: str) -> str:
    """The address of this machine from which packets leave for the scheduler; none are sent."""
    host, _, port = scheduler.split("://")[-1].rpartition(":")
    family, kind, _, _, address = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as probe:
        probe.connect(address)
        return str(probe.getsockname()[0])


async def serve(order_fd: int, ready: Callable[[], None] = lambda: None) -> None:
    from distributed import Worker

    from infra.clusters.tls import security_of

    with os.fdopen(order_fd) as pipe:
        line = pipe.readline()
    if not line:  # the driver gave up
        return
    order = json.loads(line)
    async with Worker(
        order["scheduler"],
        name=order["name"],
        nthreads=1,
        host=order["host"] or own_address(order["scheduler"]),
        resources={"slot": 1},
        memory_limit=0,
        dashboard=False,
        security=security_of(order["tls"]),
    ) as worker:
        # What the first launch needs, while the driver is still busy with other things.
        await asyncio.get_running_loop().run_in_executor(None, importlib.import_module, "infra._rank_task")
        ready()
        await worker.finished()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
