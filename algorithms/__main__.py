"""``python -m algorithms '<RunSpec as JSON>'``: one rank; how it finds the others stands in its environment (``infra.collectives``)."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any


def run(argument: str, report: Callable[[dict[str, Any]], None]) -> int:
    """Do what the document says; returns the exit status. A failure is reported as an event before the process ends."""
    from algorithms.run import attempt

    return attempt(lambda: _execute(argument, report), report)


def _execute(argument: str, report: Callable[[dict[str, Any]], None]) -> None:
    from algorithms.run import RunSpec, execute
    from infra.collectives import open_collectives

    spec = RunSpec.model_validate_json(argument)
    # The launcher knows how many cores the rank's machine has and how many ranks share them.
    threads = int(os.environ.get("ATELIER_THREADS", spec.threads))
    with open_collectives(threads) as collectives:
        execute(spec.model_copy(update={"threads": threads}), collectives, report)


def main() -> int:
    from algorithms.run import events_to_fd

    if len(sys.argv) != 2:
        print("usage: python -m algorithms '<RunSpec as JSON>'", file=sys.stderr)
        return 2
    status = run(sys.argv[1], events_to_fd())
    if status != 0:
        # Past Horovod's exit handler, which waits for the other ranks, and they for this one.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return 0


if __name__ == "__main__":
    sys.exit(main())
