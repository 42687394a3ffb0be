"""A Dask scheduler and many workers in one process, for ``scaling.py``; ends with its standard input."""

from __future__ import annotations

import asyncio
import logging
import sys
from contextlib import AsyncExitStack


async def serve(number: int) -> None:
    from distributed import Scheduler, Worker

    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    options = {"nthreads": 1, "resources": {"slot": 1}, "memory_limit": 0, "dashboard": False, "host": "127.0.0.1"}
    async with AsyncExitStack() as stack:
        scheduler = await stack.enter_async_context(Scheduler(host="127.0.0.1", port=0, dashboard=False, dashboard_address="127.0.0.1:0"))
        for _ in range(0, number, 32):
            workers = [Worker(scheduler.address, **options) for _ in range(32)]
            await asyncio.gather(*(stack.enter_async_context(worker) for worker in workers))
        print(scheduler.address, flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
