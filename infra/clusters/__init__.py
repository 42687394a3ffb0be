"""The kinds of Dask clusters, one module each; ``infra.cluster.open_cluster`` is how they are used. See docs/clusters.md.

A module of a kind has a function ``open_kind(settings, stack) -> Opened``: it gives a client and, if workers can come and go, the means to that
(``Pool``); whatever it started ends when the stack is closed. Every worker that we start has one slot. Where its settings can contradict each other
a module also has ``check(settings)``, which says so; it is called first, and at the begin of a run.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from distributed import Client


@dataclass(frozen=True)
class Kind:
    """One kind of cluster.

    Attributes:
        name: also that of its section of settings, if it has one.
        form: what ``ATELIER_CLUSTER`` looks like.
        pattern: the same as a regular expression.
        module: where its ``open_kind`` is.
        extra: the optional dependency that it needs; empty if none.
        meaning: who starts what.
    """

    name: str
    form: str
    pattern: str
    module: str
    extra: str
    meaning: str


_PORT = r":\d{1,5}"
_NAME = r"(?:[\w.-]+|\[[0-9a-fA-F:]+\])"
_HOST = rf"(?:[\w.-]+@)?{_NAME}(?:{_PORT})?"
_ADDRESS = rf"(?:tcp|tls)://{_NAME}{_PORT}"

KINDS = (
    Kind("local", "local", r"local", "infra.clusters.local", "", "worker processes on this machine"),
    Kind("address", "tcp://HOST:PORT or tls://HOST:PORT", _ADDRESS, "infra.clusters.address", "", "a scheduler that runs"),
    Kind("ssh", "ssh://HOST,HOST,...", rf"ssh://{_HOST}(?:,{_HOST})*", "infra.clusters.ssh", "", "workers on hosts, by OpenSSH"),
    Kind("kubernetes", "kubernetes", r"kubernetes", "infra.clusters.kubernetes", "kubernetes", "pods, by Dask's operator"),
    Kind("slurm", "slurm", r"slurm", "infra.clusters.slurm", "slurm", "jobs of a Slurm queue"),
)


def kind_of(cluster: str) -> Kind:
    """The kind that a value of ``ATELIER_CLUSTER`` means.

    Raises:
        ValueError: none.
    """
    for kind in KINDS:
        if re.fullmatch(kind.pattern, cluster):
            return kind
    raise ValueError(f"there is no such cluster; one of: {'; '.join(kind.form for kind in KINDS)}")


class Pool(Protocol):
    """Workers that can come and go."""

    def grow(self, num_workers: int) -> None:
        """Start what is missing to that many; returns before they are there."""

    def shrink(self, names: list[str]) -> None:
        """End the workers of these names, which are idle, or as many others that are; what they keep is moved first, nothing starts in their place."""

    @property
    def failed(self) -> bool:
        """Whether it is known already that the first workers will not come."""

    def settle(self) -> None:
        """The first workers have come; from now on one that fails is started again and again."""

    def last_words(self) -> str:
        """Why workers do not come, as far as it is known."""


@dataclass(frozen=True)
class Opened:
    """A cluster just opened.

    Attributes:
        client: of its scheduler.
        pool: its workers; None where they are somebody else's.
        most: how many workers it can have; 0: as many as the settings say.
        wait_s: how long its first workers may take, seconds.
    """

    client: Client
    pool: Pool | None = None
    most: int = 0
    wait_s: float = 60.0
