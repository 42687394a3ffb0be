"""The triggers' process, ``python -m deployments.triggering``: events in the workspace become runs. It decides nothing; ``triggers`` does."""

from __future__ import annotations

import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from http.client import HTTPException
from typing import Any

from filelock import FileLock

from deployments import watching
from deployments.stack.health import post, say_ready
from deployments.triggers import DUE, Claim, Lane, Ledger, RunState, Trigger, forget, note, step, takes
from infra import events
from infra.audit import write_down
from infra.errors import ArtifactNotFoundError, AtelierError
from infra.settings import load_settings
from infra.store import Store, open_store

DEFINITIONS, LEDGER = "triggers/definitions", "triggers/ledger.json"
_LOOK_S, _FILES_S, _UNSENT_S = 0.5, 1.0, 5.0


def load_triggers(store: Store) -> list[Trigger]:
    """Those that ``atelier deploy`` made."""
    return [Trigger.model_validate_json(store.read_bytes(key)) for key in store.list(f"{DEFINITIONS}/")]


def save_trigger(store: Store, trigger: Trigger) -> None:
    """Make the trigger, or replace it; what lies in a watched folder already counts as seen."""
    if trigger.kind == "files":
        watching.begin(store, trigger.key, trigger.resource)
    store.write_bytes(f"{DEFINITIONS}/{trigger.key}.json", trigger.model_dump_json(indent=2).encode())


def remove_triggers(store: Store, deployment: str) -> list[Trigger]:
    """Take all triggers of a deployment away; which they were."""
    gone = [trigger for trigger in load_triggers(store) if trigger.deployment == deployment]
    for trigger in gone:
        store.delete(f"{DEFINITIONS}/{trigger.key}.json")
        store.delete(f"{watching.WATCHES}/{trigger.key}.json")
    return gone


def load_ledger(store: Store) -> Ledger:
    try:
        return Ledger.model_validate_json(store.read_bytes(LEDGER))
    except ArtifactNotFoundError:
        return Ledger()


