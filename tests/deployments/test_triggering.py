"""The triggers' process against a server that answers as Prefect's API does: events become runs, whatever dies in between."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from deployments.triggering import Service, load_ledger, load_triggers, remove_triggers, save_trigger
from deployments.triggers import START_OURSELVES_S, TELL_AGAIN_S, Trigger
from infra import events
from infra.store import Store, open_store

DEPLOYMENT, AUTOMATION = str(uuid.uuid4()), str(uuid.uuid4())


class Api(ThreadingHTTPServer):
    """Takes events, and has an automation that starts a run for each event that is due, once for each id.

    Attributes:
        deaf: takes events and forgets them, as a server does that is killed just then.
        down: answers nothing.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.runs: list[dict[str, Any]] = []
        self.deaf = self.down = False
        self._ids: set[str] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/api"

    def answer(self, path: str, body: Any) -> Any:
        if path == "/api/events":
            for event in body:
                if event["event"] == "atelier.run.due" and not self.deaf and event["id"] not in self._ids:
                    self._ids.add(event["id"])
                    self.add({"parameters": event["payload"]["parameters"], "created_by": {"id": AUTOMATION}})
        elif path == "/api/flow_runs/filter":
            wanted = body["flow_runs"].get("id", {}).get("any_")
            return [run for run in self.runs if wanted is None or run["id"] in wanted]
        elif path == f"/api/deployments/{DEPLOYMENT}/create_flow_run" and body["idempotency_key"] not in self._ids:
            self._ids.add(body["idempotency_key"])
            self.add(body)
        return None

    def add(self, run: dict[str, Any]) -> None:
        self.runs.append({"state_type": "SCHEDULED", **run, "id": str(uuid.uuid4())})


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        api = self.server
        assert isinstance(api, Api)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answer = json.dumps(None if api.down else api.answer(self.path, body)).encode()
        self.send_response(503 if api.down else 200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    with Api() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        monkeypatch.setenv("PREFECT_API_URL", server.url)
        yield server
        server.shutdown()
        thread.join()


class World:
    """A store with triggers, a service that may be killed at any moment, and a clock."""

    def __init__(self, folder: Path, api: Api) -> None:
        self.store, self.api, self.now = open_store(str(folder / "store")), api, datetime.now(UTC).timestamp()
        self.service = self.start()

    def start(self) -> Service:
        return Service(self.store, self.api.url, lambda: self.now)

    def listen(self, kind: str, resource: str) -> Trigger:
        trigger = Trigger(
            kind=kind,  # type: ignore[arg-type]
            resource=resource,
            deployment="retrain/digits",
            deployment_id=DEPLOYMENT,
            automation_id=AUTOMATION,
            parameters={"data": "", "model": "digits"},
            quiet_s=2.0,
        )
        save_trigger(self.store, trigger)
        return trigger

    def tell(self, data: str) -> None:
        events.emit(events.DATASET_CREATED, "dataset:digits", {"data": data}, store=self.store)

    def pass_time(self, seconds: float) -> None:
        """A turn before and after."""
        self.service.turn()
        self.now += seconds
        self.service.turn()


@pytest.fixture
def world(tmp_path: Path, api: Api) -> World:
    return World(tmp_path, api)


def test_a_storm_becomes_one_run_with_the_newest_data(world: World) -> None:
    world.listen("dataset", "digits")
    for number in range(50):
        world.tell(f"d{number}")
    world.pass_time(3)
    world.pass_time(3)
    assert [run["parameters"] for run in world.api.runs] == [{"data": "d49", "model": "digits"}]
    assert events.pending(world.store) == []


def test_what_comes_while_a_storm_is_being_taken_belongs_to_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    take, late = events.take, iter(["late"])

    def slow(store: Store, event: events.Event) -> None:
        take(store, event)
        world.now += 5.0  # longer than the trigger's quiet time
        if (data := next(late, None)) is not None:
            world.tell(data)

    monkeypatch.setattr(events, "take", slow)
    world.listen("dataset", "digits")
    for number in range(3):
        world.tell(f"d{number}")
    world.service.turn()
    assert world.api.runs == []
    world.pass_time(3)
    world.pass_time(3)
    assert [run["parameters"]["data"] for run in world.api.runs] == ["late"]


def test_a_service_that_is_killed_after_any_turn_loses_nothing_and_starts_nothing_twice(world: World) -> None:
    world.listen("dataset", "digits")
    for number in range(3):
        world.tell(f"d{number}")
        for _ in range(4):
            world.service = world.start()
            world.pass_time(1.5)
        assert [run["parameters"]["data"] for run in world.api.runs] == [f"d{before}" for before in range(number + 1)]
        world.api.runs[-1]["state_type"] = "COMPLETED"
        world.pass_time(1)
    lane = load_ledger(world.store).lanes["retrain/digits"]
    assert [done.state for done in lane.done] == ["COMPLETED"] * 3


def test_an_event_during_a_run_makes_the_next_one(world: World) -> None:
    world.listen("dataset", "digits")
    world.tell("first")
    world.pass_time(3)
    world.api.runs[0]["state_type"] = "RUNNING"
    world.tell("second")
    world.pass_time(10)
    assert len(world.api.runs) == 1
    world.api.runs[0]["state_type"] = "COMPLETED"
    world.pass_time(3)
    world.pass_time(3)
    assert [run["parameters"]["data"] for run in world.api.runs] == ["first", "second"]


def test_a_server_that_forgot_the_event_is_told_again(world: World) -> None:
    world.listen("dataset", "digits")
    world.api.deaf = True
    world.tell("d")
    world.pass_time(3)
    assert world.api.runs == []
    world.api.deaf = False
    world.pass_time(TELL_AGAIN_S + 1)
    world.pass_time(1)
    assert len(world.api.runs) == 1


def test_a_run_that_no_automation_starts_is_started_all_the_same_and_once(world: World) -> None:
    world.listen("dataset", "digits")
    world.api.deaf = True
    world.tell("d")
    world.pass_time(3)
    for _ in range(3):
        world.pass_time(START_OURSELVES_S + 1)
    assert [run["parameters"]["data"] for run in world.api.runs] == ["d"]


def test_events_wait_while_the_server_is_down(world: World) -> None:
    world.listen("dataset", "digits")
    world.api.down = True
    world.tell("d")
    world.pass_time(30)
    world.api.down = False
    world.pass_time(TELL_AGAIN_S + 1)
    world.pass_time(6)
    assert [run["parameters"]["data"] for run in world.api.runs] == ["d"]
    assert list(world.store.list("events/unsent/")) == []


def test_a_crashed_run_gives_its_data_back(world: World) -> None:
    world.listen("dataset", "digits")
    world.tell("d")
    world.pass_time(3)
    world.api.runs[0]["state_type"] = "CRASHED"
    world.pass_time(31)
    world.pass_time(1)
    assert [run["parameters"]["data"] for run in world.api.runs] == ["d", "d"]


def test_new_files_start_a_run_also_when_they_came_while_nobody_looked(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "arriving"
    (folder / "0").mkdir(parents=True)
    (folder / "0" / "old.png").write_bytes(b"old")
    world.listen("files", str(folder))
    world.pass_time(5)
    world.pass_time(5)
    assert world.api.runs == [], "what lay there when the trigger was made is not new"
    (folder / "0" / "new.png").write_bytes(b"new")
    world.service = world.start()
    for _ in range(4):
        world.pass_time(2.5)
    assert [run["parameters"]["data"] for run in world.api.runs] == [str(folder)]
    world.api.runs[0]["state_type"] = "COMPLETED"
    world.service = world.start()
    for _ in range(4):
        world.pass_time(2.5)
    assert len(world.api.runs) == 1, "what was seen is remembered over a restart"


def test_triggers_that_are_taken_away_start_nothing(world: World) -> None:
    trigger = world.listen("dataset", "digits")
    assert remove_triggers(world.store, "retrain/digits") == [trigger]
    assert load_triggers(world.store) == []
    world.tell("d")
    world.pass_time(30)
    assert world.api.runs == []


def test_new_objects_below_an_s3_prefix_start_a_run(world: World, s3_workspace: str) -> None:
    bucket = open_store(s3_workspace.rpartition("/")[0])
    prefix = f"{bucket.uri}/arriving"
    bucket.write_bytes("arriving/0/old.png", b"old")
    world.listen("files", prefix)
    bucket.write_bytes("arriving/0/new.png", b"new")
    for _ in range(4):
        world.pass_time(2.5)
    assert [run["parameters"]["data"] for run in world.api.runs] == [prefix]
