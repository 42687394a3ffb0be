"""The Dask cluster on which everything runs; of which kind it is says ``ATELIER_CLUSTER`` (``infra.clusters``, docs/clusters.md).

A worker offers slots (Dask resource ``slot``). Every rank, and every task that keeps a core busy, holds one while it runs:
``client.submit(..., resources={"slot": 1})``. So two jobs never share one.
"""

from __future__ import annotations

import importlib
import logging
import os
import shutil
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from infra.clusters import Opened, kind_of
from infra.clusters.tls import read_pems
from infra.errors import NotEnoughSlotsError, ServiceError, StoreAccessError
from infra.settings import Settings

if TYPE_CHECKING:
    from distributed import Client

    from infra.clusters.scaling import Scaling

KEPT_LOG_FOLDERS = 10
# Of the clients of clusters that grow and shrink.
_SCALINGS: WeakKeyDictionary[Client, Scaling] = WeakKeyDictionary()


@contextmanager
def open_cluster(settings: Settings) -> Iterator[Client]:
    """Give a client of the cluster that the settings name; what had to be started for it is gone afterwards.

    Workers that we started on this machine die within a second when this process dies, however it dies; the terminal's Ctrl-C does not reach them, and what
    they print goes to log files under ``settings.state_dir / "logs"``, not to the terminal.

    Raises:
        ServiceError: the cluster did not start, or nothing answers at the address.
        InvalidSettingError: settings that do not fit together, or certificates that are none.
        MissingExtraError: the kind needs an optional dependency.
    """
    check_cluster(settings)
    kind = kind_of(settings.cluster)
    with ExitStack() as stack:
        stack.enter_context(_quiet())
        opened: Opened = importlib.import_module(kind.module).open_kind(settings, stack)
        stack.enter_context(_quiet())  # once more: Dask gives its loggers levels when it is imported, which may have been just now
        if opened.pool is not None:
            maximum = opened.most or settings.slots
            minimum = min(settings.min_slots or maximum, maximum)
            _wait_for_workers(opened, minimum, f"The Dask cluster of {minimum} workers ({settings.cluster})")
            if settings.min_slots:
                stack.enter_context(_scaling(opened, minimum, maximum, settings.idle_s))
        yield opened.client


def check_cluster(settings: Settings) -> None:
    """Refuse what can be known to be wrong without opening anything.

    Raises:
        InvalidSettingError: settings that do not fit together, or certificates that are none.
    """
    module = importlib.import_module(kind_of(settings.cluster).module)
    if hasattr(module, "check"):
        module.check(settings)
    if settings.tls is not None:
        read_pems(settings.tls)


def _wait_for_workers(opened: Opened, wanted: int, what: str) -> None:
    pool = opened.pool
    assert pool is not None
    deadline = time.monotonic() + opened.wait_s
    while num_slots(opened.client) < wanted:
        if pool.failed or time.monotonic() > deadline:
            raise ServiceError(what, pool.last_words())
        time.sleep(0.02)
    pool.settle()


@contextmanager
def _scaling(opened: Opened, minimum: int, maximum: int, idle_s: float) -> Iterator[None]:
    from infra.clusters.scaling import Scaling

    assert opened.pool is not None
    scaling = Scaling(opened.client, opened.pool, minimum=minimum, maximum=maximum, idle_s=idle_s)
    _SCALINGS[opened.client] = scaling
    try:
        yield
    finally:
        del _SCALINGS[opened.client]
        scaling.close()


@contextmanager
def asking_for_slots(client: Client, wanted: int, deadline_s: float, *, enough: int | None = None) -> Iterator[None]:
    """Let a cluster that can grow have that many slots while this lasts; the body begins when they are there, or did not come in time.

    Args:
        enough: with how many the body can begin; default: all.

    Raises:
        NotEnoughSlotsError: it cannot grow to that size (to ``enough``).
    """
    scaling = _SCALINGS.get(client)
    if scaling is None:
        yield
        return
    enough = wanted if enough is None else enough
    if enough > most_slots(client):
        raise NotEnoughSlotsError(enough, most_slots(client), f"between {scaling.minimum} and {scaling.maximum} slots")
    with scaling.asking_for(min(wanted, most_slots(client))):
        deadline = time.monotonic() + deadline_s
        while num_slots(client) < enough and time.monotonic() < deadline:
            time.sleep(0.05)
        yield


def most_slots(client: Client) -> int:
    """Slots that the cluster has, or can grow to."""
    scaling = _SCALINGS.get(client)
    return num_slots(client) if scaling is None else max(scaling.maximum, num_slots(client))


def num_slots(client: Client) -> int:
    """Slots of all running workers, taken or free."""
    workers = known_workers(client) or {}
    return int(sum(worker["resources"].get("slot", 0) for worker in workers.values() if worker.get("status", "running") == "running"))


def known_workers(client: Client) -> dict[str, Any] | None:
    """What the scheduler knows of its workers, by address; None if it does not answer.

    Not ``Client.scheduler_info``: every two seconds the client's own heartbeat puts an answer without workers in the place where that one looks, and
    on a busy machine it does so before the answer is read.
    """
    if client.scheduler is None:
        return None
    try:
        found: dict[str, Any] = client.sync(client.scheduler.identity, n_workers=-1)["workers"]
    except OSError:
        return None
    return found


def scheduler_gone(client: Client) -> ServiceError:
    """What to say, and to do, when the scheduler does not answer any more in the middle of a job."""
    again = "run" if client.cluster is not None else "start it again, then run"
    where = f" at {client.scheduler.address}" if client.scheduler is not None else ""
    why = f"the ranks were ended; {again} the same command: it goes on from its last checkpoint."
    return ServiceError(f"The Dask scheduler{where}", why, "has gone")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Dask's own words off the terminal: it reports every closed connection, most of all when we close them, and we say ourselves what they mean."""
    loggers = [logging.getLogger(name) for name in ("distributed", "distributed.client")]  # the two to which it gives a level
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def new_log_folder(settings: Settings) -> Path:
    """A new folder for the logs of one cluster; the oldest ones go."""
    parent = settings.state_dir / "logs" / "cluster"
    folder = parent / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}-{time.monotonic_ns() % 10**6:06d}"
    try:
        folder.mkdir(parents=True)
        for old in sorted(parent.iterdir())[:-KEPT_LOG_FOLDERS]:
            shutil.rmtree(old, ignore_errors=True)  # another process may be doing the same
    except OSError as error:
        raise StoreAccessError(
            str(folder), error.strerror or str(error), "Choose a folder that can be written: ATELIER_WORKSPACE."
        ) from error
    return folder


def python_path() -> str:
    """``PYTHONPATH`` under which another Python finds our packages first, then what this process finds."""
    root = str(Path(__file__).resolve().parent.parent)
    own = (sys.prefix, sys.base_prefix)
    extra = [Path(entry).absolute() for entry in sys.path if not entry.startswith(own) or entry == root]
    # Packages installed as editable leave a name there that is no path and means something to this process only.
    found = [str(path) for path in extra if path.is_dir() or zipfile.is_zipfile(path)]
    return os.pathsep.join(dict.fromkeys([root, *found]))
