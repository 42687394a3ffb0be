"""Administration: the state of the server, and how requests are shared out. It takes an admin's key, and every change is written down."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Request
from fastapi import Path as PathParameter
from pydantic import BaseModel, ConfigDict, Field

from deployments.serving.openapi import error_responses
from deployments.serving.routes import clear_route, write_route
from deployments.serving.routing import Route
from deployments.serving.tensors import refuse

if TYPE_CHECKING:
    from deployments.serving.app import Server

AUDIT = "serving/audit.jsonl"
Name = Annotated[str, PathParameter(description="Name of a model.", max_length=100)]
Version = Annotated[int, Field(ge=0, le=10**9)]


class RouteChange(BaseModel):
    """Body of a route: 0 means none."""

    model_config = ConfigDict(extra="forbid")

    canary: Version = Field(default=0, description="Version that gets a share of the requests; 0: none.")
    weight: Annotated[float, Field(ge=0, le=100)] = Field(default=0, description="Its share, per cent.")
    shadow: Version = Field(default=0, description="Version that gets a copy of every request; 0: none.")
    reason: Annotated[str, Field(max_length=2000)] = ""


def write_down(state_dir: Path, who: str, action: str, **details: Any) -> None:
    """Append a line to the audit log of this machine's servers; one write, so lines of several workers do not mix."""
    line = {"at": datetime.now(UTC).isoformat(timespec="milliseconds"), "who": who, "action": action, **details}
    path = state_dir / AUDIT
    path.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab", buffering=0) as file:
        file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")


def admin_routes(server: Server, may: Callable[[Request, Any], str]) -> APIRouter:
    """The paths below ``/admin``."""
    router = APIRouter(prefix="/admin", tags=["administration"])
    fleet = server.fleet
    known = error_responses(400, 401, 403, 404)

    @router.get("/models", summary="Versions, routes, queues, and what could not be loaded", responses=error_responses(401, 403))
    async def models(request: Request) -> dict[str, Any]:
        may(request, "admin")
        return {
            "draining": server.draining,
            "models": {
                name: {
                    "live": one.live.number,
                    "route": one.route.model_dump(),
                    "failure": fleet.failures.get(name, ""),
                    "versions": {
                        number: {"aliases": model.version.aliases, "rows_waiting": model.batcher.rows_waiting, "run_s": model.batcher.run_s}
                        for number, model in one.versions.items()
                    },
                }
                for name, one in fleet.served.items()
            },
        }

    @router.put("/models/{name}/route", summary="Set canary and shadow", responses=known)
    async def set_route(request: Request, name: Name, change: RouteChange) -> dict[str, Any]:
        who = may(request, "admin")
        server.served(name)
        known = {version.version for version in await asyncio.to_thread(fleet.registry.versions, name)}
        for what, number in (("canary", change.canary), ("shadow", change.shadow)):
            if number and number not in known:
                raise refuse(f"{what}: {name!r} has no version {number}; it has {', '.join(map(str, sorted(known)))}")
        route = Route(canary=change.canary or None, weight=change.weight, shadow=change.shadow or None, reason=change.reason)
        write_down(fleet.settings.state_dir, who, "route", model=name, route=route.model_dump())
        await asyncio.to_thread(write_route, fleet.store, name, route)
        await fleet.refresh()
        return route.model_dump()

    @router.delete("/models/{name}/route", summary="No canary and no shadow any more", responses=known)
    async def drop_route(request: Request, name: Name) -> dict[str, Any]:
        who = may(request, "admin")
        server.served(name)
        write_down(fleet.settings.state_dir, who, "route", model=name, route=None)
        await asyncio.to_thread(clear_route, fleet.store, name)
        await fleet.refresh()
        return Route().model_dump()

    @router.post("/refresh", summary="Look at the registry and the keys now", responses=error_responses(401, 403))
    async def refresh(request: Request) -> dict[str, Any]:
        who = may(request, "admin")
        write_down(fleet.settings.state_dir, who, "refresh")
        await asyncio.to_thread(server.ring.load)
        await fleet.refresh()
        return {name: one.live.number for name, one in fleet.served.items()}

    return router
