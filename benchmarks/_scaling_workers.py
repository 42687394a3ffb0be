"""Many Dask workers in one process, for ``scaling.py``: ``python _scaling_workers.py ADDRESS NUMBER``; ends with its standard input."""

from __future__ import annotations

import asyncio
import logging
import sys
from contextlib import AsyncExitStack
from typing import Any


async def serve(address: str, number: int) -> None:
    from distributed import Worker

    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    options: dict[str, Any] = {
        "nthreads": 1,
        "resources": {"slot": 1},
        "memory_limit": 0,
        "dashboard": False,
        "host": "127.0.0.1",
        "heartbeat_interval": "60s",
    }
    async with AsyncExitStack() as stack:
        for _ in range(0, number, 16):
            workers = [Worker(address, **options) for _ in range(16)]
            await asyncio.gather(*(stack.enter_async_context(worker) for worker in workers))
        print(number, flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], int(sys.argv[2])))
