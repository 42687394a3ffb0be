"""``python -m algorithms '<RunSpec as JSON>'``: one rank; how it finds the others stands in its environment (``infra.collectives``)."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any


def run(argument: str, report: Callable[[dict[str, Any]], None]) -> int:
    """Do what the document says; returns the exit status. A failure is reported as an event before the process ends."""
    from infra.errors import AtelierError, StoreAccessError, to_wire

    try:
        from algorithms.run import RunSpec, execute
        from infra.collectives import open_collectives

        spec = RunSpec.model_validate_json(argument)
        # The launcher knows how many cores the rank's machine has and how many ranks share them.
        threads = int(os.environ.get("ATELIER_THREADS", spec.threads))
        with open_collectives(threads) as collectives:
            execute(spec.model_copy(update={"threads": threads}), collectives, report)
    except AtelierError as error:
        report({"kind": "error", "error": to_wire(error)})
        traceback.print_exc()  # into the rank's log; the user gets the sentence
        return error.exit_status
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            report({"kind": "error", "traceback": traceback.format_exc(), "message": f"{type(error).__name__}: {error}"})
            traceback.print_exc()
            return 1
        told = StoreAccessError(str(error.filename or "the disk"), str(error.strerror), "Free some room, then run the same command again.")
        report({"kind": "error", "error": to_wire(told)})
        traceback.print_exc()
        return told.exit_status
    except Exception as error:  # noqa: BLE001 - the edge of the process: whatever it was reaches whoever started the rank
        report({"kind": "error", "traceback": traceback.format_exc(), "message": f"{type(error).__name__}: {error}"})
        traceback.print_exc()
        return 1
    return 0


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
