"""What the cluster offers an elastic job, asked again and again: the one place that knows where slots come from."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from infra.elastic.policy import Worker
from infra.errors import NotEnoughSlotsError

if TYPE_CHECKING:
    from distributed import Client

ANSWER_TIMEOUT_S = 5.0


class Discovery(Protocol):
    def workers(self, held: Iterable[str]) -> dict[str, Worker] | None:
        """Every Dask worker by address, with the slots that the job could have there.

        Args:
            held: the worker of each slot that the job holds at the moment, once for every slot.

        Returns:
            None: the cluster does not answer at the moment.
        """


class DaskDiscovery:
    """Asks the Dask scheduler, for a job that shares with nobody; see ``infra.elastic.ledger`` for one that does."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def workers(self, held: Iterable[str]) -> dict[str, Worker] | None:
        client = self.client
        if client.scheduler is None or client.status != "running":
            return None
        try:
            found = client.sync(client._run_on_scheduler, read_slots, callback_timeout=ANSWER_TIMEOUT_S)
        except unreachable():
            return None
        own = Counter(held)
        return {
            address: Worker(max(0, int(here["slots"] - max(0.0, here["used"] - own[address]))), here["closing"])
            for address, here in found.items()
        }


def all_slots(discovery: Discovery, workers: Mapping[str, Worker]) -> int:
    """Slots of the cluster, those included that other jobs hold at the moment."""
    if not isinstance(discovery, DaskDiscovery):
        return sum(worker.slots for worker in workers.values())
    from infra.cluster import num_slots

    return num_slots(discovery.client)


def require_slots(client: Client, discovery: Discovery, workers: Mapping[str, Worker], least: int) -> None:
    """Raises:
    NotEnoughSlotsError: the cluster has fewer than ``least``, even counting those that others hold.
    """
    most = all_slots(discovery, workers)
    if most < least:
        raise NotEnoughSlotsError(least, most, str(client.scheduler.address) if client.scheduler else "")


def unreachable() -> tuple[type[BaseException], ...]:
    """What Dask's client raises when the scheduler goes in the middle of something."""
    import asyncio

    from distributed.comm.core import CommClosedError
    from tornado.util import TimeoutError as LoopTimeoutError

    return OSError, CommClosedError, LoopTimeoutError, asyncio.CancelledError, RuntimeError


def run_aside(client: Client, function: Callable[..., Any], *args: Any, workers: list[str] | None = None) -> None:
    """``client.run`` in a thread of its own, for what may come to nothing: it has no time-out, and a frozen worker would hold the caller."""

    def run() -> None:
        with contextlib.suppress(*unreachable()):
            client.run(function, *args, workers=workers, on_error="ignore")

    threading.Thread(target=run, name="aside", daemon=True).start()


def run_on_scheduler_aside(client: Client, function: Callable[..., Any], *args: Any) -> None:
    """The same for ``client.run_on_scheduler``."""

    def run() -> None:
        with contextlib.suppress(*unreachable()):
            client.sync(client._run_on_scheduler, function, *args, callback_timeout=ANSWER_TIMEOUT_S)

    threading.Thread(target=run, name="aside", daemon=True).start()


def read_slots(dask_scheduler: Any = None) -> dict[str, dict[str, Any]]:
    """Run on the scheduler: slots of each worker, how many of them are taken, and whether it is about to close."""
    keep_out_of_log(read_slots.__name__)
    return {
        address: {
            "slots": worker.resources.get("slot", 0),
            "used": worker.used_resources.get("slot", 0),
            "closing": worker.status.name not in ("running", "paused"),
        }
        for address, worker in dask_scheduler.workers.items()
        if worker.resources.get("slot", 0) > 0
    }


def keep_out_of_log(name: str) -> None:
    """Run on the scheduler by a function of that name, which is called several times a second: Dask writes a line into the log whenever it runs one.

    The filter lives as long as the scheduler's process, whoever's looks are the first there; so one line comes, and no more.
    """
    logger = logging.getLogger("distributed.worker")  # also when it is the scheduler that runs a function
    if not any(isinstance(known, _Without) and known.name == name for known in logger.filters):
        logger.addFilter(_Without(name))


class _Without(logging.Filter):
    """Drops what Dask says of runs of one function."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.msg != "Run out-of-band function %r" or record.args != (self.name,)
