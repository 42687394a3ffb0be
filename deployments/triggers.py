"""What starts runs: which events a trigger takes, and a ledger that makes one run of many events and loses none. Pure functions of values.

A lane is a queue of one deployment (and one model, if a trigger listens to all). What is wanted of it goes

    pending -> claimed -> done

New events join what is pending, the newest one's parameters win, and only when they have been quiet for a moment is a run claimed. While it
runs, what comes is pending for the next. A run that crashed gives its claim back.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from infra import events
from infra.errors import InvalidOptionError

Kind = Literal["dataset", "files", "drift", "quality", "registered", "challenger", "promoted"]
EVENTS: dict[str, str] = {
    "dataset": events.DATASET_CREATED,
    "files": events.FILES_ARRIVED,
    "drift": events.MODEL_DRIFTED,
    "quality": events.QUALITY_DROPPED,
    "registered": events.MODEL_REGISTERED,
    "challenger": events.MODEL_CHALLENGED,
    "promoted": events.MODEL_PROMOTED,
}
PARAMETERS = ("data", "model", "version", "reason")
"""What an event may set of a run, where the run's flow has such a parameter."""
DUE = "atelier.run.due"

TELL_AGAIN_S = 20.0
START_OURSELVES_S = 60.0
RETRY_S = 30.0
MOST_ATTEMPTS = {"CRASHED": 5, "FAILED": 2}
MOST_WAIT_FACTOR = 10.0
KEPT_DONE = 50
_RESOURCE = re.compile(r"[A-Za-z0-9*?][A-Za-z0-9._*?-]{0,99}")


class Trigger(BaseModel):
    """An event that starts runs of a deployment."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    resource: str = Field(description="A data set's or model's name (`*`: any), or the URI of a folder.")
    deployment: str = Field(description="FLOW/NAME.")
    deployment_id: str = ""
    automation_id: str = ""
    parameters: dict[str, Any] = Field(default_factory=dict, description="What the event may set, with the deployment's own values.")
    quiet_s: float = Field(default=5.0, ge=0, description="A run starts when no further event has come for so long, seconds.")

    @property
    def name(self) -> str:
        return f"{self.deployment} on {self.kind}:{self.resource}"

    @property
    def key(self) -> str:
        """A name for files and for Prefect's resources."""
        return uuid.uuid5(uuid.NAMESPACE_URL, f"atelier:trigger:{self.name}").hex

    def lane(self, event: events.Event) -> str:
        """Which queue the event joins."""
        return f"{self.deployment} {event.resource}" if "*" in self.resource else self.deployment


class Want(BaseModel):
    """Events that ask for one run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    trigger: str = Field(description="Key of the newest event's trigger.")
    parameters: dict[str, Any]
    num_events: int = 1
    newest_at: str = Field(description="When the newest event happened, ISO 8601.")
    first_s: float = Field(description="When the first was noted, seconds since 1970.")
    last_s: float
    not_before_s: float = 0.0
    attempts: int = 0


class Claim(BaseModel):
    """A run that was asked for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    request: str = Field(description="UUID.")
    want: Want
    claimed_s: float
    told_s: float = 0.0
    run_id: str = ""


class Done(BaseModel):
    """How a claim ended."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    request: str
    run_id: str
    state: str
    num_events: int
    ended_s: float


class Lane(BaseModel):
    """One queue."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pending: Want | None = None
    claimed: Claim | None = None
    done: tuple[Done, ...] = ()


class Ledger(BaseModel):
    """All queues. ``noted`` are events that were taken into it and may still lie in the outbox."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lanes: dict[str, Lane] = Field(default_factory=dict)
    noted: tuple[str, ...] = ()


class RunState(BaseModel):
    """A flow run, as Prefect knows it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    state_type: str


Step = Literal["none", "tell", "start"]
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


def parse_trigger(text: str, deployment: str = "", quiet_s: float = 5.0) -> Trigger:
    """``KIND:RESOURCE`` as people write it, such as ``files:/data/new`` or ``drift:digits``.

    A folder becomes absolute: who watches it, and the runs that read it, have working folders of their own.

    Raises:
        InvalidOptionError: an unknown kind, no resource, or a name that no event can have.
    """
    kind, colon, resource = text.partition(":")
    if kind not in EVENTS or not colon or not resource:
        raise InvalidOptionError(
            "a trigger", [f"{text!r}: expected KIND:NAME, where KIND is {', '.join(EVENTS)}"], "For example drift:digits."
        )
    if kind != "files" and not _RESOURCE.fullmatch(resource):
        raise InvalidOptionError(
            "a trigger", [f"{text!r}: {resource!r} can be no name; allowed are letters, digits, '.', '_', '-' and '*'"]
        )
    if kind == "files":
        scheme = resource.partition("://")[0].lower() if "://" in resource else ""
        if scheme not in ("", "file", "s3", "s3a"):
            raise InvalidOptionError("a trigger", [f"{text!r}: expected a folder or an s3:// prefix"])
        resource = resource if scheme else str(Path(resource).expanduser().absolute())
    return Trigger(kind=kind, resource=resource, deployment=deployment, quiet_s=quiet_s)  # type: ignore[arg-type]


