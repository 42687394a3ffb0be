"""The ledger of triggers and the watcher of folders: pure decisions, in made-up time."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest

from deployments import watching
from deployments.triggers import (
    MOST_ATTEMPTS,
    START_OURSELVES_S,
    TELL_AGAIN_S,
    Lane,
    Ledger,
    RunState,
    Trigger,
    forget,
    note,
    parse_trigger,
    step,
    takes,
)
from infra.errors import InvalidOptionError
from infra.events import DATASET_CREATED, FILES_ARRIVED, MODEL_DRIFTED, Event

QUIET_S = 5.0
_numbers = itertools.count()


def event(data: str = "d1", *, at: int = 0, what: str = DATASET_CREATED, resource: str = "dataset:digits", **more: object) -> Event:
    return Event(
        id=f"e{next(_numbers)}", at=f"2026-11-26T00:00:{at:02d}.000000+00:00", event=what, resource=resource, payload={"data": data, **more}
    )


def trigger(kind: str = "dataset", resource: str = "digits") -> Trigger:
    return Trigger(kind=kind, resource=resource, deployment="retrain/digits", parameters={"data": "", "model": "digits"})  # type: ignore[arg-type]


def lane_of(ledger: Ledger) -> Lane:
    return ledger.lanes["retrain/digits"]


def claimed(num: int = 1) -> Lane:
    ledger = Ledger()
    for place in range(num):
        ledger = note(ledger, trigger(), event(f"d{place}", at=place % 60), 0.0)
    lane, action = step(lane_of(ledger), None, QUIET_S, QUIET_S)
    assert action == "tell"
    return lane


def test_a_storm_makes_one_claim_that_holds_the_newest_data() -> None:
    storm = [event(f"d{place}", at=place % 60) for place in range(60)]
    random.Random(0).shuffle(storm)
    ledger = Ledger()
    for one in storm:
        ledger = note(ledger, trigger(), one, 0.0)
    lane, action = step(lane_of(ledger), None, QUIET_S, QUIET_S)
    assert action == "tell"
    assert lane.pending is None
    assert lane.claimed is not None
    assert (lane.claimed.want.parameters, lane.claimed.want.num_events) == ({"data": "d59"}, 60)


def test_nothing_starts_while_events_keep_coming_but_not_for_ever() -> None:
    ledger = note(Ledger(), trigger(), event(), 0.0)
    assert step(lane_of(ledger), None, QUIET_S - 0.1, QUIET_S)[1] == "none"
    now = 0.0
    while now < 10 * QUIET_S:
        ledger = note(ledger, trigger(), event(), now)
        assert step(lane_of(ledger), None, now, QUIET_S)[1] == "none"
        now += QUIET_S / 2
    assert step(lane_of(ledger), None, now, QUIET_S)[1] == "tell"


def test_an_event_during_a_run_waits_for_the_next_one() -> None:
    lane = claimed()
    ledger = note(Ledger(lanes={"retrain/digits": lane}), trigger(), event("later", at=50), 10.0)
    lane, action = step(lane_of(ledger), RunState(id="r", state_type="RUNNING"), 100.0, QUIET_S)
    assert action == "none"
    assert lane.pending is not None
    lane, _ = step(lane, RunState(id="r", state_type="COMPLETED"), 101.0, QUIET_S)
    assert (lane.claimed, lane.done[-1].state, lane.done[-1].run_id) == (None, "COMPLETED", "r")
    lane, action = step(lane, None, 102.0, QUIET_S)
    assert action == "tell"
    assert lane.claimed is not None
    assert lane.claimed.want.parameters == {"data": "later"}


def test_the_same_event_joins_once_until_it_can_no_longer_come() -> None:
    one = event()
    ledger = note(note(Ledger(), trigger(), one, 0.0), trigger(), one, 1.0)
    pending = lane_of(ledger).pending
    assert pending is not None
    assert pending.num_events == 1
    assert forget(ledger, {one.id}) == ledger
    assert forget(ledger, set()).noted == ()


def test_what_prefect_did_not_hear_is_told_again_and_at_last_started_without_it() -> None:
    lane = claimed()
    assert lane.claimed is not None
    begun = lane.claimed.claimed_s
    assert step(lane, None, begun + 1, QUIET_S)[1] == "none"
    again, action = step(lane, None, begun + TELL_AGAIN_S + 1, QUIET_S)
    assert action == "tell"
    assert again.claimed is not None
    assert again.claimed.request == lane.claimed.request, "the same request: Prefect takes it once"
    assert step(again, None, begun + START_OURSELVES_S + 1, QUIET_S)[1] == "start"


@pytest.mark.parametrize("state", ["CRASHED", "FAILED"])
def test_a_run_that_ends_badly_gives_its_events_back_a_few_times(state: str) -> None:
    lane, now = claimed(3), QUIET_S
    for attempt in range(1, MOST_ATTEMPTS[state]):
        lane, _ = step(lane, RunState(id=f"r{attempt}", state_type=state), now, QUIET_S)
        assert lane.pending is not None, "its events are not lost"
        assert (lane.pending.num_events, lane.pending.attempts) == (3, attempt)
        assert step(lane, None, lane.pending.not_before_s - 1, QUIET_S)[1] == "none", "it waits before it tries again"
        now = lane.pending.not_before_s + 1
        lane, action = step(lane, None, now, QUIET_S)
        assert action == "tell"
    lane, _ = step(lane, RunState(id="last", state_type=state), now, QUIET_S)
    assert lane.pending is None
    assert lane.done[-1].state == state


def test_a_crashed_runs_events_join_what_came_since_and_the_newest_wins() -> None:
    ledger = note(Ledger(lanes={"retrain/digits": claimed()}), trigger(), event("newer", at=40), 6.0)
    lane, _ = step(lane_of(ledger), RunState(id="r", state_type="CRASHED"), 7.0, QUIET_S)
    assert lane.pending is not None
    assert (lane.pending.parameters["data"], lane.pending.num_events) == ("newer", 2)


def test_a_run_that_a_person_cancelled_is_over() -> None:
    lane, _ = step(claimed(), RunState(id="r", state_type="CANCELLED"), 7.0, QUIET_S)
    assert (lane.pending, lane.claimed) == (None, None)


def test_events_of_several_triggers_of_a_deployment_become_one_run() -> None:
    drift = trigger("drift")
    ledger = note(Ledger(), trigger("files", "/new"), event("/new", what=FILES_ARRIVED, resource="folder:/new", at=1), 0.0)
    ledger = note(
        ledger,
        drift,
        Event(id="x", at="2026-11-26T00:00:02+00:00", event=MODEL_DRIFTED, resource="model:digits", payload={"model": "m"}),
        0.0,
    )
    pending = lane_of(ledger).pending
    assert pending is not None
    assert pending.parameters == {"data": "/new", "model": "m"}
    assert pending.trigger == drift.key


def test_a_trigger_on_every_model_has_a_queue_for_each() -> None:
    every = Trigger(kind="drift", resource="*", deployment="retrain/all", parameters={"model": ""})
    ledger = Ledger()
    for model in ("a", "b"):
        ledger = note(ledger, every, event(what=MODEL_DRIFTED, resource=f"model:{model}", model=model), 0.0)
    assert {name: lane.pending.parameters for name, lane in ledger.lanes.items() if lane.pending} == {
        "retrain/all model:a": {"model": "a"},
        "retrain/all model:b": {"model": "b"},
    }


def test_a_trigger_takes_its_own_events_only() -> None:
    assert takes(trigger(), event())
    assert not takes(trigger(), event(resource="dataset:letters"))
    assert not takes(trigger("drift"), event())
    assert takes(trigger("files", "s3://b/new"), event(what=FILES_ARRIVED, resource="folder:s3://b/new"))


@pytest.mark.parametrize("text", ["", "drift", "drift:", "weather:rain"])
def test_a_trigger_that_is_none_says_what_there_is(text: str) -> None:
    with pytest.raises(InvalidOptionError, match=r"drift.*quality"):
        parse_trigger(text)


@pytest.mark.parametrize("text", ["drift:../digits", "dataset:a b", "files:ftp://host/new"])
def test_a_trigger_that_can_never_fire_is_refused(text: str) -> None:
    with pytest.raises(InvalidOptionError, match=text.partition(":")[0]):
        parse_trigger(text)


def test_a_watched_folder_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "anna"))
    assert parse_trigger("files:new/pictures").resource == str(tmp_path / "new/pictures")
    assert parse_trigger("files:~/new").resource == str(tmp_path / "anna/new")
    assert parse_trigger("files:s3://bucket/new").resource == "s3://bucket/new"


def test_a_ledger_survives_json() -> None:
    ledger = note(Ledger(lanes={"other": claimed()}), trigger(), event(), 1.0)
    assert Ledger.model_validate_json(ledger.model_dump_json()) == ledger


# The watcher


def test_files_are_told_of_once_when_nothing_moves_any_more() -> None:
    watch = watching.Watch(seen={"old": "1"})
    watch, new = watching.look(watch, {"old": "1", "a": "1"}, 0.0, QUIET_S)
    assert new == []
    watch, new = watching.look(watch, {"old": "1", "a": "2"}, 4.0, QUIET_S)
    assert new == [], "it is still being written"
    watch, new = watching.look(watch, {"old": "1", "a": "2"}, 8.0, QUIET_S)
    assert new == []
    watch, new = watching.look(watch, {"old": "1", "a": "2"}, 9.0, QUIET_S)
    assert new == ["a"]
    assert watching.look(watch, {"old": "1", "a": "2"}, 99.0, QUIET_S)[1] == []


def test_a_changed_file_is_new_and_a_removed_one_is_not() -> None:
    watch = watching.Watch(seen={"a": "1", "b": "1"})
    watch, _ = watching.look(watch, {"a": "2"}, 0.0, QUIET_S)
    assert watching.look(watch, {"a": "2"}, 5.0, QUIET_S)[1] == ["a"]


@pytest.mark.parametrize("name", [".hidden", "x/.hidden/a.png", "a.png.part", "a.tmp", "a.crdownload"])
def test_hidden_and_half_written_files_do_not_count(name: str) -> None:
    assert not watching.counts(name)
