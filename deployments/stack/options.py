"""What ``atelier up`` is told, and the ports that follow from it."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from infra.errors import InvalidOptionError

WORK_POOL, WORKER = "atelier", "up"
NAMES = ("prefect", "mlflow", "scheduler", "dashboard", "serving")
LOOPBACK = "127.0.0.1"
PRIVATE = ("scheduler", "dashboard")  # Dask knows no login, and runs what it is sent: it stays on loopback wherever the others listen
USUAL = {"prefect": 4200, "mlflow": 5000, "scheduler": 8786, "dashboard": 8787, "serving": 8080}


class UpOptions(BaseModel):
    """Options of ``atelier up``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = Field(default=LOOPBACK, description="Where Prefect, MLflow and the inference server listen.")
    port_base: Annotated[int, Field(ge=1, le=65_000)] | None = Field(default=None, description="First of five ports; none: the usual ones.")
    free_ports: bool = Field(default=False, description="Take any free ports.")
    max_runs: Annotated[int, Field(ge=1)] = Field(default=4, description="Flow runs at once.")
    capture: Annotated[float, Field(ge=0, le=1)] = Field(default=1.0, description="Share of the served requests that is kept.")
    deploy: bool = Field(default=True, description="Make the deployments.")


def family_of(host: str) -> socket.AddressFamily:
    """Of a socket that listens there."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def reachable(host: str) -> str:
    """How this machine's own programs reach what listens there: any address means loopback."""
    return {"0.0.0.0": LOOPBACK, "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)


def choose_ports(options: UpOptions) -> dict[str, int]:
    """A port for each name.

    Raises:
        InvalidOptionError: some of them are taken; all are named.
    """

    def take(name: str, port: int) -> int:
        host = LOOPBACK if name in PRIVATE else options.host
        bound = held.enter_context(socket.create_server((host, port), family=family_of(host)))
        return int(bound.getsockname()[1])

    with ExitStack() as held:
        if options.free_ports:
            return {name: take(name, 0) for name in NAMES}
        wanted = USUAL if options.port_base is None else {name: options.port_base + place for place, name in enumerate(NAMES)}
        taken = []
        for name, port in wanted.items():
            try:
                take(name, port)
            except OSError as error:
                taken.append(f"port {port} ({name}): {error.strerror or error}")
    if taken:
        hint = "Another stack may run already. Use --port-base N for five ports from N on, or --free-ports."
        raise InvalidOptionError("atelier up", taken, hint)
    return dict(wanted)
