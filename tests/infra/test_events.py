"""Events: kept in the workspace whatever Prefect's server does, and told to it when it can be reached."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from infra import events
from infra.datasets.card import DatasetRef
from infra.datasets.names import record
from infra.store import MemoryStore, open_store


@pytest.fixture
def store(tmp_path: Path) -> Any:
    return open_store(str(tmp_path / "store"))


class Receiver(ThreadingHTTPServer):
    """Takes events as Prefect's API does."""

    def __init__(self) -> None:
        self.got: list[dict[str, Any]] = []
        self.status = 204
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Receiver)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.server.status == 204:
            self.server.got += body
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{server.server_address[1]}/api")
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def no_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))


def test_an_event_is_told_and_waits_for_the_triggers(store: Any, receiver: Receiver) -> None:
    told = events.emit(events.MODEL_DRIFTED, "model:digits", {"model": "digits"}, store=store)
    assert events.pending(store) == [told]
    assert [(one["event"], one["resource"]["prefect.resource.id"]) for one in receiver.got] == [
        (events.MODEL_DRIFTED, "atelier.model.digits")
    ]
    events.take(store, told)
    events.take(store, told)
    assert events.pending(store) == []
    assert list(store.list("events/unsent/")) == []


def test_what_a_dead_server_did_not_hear_is_told_later(store: Any, receiver: Receiver) -> None:
    receiver.status = 503
    told = [events.emit(events.MODEL_DRIFTED, f"model:m{number}", {}, store=store) for number in range(3)]
    events.take(store, told[0])
    assert events.send_unsent(store) == 0
    receiver.status = 204
    assert events.send_unsent(store) == 3
    assert [one["id"] for one in receiver.got] == [one.id for one in told]
    assert events.send_unsent(store) == 0


@pytest.mark.usefixtures("no_server")
def test_without_a_server_nothing_is_lost(store: Any) -> None:
    told = [events.emit(events.MODEL_DRIFTED, "model:a", {"number": number}, store=store) for number in range(20)]
    assert events.pending(store) == sorted(told, key=lambda one: one.name)


@pytest.mark.usefixtures("no_server")
def test_the_same_event_told_twice_is_one_also_when_it_was_taken(store: Any) -> None:
    first = events.emit("x", "model:a", {}, store=store, key="1", at="2026-11-26T00:00:00+00:00")
    assert events.emit("x", "model:a", {}, store=store, key="1", at="2026-11-26T00:00:00+00:00") == first
    assert len(events.pending(store)) == 1
    events.take(store, first)
    events.emit("x", "model:a", {}, store=store, key="1", at="2026-11-26T00:00:00+00:00")
    assert events.pending(store) == []


@pytest.mark.usefixtures("no_server")
def test_a_name_that_gets_a_new_meaning_is_an_event_and_the_old_one_again_is_none() -> None:
    store = MemoryStore("memory://names-and-events")
    for digest in ("a" * 64, "a" * 64, "b" * 64):
        record(store, DatasetRef(digest=digest, name="digits", kind="image"), "here")
    found = events.pending(store)
    assert [(one.event, one.resource, one.payload["data"]) for one in found] == [
        (events.DATASET_CREATED, "dataset:digits", "a" * 64),
        (events.DATASET_CREATED, "dataset:digits", "b" * 64),
    ]


def test_a_login_becomes_a_header(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "me:secret")
    assert events.authorization() == {"Authorization": "Basic bWU6c2VjcmV0"}