def takes(trigger: Trigger, event: events.Event) -> bool:
    """Whether the event starts a run by this trigger."""
    return event.event == EVENTS[trigger.kind] and fnmatchcase(event.resource.partition(":")[2], trigger.resource)


def parameters_of(trigger: Trigger, payload: Mapping[str, Any]) -> dict[str, Any]:
    """What the event sets of the run: those of the trigger's parameters that its payload has."""
    return {name: payload[name] for name in trigger.parameters if payload.get(name) is not None}


def note(ledger: Ledger, trigger: Trigger, event: events.Event, now_s: float) -> Ledger:
    """Let the event join what is pending in its lane; the same event twice joins once."""
    mark = f"{event.id} {trigger.key}"
    if mark in ledger.noted:
        return ledger
    name = trigger.lane(event)
    lane = ledger.lanes.get(name, Lane())
    fresh = Want(trigger=trigger.key, parameters=parameters_of(trigger, event.payload), newest_at=event.at, first_s=now_s, last_s=now_s)
    joined = fresh if lane.pending is None else merge(lane.pending, fresh)
    lanes = {**ledger.lanes, name: lane.model_copy(update={"pending": joined})}
    return Ledger(lanes=lanes, noted=(*ledger.noted, mark))


def merge(one: Want, other: Want) -> Want:
    """Both as one: the parameters of the newer one win, those that only the older one has stay."""
    older, newer = (one, other) if one.newest_at <= other.newest_at else (other, one)
    return Want(
        trigger=newer.trigger,
        parameters={**older.parameters, **newer.parameters},
        num_events=one.num_events + other.num_events,
        newest_at=newer.newest_at,
        first_s=min(one.first_s, other.first_s),
        last_s=max(one.last_s, other.last_s),
        not_before_s=max(one.not_before_s, other.not_before_s),
        attempts=max(one.attempts, other.attempts),
    )


def step(lane: Lane, run: RunState | None, now_s: float, quiet_s: float) -> tuple[Lane, Step]:
    """What becomes of a lane now, and what is to be done: ``tell`` Prefect that its run is due, or ``start`` the run without automation.

    Args:
        run: the claimed run, if Prefect has it.
        quiet_s: how long events must have been quiet; ten times as long after the first one a run starts anyhow.
    """
    if lane.claimed is not None:
        return _follow(lane, lane.claimed, run, now_s)
    want = lane.pending
    if want is None or now_s < want.not_before_s:
        return lane, "none"
    if now_s - want.last_s < quiet_s and now_s - want.first_s < quiet_s * MOST_WAIT_FACTOR:
        return lane, "none"
    claim = Claim(request=str(uuid.uuid4()), want=want, claimed_s=now_s, told_s=now_s)
    return lane.model_copy(update={"pending": None, "claimed": claim}), "tell"


def _follow(lane: Lane, claim: Claim, run: RunState | None, now_s: float) -> tuple[Lane, Step]:
    if run is None:
        if claim.run_id:  # it was deleted
            return _end(lane, claim, "DELETED", now_s), "none"
        if now_s - claim.claimed_s > START_OURSELVES_S:
            return lane, "start"
        if now_s - claim.told_s > TELL_AGAIN_S:
            return lane.model_copy(update={"claimed": claim.model_copy(update={"told_s": now_s})}), "tell"
        return lane, "none"
    if claim.run_id != run.id:
        claim = claim.model_copy(update={"run_id": run.id})
        lane = lane.model_copy(update={"claimed": claim})
    if run.state_type not in ENDED:
        return lane, "none"
    if claim.want.attempts + 1 < MOST_ATTEMPTS.get(run.state_type, 0):
        attempts = claim.want.attempts + 1
        again = claim.want.model_copy(update={"attempts": attempts, "not_before_s": now_s + RETRY_S * 2 ** (attempts - 1)})
        pending = again if lane.pending is None else merge(again, lane.pending)
        return _end(lane, claim, run.state_type, now_s).model_copy(update={"pending": pending}), "none"
    return _end(lane, claim, run.state_type, now_s), "none"


def _end(lane: Lane, claim: Claim, state: str, now_s: float) -> Lane:
    done = Done(request=claim.request, run_id=claim.run_id, state=state, num_events=claim.want.num_events, ended_s=now_s)
    return lane.model_copy(update={"claimed": None, "done": (*lane.done, done)[-KEPT_DONE:]})


def forget(ledger: Ledger, still_there: set[str]) -> Ledger:
    """Keep in mind only events that may come again: those whose id is still in the outbox."""
    kept = tuple(mark for mark in ledger.noted if mark.split()[0] in still_there)
    return ledger if kept == ledger.noted else ledger.model_copy(update={"noted": kept})
