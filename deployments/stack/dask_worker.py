"""One slot of the stack's Dask cluster: ``python -m deployments.stack.dask_worker NAME ADDRESS``. It ends with the scheduler."""

from __future__ import annotations

import asyncio
import json
import os
import sys

from deployments.stack.health import say_ready
from infra import _dask_worker


async def _main(name: str, address: str) -> None:
    read_fd, write_fd = os.pipe()
    with os.fdopen(write_fd, "w") as pipe:
        pipe.write(json.dumps({"scheduler": address, "name": name, "host": "127.0.0.1", "tls": None}) + "\n")
    await _dask_worker.serve(read_fd, say_ready)


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], sys.argv[2]))
