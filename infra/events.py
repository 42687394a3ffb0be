"""Events: what happened in a workspace, told to Prefect and kept until the triggers have taken it.

    events/outbox/<time>-<id>.json   happened, not taken by the triggers yet
    events/log/<time>-<id>.json      taken
    events/unsent/<time>-<id>        not told to a Prefect server yet

The workspace is the truth: an event is written there first, so a server that is down, or dies, loses none. What Prefect is told is for its
feed of events and its automations. It is told over its HTTP API, which answers when it has the event, and without importing Prefect (seconds).
"""

from __future__ import annotations

import base64
import json
import os
import uuid
from datetime import UTC, datetime
from http.client import HTTPException
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

from pydantic import BaseModel, ConfigDict, Field

from infra.errors import ArtifactNotFoundError
from infra.store import Store

DATASET_CREATED = "atelier.dataset.version.created"
MODEL_REGISTERED = "atelier.model.registered"
MODEL_PROMOTED = "atelier.model.promoted"
MODEL_CHALLENGED = "atelier.model.challenged"
MODEL_DRIFTED = "atelier.model.drifted"
QUALITY_DROPPED = "atelier.model.quality.dropped"
FILES_ARRIVED = "atelier.files.arrived"

OUTBOX, LOG, UNSENT = "events/outbox", "events/log", "events/unsent"
SEND_TIMEOUT_S = 5.0


class Event(BaseModel):
    """One thing that happened to one resource."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(description="UUID; the same event told twice has the same.")
    at: str = Field(description="ISO 8601, UTC, microseconds.")
    event: str = Field(description="What happened, such as atelier.model.drifted.")
    resource: str = Field(description="To what: dataset:NAME, model:NAME or folder:URI.")
    payload: dict[str, Any] = Field(default_factory=dict, description="JSON values; never a secret.")

    @property
    def name(self) -> str:
        """Sorts by time, and is the same for the same event."""
        return f"{datetime.fromisoformat(self.at).astimezone(UTC):%Y%m%dT%H%M%S.%fZ}-{self.id}"


def emit(event: str, resource: str, payload: dict[str, Any], *, store: Store, key: str = "", at: str = "") -> Event:
    """Write down that something happened, and tell Prefect where a server is configured.

    Args:
        event: one of the names above.
        resource: ``dataset:NAME``, ``model:NAME`` or ``folder:URI``.
        payload: becomes parameters of the run that a trigger starts.
        store: the workspace.
        key: what tells this event from all others; with ``at`` it makes a second telling of the same the same event. Empty: each is new.
        at: when it happened, ISO 8601; empty: now.

    Raises:
        StoreAccessError, StoreUnavailableError: it could not be written; a Prefect server that does not answer raises nothing.
    """
    at = datetime.fromisoformat(at or datetime.now(UTC).isoformat()).astimezone(UTC).isoformat(timespec="microseconds")
    number = uuid.uuid5(uuid.NAMESPACE_URL, f"atelier:{event}:{resource}:{key}:{at}") if key else uuid.uuid4()
    happened = Event(id=str(number), at=at, event=event, resource=resource, payload=payload)
    if store.exists(f"{LOG}/{happened.name}.json"):
        return happened
    store.write_bytes(f"{UNSENT}/{happened.name}", b"")  # also without a server: that of a stack is told by its triggers
    store.create(f"{OUTBOX}/{happened.name}.json", happened.model_dump_json().encode())
    if (url := server_url()) and send(url, [happened]):
        store.delete(f"{UNSENT}/{happened.name}")
    return happened


def pending(store: Store) -> list[Event]:
    """Events that no trigger has taken, oldest first."""
    found = []
    for key in store.list(f"{OUTBOX}/"):
        try:
            found.append(Event.model_validate_json(store.read_bytes(key)))
        except ArtifactNotFoundError:
            continue  # another process has just taken it
    return found


def take(store: Store, event: Event) -> None:
    """Move an event from the outbox into the log; twice does no harm."""
    store.write_bytes(f"{LOG}/{event.name}.json", event.model_dump_json().encode())
    store.delete(f"{OUTBOX}/{event.name}.json")


def send_unsent(store: Store) -> int:
    """Tell Prefect what it was not told because it was down; how many it took."""
    url = server_url()
    keys = list(store.list(f"{UNSENT}/")) if url else []
    sent = 0
    for key in keys:
        name = key.removeprefix(f"{UNSENT}/")
        found = next((place for place in (f"{OUTBOX}/{name}.json", f"{LOG}/{name}.json") if store.exists(place)), None)
        if found is not None and not send(url or "", [Event.model_validate_json(store.read_bytes(found))]):
            return sent
        store.delete(key)
        sent += 1
    return sent


def server_url() -> str | None:
    """The API of the Prefect server that the user chose, if any; a run's embedded one has no automations to tell."""
    from infra.prefect_server import configured_url

    return configured_url()


def send(url: str, events: list[Event]) -> bool:
    """Tell a Prefect server; whether it has taken them."""
    body = [
        {
            "id": one.id,
            "occurred": one.at,
            "event": one.event,
            "resource": {"prefect.resource.id": f"atelier.{one.resource.replace(':', '.', 1)}", "prefect.resource.name": one.resource},
            "payload": one.payload,
        }
        for one in events
    ]
    request = Request(f"{url}/events", json.dumps(body).encode(), {"Content-Type": "application/json", **authorization()})
    try:
        with urlopen(request, timeout=SEND_TIMEOUT_S) as answer:
            return 200 <= answer.status < 300
    except (URLError, HTTPException, OSError):
        return False


def authorization() -> dict[str, str]:
    """The header by which the Prefect API knows us, where it wants one (``PREFECT_API_AUTH_STRING``, ``PREFECT_API_KEY``, ``ATELIER_LOGIN``)."""
    from infra.access import prefect_client_variables
    from infra.settings import load_settings

    known = os.environ.get("PREFECT_API_AUTH_STRING")
    if not known and not os.environ.get("PREFECT_API_KEY"):
        known = prefect_client_variables(load_settings()).get("PREFECT_API_AUTH_STRING")
    if known:
        return {"Authorization": f"Basic {base64.b64encode(known.encode()).decode()}"}
    if key := os.environ.get("PREFECT_API_KEY"):
        return {"Authorization": f"Bearer {key}"}
    return {}
