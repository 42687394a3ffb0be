"""Routes in the store: how requests are shared out is common to all servers of a workspace, and outlives them."""

from __future__ import annotations

from deployments.serving.routing import Route
from infra.errors import ArtifactNotFoundError
from infra.store import Store

_FOLDER = "serving/routes"


def read_route(store: Store, name: str) -> Route:
    """The route of a model; one without canary and shadow if none was set, or if what lies there is none."""
    try:
        return Route.model_validate_json(store.read_bytes(f"{_FOLDER}/{name}.json"))
    except (ArtifactNotFoundError, ValueError):
        return Route()


def write_route(store: Store, name: str, route: Route) -> None:
    """Set the route of a model; servers follow within their polling interval."""
    store.write_bytes(f"{_FOLDER}/{name}.json", route.model_dump_json().encode())


def clear_route(store: Store, name: str) -> None:
    """No canary and no shadow any more."""
    store.delete(f"{_FOLDER}/{name}.json")
