"""Hosts of their own for a test: network namespaces on one bridge, each with an address; links that can be cut and mended.

Needs root and iproute2. The processes of all hosts see one file system and one process table, as tests want it; only the network is apart.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest

# Drops what an ssh client would do with its options, and runs the command in the namespace that is the host's name.
SSH = Path(__file__).parent / "ssh_into_namespace.sh"


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, timeout=30, check=False)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(words)}: {done.stderr.strip() or done.returncode}")


@cache
def why_no_hosts() -> str:
    """Why namespaces cannot be made here; empty if they can."""
    if sys.platform != "linux" or not shutil.which("ip"):
        return "network namespaces need Linux and iproute2"
    if os.geteuid() != 0:
        return "network namespaces need root"
    try:
        with _network("10.213.255", []):
            return ""
    except RuntimeError as error:
        return f"network namespaces cannot be made here: {error}"


@dataclass
class Network:
    """Some hosts on one bridge.

    Attributes:
        tag: begins the names of all devices and namespaces; a device's name has at most 15 letters.
        addresses: address of each host, by the name of its namespace.
    """

    tag: str
    addresses: dict[str, str] = field(default_factory=dict)

    @property
    def hosts(self) -> list[str]:
        return list(self.addresses)

    def inside(self, host: str, command: Sequence[str]) -> list[str]:
        """The command as it runs on a host."""
        return ["ip", "netns", "exec", host, *command]

    @property
    def switch(self) -> str:
        """The namespace of the bridge: where the machine's own firewall does not reach."""
        return f"{self.tag}-switch"

    def cut(self, host: str) -> None:
        """Take the host's cable out of the bridge: packets vanish, and neither side is told."""
        _ip("-n", self.switch, "link", "set", host, "nomaster")

    def mend(self, host: str) -> None:
        _ip("-n", self.switch, "link", "set", host, "master", "bridge")


@contextmanager
def _network(prefix: str, names: Sequence[str]) -> Iterator[Network]:
    tag = f"at{uuid.uuid4().hex[:5]}"
    network = Network(tag)
    with ExitStack() as stack:
        _ip("netns", "add", network.switch)
        stack.callback(_ip, "netns", "del", network.switch)
        _ip("-n", network.switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", network.switch, "link", "set", "bridge", "up")
        for number, name in enumerate(names, start=1):
            host = f"{tag}{name}"
            _ip("netns", "add", host)
            stack.callback(_ip, "netns", "del", host)  # takes its end of the cable along, and with it the other
            _ip("-n", network.switch, "link", "add", host, "type", "veth", "peer", "name", "eth0", "netns", host)
            _ip("-n", network.switch, "link", "set", host, "master", "bridge", "up")
            _ip("-n", host, "link", "set", "lo", "up")
            _ip("-n", host, "addr", "add", f"{prefix}.{number}/24", "dev", "eth0")
            _ip("-n", host, "link", "set", "eth0", "up")
            network.addresses[host] = f"{prefix}.{number}"
        yield network


@pytest.fixture
def network() -> Iterator[Network]:
    """Three hosts: the first for scheduler and driver, two for workers. Skips, with the reason, where they cannot be made."""
    if why := why_no_hosts():
        pytest.skip(why)
    with _network(f"10.213.{os.getpid() % 250}", ["a", "b", "c"]) as network:
        yield network
