"""What ranks do in the tests of the launcher: ``python -m rank_program '{"do": NAME, ...}'``."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from infra.errors import AtelierError, CorruptArtifactError, to_wire

EVENTS = os.fdopen(int(os.environ["ATELIER_EVENTS_FD"]), "w", buffering=1)


def report(**event: Any) -> None:
    print(json.dumps(event), file=EVENTS)


def my_rank() -> int:
    return int(os.environ.get("HOROVOD_RANK", os.environ.get("RANK", "0")))


def count(number: int) -> None:
    for index in range(number):
        report(kind="count", index=index, text="x" * 50)


def environment(names: list[str]) -> None:
    report(
        kind="environment", values={name: os.environ.get(name) for name in names}, session=os.getsid(0) == os.getpid(), cwd=str(Path.cwd())
    )


def own_error(rank: int) -> None:
    if my_rank() == rank:
        raise CorruptArtifactError("model.bin", "a" * 64, "b" * 64)
    time.sleep(100)


def bug(rank: int) -> None:
    if my_rank() == rank:
        print("a word on the standard output")
        raise ValueError("user code is wrong here")
    time.sleep(100)


def leave(status: int) -> None:
    for index in range(300):
        print("line", index)
    sys.exit(status)


def lose_a_peer(number: int, rank: int) -> None:
    """All reduce for ever; one rank is killed in the middle of it."""
    import torch

    from infra.collectives import open_collectives

    with open_collectives() as collectives:
        for step in range(10_000):
            if step == 20 and collectives.rank == rank:
                os.kill(os.getpid(), number)
            collectives.all_reduce(torch.ones(1000))


def sleep_stubbornly() -> None:
    """A rank that ignores SIGTERM, with a child in a session of its own."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    report(kind="asleep", pid=os.getpid(), child=child.pid, supervisor=os.getppid())
    time.sleep(1000)


def leave_a_daemon() -> None:
    """A rank that ends well but leaves a process that holds its output and its events open."""
    subprocess.Popen(["sleep", "1000"], start_new_session=True, pass_fds=[EVENTS.fileno()])
    report(kind="left")


def garbage() -> None:
    os.write(EVENTS.fileno(), b"no json\n[1]\n" + json.dumps({"kind": "last"}).encode())


DO: dict[str, Callable[..., None]] = {
    "count": count,
    "environment": environment,
    "own error": own_error,
    "bug": bug,
    "leave": leave,
    "lose a peer": lose_a_peer,
    "sleep": sleep_stubbornly,
    "daemon": leave_a_daemon,
    "garbage": garbage,
}


def main() -> int:
    order = json.loads(sys.argv[1])
    try:
        DO[order.pop("do")](**order)
    except AtelierError as error:
        report(kind="error", error=to_wire(error))
        return error.exit_status
    except Exception:  # noqa: BLE001 - as `python -m algorithms` does
        report(kind="error", traceback=traceback.format_exc())
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    os._exit(status)
