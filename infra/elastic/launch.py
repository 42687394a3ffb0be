"""``launch_elastic``: one program on as many ranks as there are slots for, from a smallest to a largest number."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.elastic.backends import Figures
from infra.elastic.discovery import Discovery
from infra.elastic.driver import Driver
from infra.elastic.ledger import SharedDiscovery
from infra.elastic.policy import Limits
from infra.errors import DeadlineExceededError
from infra.launch import Backend, new_log_folder
from infra.settings import load_settings

if TYPE_CHECKING:
    from distributed import Client


def launch_elastic(
    argument: str,
    *,
    client: Client,
    limits: Limits,
    deadline_s: float,
    backend: Backend = "auto",
    threads_per_rank: int | None = None,
    preload: Sequence[str] = (),
    on_event: Callable[[dict[str, Any]], None] = lambda event: None,
    on_output: Callable[[str, str], None] = lambda name, text: None,
    env: Mapping[str, str] | None = None,
    module: str = "algorithms.__main__",
    log_dir: Path | None = None,
    what: str = "The run",
    discovery: Discovery | None = None,
    figures: Path | None = None,
) -> None:
    """Run ``MODULE.run(ARGUMENT, report)`` on ``limits.least`` to ``limits.most`` ranks and return when rank 0 has ended well.

    Ranks that die are replaced, and those that are left go on; workers that come are used, those that go are let go. However it ends, no process
    of the job is left.

    Args:
        deadline_s: for everything, also the wait for free slots; seconds.
        backend: how ranks talk; ``auto`` is the one measured to be faster (``infra.elastic.backends``).
        preload: modules that a rank's parent loads before it forks the rank.
        on_event: called in this thread with every event that a rank writes, ``rank`` added, and with ``group`` for each new group.
        on_output: called in this thread when a rank has ended, with the name of this attempt and what it printed (the last 256 KiB).
        env: variables for the ranks.
        log_dir: parent of the folder with the ranks' output; default: ``logs/ranks`` in the state folder.
        discovery: what slots there are; default: the job's share of those of the Dask scheduler (``infra.elastic.ledger``).
        figures: file with the measured times of the back ends, for ``auto``; None: ``auto`` is Horovod where every worker of a group has it.

    Raises:
        NotEnoughSlotsError: before anything is started, there are fewer than ``limits.least`` slots.
        AtelierError: the error that a rank reported, of its own type.
        RankFailedError: the program raised something else, with its traceback.
        WorkersLostError: too few workers for too long, or ranks that die again and again.
        DeadlineExceededError: after ``deadline_s`` seconds.
        ServiceError: the Dask scheduler has gone.
    """
    job = uuid.uuid4().hex
    shared = SharedDiscovery(client, job, least=limits.least, most=limits.most)
    driver = Driver(
        id=job,
        client=client,
        limits=limits,
        backend=backend,
        figures=Figures(figures),
        on_event=on_event,
        on_output=on_output,
        discovery=discovery or shared,
        too_late=DeadlineExceededError(what, deadline_s),
        deadline=time.monotonic() + deadline_s,
        order={
            "module": module,
            "argument": argument,
            "preload": list(preload),
            "log_dir": str(new_log_folder(log_dir or load_settings().state_dir / "logs" / "ranks")),
            "threads": threads_per_rank or 0,
        },
        env=dict(env or {}),
    )
    with shared:
        driver.run()
