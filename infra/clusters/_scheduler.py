"""A Dask scheduler in this process, for the kinds whose workers we start ourselves."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from infra.clusters.tls import Pems, security_of

if TYPE_CHECKING:
    from distributed import Client


def start_scheduler(host: str, pems: Pems | None, stack: ExitStack) -> tuple[Client, dict[str, Any]]:
    """Start a scheduler on one address of this machine; returns a client and the order for its workers, see ``infra._dask_worker``."""
    from distributed import Client, LocalCluster

    security = security_of(pems)
    scheduler = LocalCluster(
        n_workers=0,
        host=host,
        protocol="tls://" if pems else None,
        security=security,
        silence_logs=logging.CRITICAL,
        # Without a dashboard the scheduler still opens its HTTP port, and that is 8787 unless it is told otherwise: two clusters would clash.
        scheduler_kwargs={"dashboard": False, "dashboard_address": "127.0.0.1:0"},
    )
    stack.enter_context(scheduler)
    client = stack.enter_context(Client(scheduler.scheduler_address, security=security, set_as_default=False))
    return client, {"scheduler": scheduler.scheduler_address, "tls": pems}
