"""The end of an SSH connection on a worker's host: ``python -m infra._ssh_worker``, started by ``infra.clusters.ssh``.

Standard input brings the worker's order (see ``infra._dask_worker``) and then nothing more until the connection ends; with it the worker ends, and
with a worker that ends the connection does. Standard library only: it starts before anything else is known to work here.
"""

from __future__ import annotations

import json
import os
import select
import sys

from infra._supervisor import start_supervised

GRACE_S = 0.5


def main() -> int:
    order = b""
    while not order.endswith(b"\n"):
        chunk = os.read(0, 65536)
        if not chunk:
            return 1
        order += chunk
    read_fd, write_fd = os.pipe()
    command = [sys.executable, "-P", "-m", "infra._dask_worker", str(read_fd)]
    env = {**os.environ, **json.loads(order)["environment"]}
    with start_supervised(command, env=env, output_fd=os.dup(2), pass_fds=[read_fd], grace_s=GRACE_S) as process:
        os.close(read_fd)
        with os.fdopen(write_fd, "wb") as pipe:
            pipe.write(order)
        assert process.stdin is not None
        assert process.stdout is not None
        told = process.stdout.fileno()
        waiting = [0, told]
        while True:
            ready = select.select(waiting, [], [])[0]
            if told in ready and not (text := os.read(told, 4096)).startswith(b"started"):
                break  # it ended, or its supervisor did
            if told in ready and b"exited" in text:
                break
            if 0 in ready and not os.read(0, 4096):
                process.stdin.close()
                waiting.remove(0)
    return 0


if __name__ == "__main__":
    sys.exit(main())
