"""What ``atelier doctor`` says of the stack of ``atelier up`` on this workspace."""

from __future__ import annotations

import socket
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

from filelock import FileLock, Timeout

from deployments._checks import Check
from deployments.stack.addresses import addresses_file, lock_file, read_addresses
from deployments.stack.options import reachable
from infra.settings import Settings

NAME = "stack"
TIMEOUT_S = 5.0


def check_stack(settings: Settings) -> Check:
    """Whether a stack runs, and each of its addresses answers."""
    is_held, file = _is_held(settings), addresses_file(settings)
    if not file.exists():
        found = "it starts or stops just now" if is_held else "none runs on this workspace (atelier up starts one)"
        return Check(NAME, "ok", found)
    if not is_held:
        return Check(NAME, "warn", f"{file} is stale: the stack that wrote it was killed", f"Start it again: atelier up. Or: rm {file}")
    addresses = read_addresses(settings)
    silent = {name: why for name, address in addresses.items() if (why := _silence(address))}
    waiting = "serving" in silent and not _has_champion(settings)
    if waiting:
        del silent["serving"]
    if silent:
        told = "; ".join(f"{name} at {addresses[name]}: {why}" for name, why in silent.items())
        logs = settings.state_dir / "logs" / "stack"
        mend = f"A part that died starts again by itself; {logs} has what each says. If it does not come back, stop atelier up and start it again."
        return Check(NAME, "fail", f"it runs, but not all of it answers: {told}", mend)
    answering = ", ".join(f"{name} {address}" for name, address in addresses.items() if not (waiting and name == "serving"))
    return Check(NAME, "ok", f"{answering}{'; serving waits for the first champion' if waiting else ''}")


def _is_held(settings: Settings) -> bool:
    """Whether the process that made the lock still lives: the system takes it from one that was killed."""
    lock = lock_file(settings)
    if not lock.exists():
        return False
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True


def _silence(address: str) -> str:
    """Why nothing answers there; empty: something does, be it by asking for a login."""
    url = urlsplit(address)
    try:
        if url.scheme in ("http", "https"):
            with urlopen(f"{address}/health" if url.path == "/api" else address, timeout=TIMEOUT_S):
                return ""
        with socket.create_connection((reachable(url.hostname or ""), url.port or 0), timeout=TIMEOUT_S):
            return ""
    except HTTPError as error:
        error.close()
        return "" if error.code < 500 else f"it answers with status {error.code}"
    except (OSError, ValueError) as error:
        return str(getattr(error, "reason", None) or error)


def _has_champion(settings: Settings) -> bool:
    """Whether there is anything to serve."""
    from deployments.stack.databases import plan_databases
    from deployments.stack.serving import served_names
    from infra.registry import Registry
    from infra.store import open_store

    own = settings.model_copy(update={"registry": plan_databases(settings).registry})
    return bool(served_names(Registry(own, open_store(settings.workspace_uri)).versions()))
