"""Workers on hosts that this machine reaches by SSH; the scheduler is in this process, and all is encrypted.

The system's own ``ssh`` is used, so that keys, agents, jump hosts and ``~/.ssh/config`` work as they always do. It runs under a supervisor here; on the
host ``infra._ssh_worker`` reads from it where the scheduler is, with certificates that exist for this cluster only, and ends when it ends.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from infra._rendezvous import address_towards
from infra.cluster import new_log_folder
from infra.cluster_settings import SshSettings
from infra.clusters import Opened
from infra.clusters._processes import Place, WorkerProcesses
from infra.clusters._scheduler import start_scheduler
from infra.clusters.tls import make_pems, read_pems
from infra.errors import ServiceError
from infra.settings import Settings

ALWAYS = ("BatchMode=yes", "ConnectTimeout=10", "ServerAliveInterval=5", "ServerAliveCountMax=3", "ForwardAgent=no", "ForwardX11=no")
WORKER = ("-m", "infra._ssh_worker")


@dataclass(frozen=True)
class Host:
    """One entry of ``ssh://user@name:port,...``; ``port`` 0 means what ssh's own configuration says."""

    name: str
    user: str = ""
    port: int = 0


def parse_hosts(cluster: str) -> list[Host]:
    """The hosts of ``ssh://...``, in their order; one named twice counts twice."""
    hosts = []
    for word in cluster.removeprefix("ssh://").split(","):
        user, _, rest = word.rpartition("@")
        match = re.fullmatch(r"(\[[^]]+\]|[^:]+)(?::(\d+))?", rest)
        assert match is not None, "the settings have checked it"
        hosts.append(Host(match[1].strip("[]"), user, int(match[2] or 0)))
    return hosts


def ssh_command(host: Host, settings: SshSettings, *words: str) -> list[str]:
    """What starts a worker on the host, with the order on its standard input; with ``words``, Python there with these arguments."""
    root = settings.folder or str(Path(__file__).resolve().parents[2])
    remote = shlex.join(["env", f"PYTHONPATH={root}", settings.python or sys.executable, "-P", *(words or WORKER)])
    options = [word for option in ALWAYS for word in ("-o", option)]
    port = ["-p", str(host.port)] if host.port else []
    target = f"{host.user}@{host.name}" if host.user else host.name
    return [*settings.program, "-T", *settings.options, *options, *port, "--", target, remote]


def _command(command: Sequence[str], order_fd: int) -> list[str]:
    """With the order as standard input: the supervisor gives a command none."""
    return ["/bin/sh", "-c", 'exec "$@" <"$0"', f"/proc/self/fd/{order_fd}", *command]


def places_of(hosts: Sequence[Host], settings: SshSettings) -> list[Place]:
    """Where workers may be: a slot of every host before the second slot of any."""
    return [
        Place(f"ssh-{number}-{re.sub(r'[^0-9A-Za-z.-]', '_', host.name)}-{slot}", partial(_command, ssh_command(host, settings)))
        for slot in range(settings.slots)
        for number, host in enumerate(hosts)
    ]


def open_kind(settings: Settings, stack: ExitStack) -> Opened:
    hosts = parse_hosts(settings.cluster)
    pems = read_pems(settings.tls) if settings.tls else make_pems()
    try:
        own = settings.ssh.address or address_towards(hosts[0].name)
    except OSError as error:
        hint = "Check ATELIER_CLUSTER; if only ssh knows the name, set address in the section [ssh]."
        raise ServiceError(f"The worker on {hosts[0].name}", f"{error.strerror or error}. {hint}") from error
    places = places_of(hosts, settings.ssh)
    workers = WorkerProcesses(places, new_log_folder(settings), os.environ, most_failures=0)
    stack.callback(workers.close)
    workers.start(min(settings.min_slots, len(places)) or len(places))
    client, order = start_scheduler(own, pems, stack)
    stack.callback(workers.close)
    # The environment goes with the order: on a command line every user of the host could read it.
    environment = {**settings.ssh.environment, "PYTHONUNBUFFERED": "1"}
    workers.join_cluster({**order, "host": "", "environment": environment}, lambda names: client.retire_workers(names=names))
    return Opened(client, workers, most=len(places), wait_s=settings.ssh.start_timeout_s)
