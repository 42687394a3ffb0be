"""Where a workspace's running stack is reached: a file that is there as long as the stack is ready, written and read here only."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deployments.stack.options import LOOPBACK, reachable
from infra._rendezvous import address_towards
from infra.access import is_loopback
from infra.settings import Settings

OUTSIDE = "outside"
_EVERYWHERE = {"0.0.0.0": "192.0.2.1", "::": "2001:db8::1"}  # each with an address of nobody's (RFC 5737, RFC 3849)


def addresses_file(settings: Settings) -> Path:
    return settings.state_dir / "stack" / "addresses.json"


def lock_file(settings: Settings) -> Path:
    """Held by the stack from its first process to its last."""
    return settings.state_dir / "stack" / "lock"


def write_addresses(settings: Settings, addresses: Mapping[str, str], outside: Mapping[str, str]) -> None:
    """Say where the parts are reached.

    Args:
        outside: the same for other machines, where that is something else.
    """
    file = addresses_file(settings)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({**addresses, **({OUTSIDE: outside} if outside else {})}))


def read_addresses(settings: Settings) -> dict[str, str]:
    """How programs of this machine reach the parts; empty: no stack is ready."""
    try:
        found: Any = json.loads(addresses_file(settings).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {name: address for name, address in found.items() if isinstance(address, str)} if isinstance(found, dict) else {}


def seen_from_outside(host: str) -> str:
    """How other machines reach what listens on every address: by the address from which this machine reaches out; empty: ``host`` says it itself."""
    if host not in _EVERYWHERE:
        return ""
    try:
        address = address_towards(_EVERYWHERE[host])
    except OSError:  # there is no route to anywhere
        return socket.gethostname()
    return f"[{address}]" if ":" in address else address


def names_of(host: str) -> list[str]:
    """Every host that may stand in the URL of what listens there: loopback, this machine's name and addresses."""
    import psutil

    found = ["localhost", LOOPBACK, "[::1]"]
    if not is_loopback(host):
        found += [socket.gethostname(), reachable(host)]
    if host in _EVERYWHERE:
        kinds = {socket.AF_INET, socket.AF_INET6} if host == "::" else {socket.AF_INET}
        of_interfaces = [one.address.partition("%")[0] for some in psutil.net_if_addrs().values() for one in some if one.family in kinds]
        found += [f"[{address}]" if ":" in address else address for address in of_interfaces]
    return list(dict.fromkeys(found))