class Service:
    """Takes events, looks at folders, and follows what it started.

    Args:
        api: of the Prefect server.
        clock: seconds since 1970.
    """

    def __init__(self, store: Store, api: str, clock: Callable[[], float] = time.time) -> None:
        self._store, self._api, self._clock = store, api, clock
        self._watches: dict[str, watching.Watch] = {}
        self._next_files = self._next_unsent = 0.0
        self._looked_s = 0.0  # events are known up to here: taking many lasts, and what comes meanwhile has not been quiet
        self._ledger = load_ledger(store)
        self._told: dict[str, str] = {}

    def turn(self) -> None:
        """One round of everything; a part that fails is told once and tried again in the next round."""
        triggers = load_triggers(self._store)
        now = self._clock()
        if now >= self._next_files:
            self._next_files = now + _FILES_S
            for trigger in triggers:
                if trigger.kind == "files":
                    self._guarded(trigger.name, lambda trigger=trigger: self._look(trigger))  # type: ignore[misc]
        self._guarded("the events", lambda: self._take(triggers))
        for name in list(self._ledger.lanes):
            self._guarded(name, lambda name=name: self._tend(name, triggers))  # type: ignore[misc]
        if now >= self._next_unsent:
            self._next_unsent = now + _UNSENT_S
            self._guarded("Prefect's feed", lambda: events.send_unsent(self._store))

    def _guarded(self, what: str, work: Callable[[], Any]) -> None:
        try:
            work()
            self._told.pop(what, None)
        except (AtelierError, HTTPException, OSError, ValueError) as error:
            if self._told.get(what) != str(error):
                print(f"{what}: {error}", file=sys.stderr, flush=True)
            self._told[what] = str(error)

    def _look(self, trigger: Trigger) -> None:
        watch = self._watches.get(trigger.key) or watching.load(self._store, trigger.key) or watching.Watch()
        watch, new = watching.look(watch, watching.list_files(trigger.resource), self._clock(), trigger.quiet_s)
        if new:
            payload = {
                "data": trigger.resource,
                "num_files": len(new),
                "files": new[: watching.MOST_NAMES],
                "state": watching.digest(watch),
            }
            events.emit(events.FILES_ARRIVED, f"folder:{trigger.resource}", payload, store=self._store)
            watching.save(self._store, trigger.key, watch)  # after the event: a kill in between tells twice, never not at all
        self._watches[trigger.key] = watch

    def _take(self, triggers: list[Trigger]) -> None:
        looked_s = self._clock()
        found = events.pending(self._store)
        ledger = self._ledger
        for event in found:
            for trigger in triggers:
                if takes(trigger, event):
                    ledger = note(ledger, trigger, event, self._clock())
        self._save(ledger)
        for event in found:
            events.take(self._store, event)
        if found:
            self._save(forget(ledger, set()))
        self._looked_s = looked_s

    def _tend(self, name: str, triggers: list[Trigger]) -> None:
        lane = self._ledger.lanes[name]
        want = lane.claimed.want if lane.claimed else lane.pending
        trigger = next((one for one in triggers if want is not None and one.key == want.trigger), None)
        if trigger is None:
            return
        run = self._find_run(lane.claimed, trigger) if lane.claimed else None
        after, action = step(lane, run, self._looked_s, trigger.quiet_s)
        self._save(self._ledger.model_copy(update={"lanes": {**self._ledger.lanes, name: after}}))
        self._say(name, lane, after)
        claim = after.claimed
        if action == "none" or claim is None:
            return
        parameters = {**trigger.parameters, **claim.want.parameters}
        if action == "tell":
            self._tell(trigger, claim, parameters)
        else:
            body = {"parameters": parameters, "idempotency_key": claim.request, "state": {"type": "SCHEDULED"}, "tags": ["trigger"]}
            post(f"{self._api}/deployments/{trigger.deployment_id}/create_flow_run", body)

    def _tell(self, trigger: Trigger, claim: Claim, parameters: dict[str, Any]) -> None:
        """The event that the trigger's automation waits for; told again it has the same id."""
        payload = {"parameters": parameters, "request": claim.request, "num_events": claim.want.num_events, "trigger": trigger.name}
        event = events.Event(
            id=str(uuid.uuid5(uuid.UUID(claim.request), "due")),
            at=datetime.fromtimestamp(claim.claimed_s, UTC).isoformat(timespec="microseconds"),
            event=DUE,
            resource=f"trigger:{trigger.key}",
            payload=payload,
        )
        events.send(self._api, [event])

    def _find_run(self, claim: Claim, trigger: Trigger) -> RunState | None:
        if claim.run_id:
            found = post(f"{self._api}/flow_runs/filter", {"flow_runs": {"id": {"any_": [claim.run_id]}}, "limit": 1})
            return RunState.model_validate(found[0]) if found else None
        since = datetime.fromtimestamp(claim.claimed_s - 1, UTC).isoformat()
        body = {
            "flow_runs": {"deployment_id": {"any_": [trigger.deployment_id]}, "expected_start_time": {"after_": since}},
            "sort": "EXPECTED_START_TIME_ASC",
            "limit": 50,
        }
        for run in post(f"{self._api}/flow_runs/filter", body):
            is_ours = str((run.get("created_by") or {}).get("id")) == trigger.automation_id or run.get("idempotency_key") == claim.request
            if is_ours and run["state_type"] is not None:
                return RunState.model_validate(run)
        return None

    def _say(self, name: str, before: Lane, after: Lane) -> None:
        if after.claimed is not None and before.claimed is None:
            want = after.claimed.want
            print(f"{name}: a run for {want.num_events} events: {want.parameters}", flush=True)
            write_down(self._store, "trigger", name, events=want.num_events, attempt=want.attempts + 1, **want.parameters)
        if after.claimed is None and before.claimed is not None:
            print(f"{name}: its run ended: {after.done[-1].state}", flush=True)

    def _save(self, ledger: Ledger) -> None:
        if ledger != self._ledger:
            self._store.write_bytes(LEDGER, ledger.model_dump_json().encode())
            self._ledger = ledger


def main() -> int:
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    settings = load_settings()
    api = events.server_url()
    if not api:
        print("PREFECT_API_URL is not set: there is no server whose deployments could be run", file=sys.stderr)
        return 2
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(settings.state_dir / "triggers.lock"):  # the ledger has one writer
        service = Service(open_store(settings.workspace_uri), api)
        while not stopping.is_set():
            service.turn()
            say_ready()
            stopping.wait(_LOOK_S)
    return 0


if __name__ == "__main__":
    sys.exit(main())
