"""One worker of the local Dask cluster: ``python -m infra._dask_worker NAME ADDRESS_FD``, started by ``infra.cluster`` under a supervisor.

One thread and one resource ``slot``: what holds the slot is a rank, or a task that keeps a core busy. No nanny: the supervisor ends
this process with the driver, and ``infra.cluster`` starts a new one if it dies. The scheduler's address is read from a pipe after the
imports, so that they overlap with the driver's own.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
from collections.abc import Callable


async def serve(name: str, address_fd: int, ready: Callable[[], None] = lambda: None) -> None:
    from distributed import Worker

    with os.fdopen(address_fd) as pipe:
        address = pipe.readline().strip()
    if not address:  # the driver gave up
        return
    async with Worker(address, name=name, nthreads=1, host="127.0.0.1", resources={"slot": 1}, memory_limit=0, dashboard=False) as worker:
        # What the first launch needs, while the driver is still busy with other things.
        await asyncio.get_running_loop().run_in_executor(None, importlib.import_module, "infra._rank_task")
        ready()
        await worker.finished()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], int(sys.argv[2])))
