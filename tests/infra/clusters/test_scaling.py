"""A cluster that grows when slots are wanted and shrinks when they are idle."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from infra.cluster import asking_for_slots, most_slots, num_slots, open_cluster
from infra.clusters._processes import restart_pause_s
from infra.clusters.scaling import Demand, decide
from infra.errors import NotEnoughSlotsError
from infra.settings import Settings

LIMITS: dict[str, Any] = {"minimum": 1, "maximum": 4, "idle_s": 60.0}


@pytest.mark.parametrize(
    ("num_tasks", "floor", "size"),
    [(0, 0, 1), (3, 0, 3), (9, 0, 4), (0, 3, 3), (2, 4, 4), (2, 9, 4)],
)
def test_the_size_is_what_is_wanted_within_the_limits(num_tasks: int, floor: int, size: int) -> None:
    assert decide(Demand(num_tasks, ("a",), ()), floor=floor, calm_s=0.0, **LIMITS) == (size, [])


def test_only_idle_workers_go_and_only_after_a_while() -> None:
    demand = Demand(1, ("a", "b", "c", "d"), ("b", "d"))
    assert decide(demand, floor=0, calm_s=59.0, **LIMITS) == (1, [])
    assert decide(demand, floor=0, calm_s=60.0, **LIMITS) == (1, ["b", "d"])
    assert decide(Demand(3, demand.present, demand.idle), floor=0, calm_s=60.0, **LIMITS) == (3, ["b"])


def test_what_a_job_asked_for_is_kept_until_it_takes_it() -> None:
    assert decide(Demand(0, ("a", "b", "c"), ("a", "b", "c")), floor=3, calm_s=99.0, **LIMITS) == (3, [])


def test_a_place_that_fails_again_and_again_is_tried_less_often() -> None:
    assert [restart_pause_s(number) for number in (1, 3, 4, 5, 9, 99)] == [0.0, 0.0, 2.0, 4.0, 30.0, 30.0]


def wait_for(condition: Callable[[], bool], limit_s: float = 90.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_local_cluster_grows_for_a_job_and_shrinks_afterwards(tmp_path: Path) -> None:
    release = tmp_path / "release"

    def hold(path: str) -> None:
        while not Path(path).exists():
            time.sleep(0.02)

    with open_cluster(Settings(workspace=str(tmp_path / "w"), min_slots=1, slots=3, idle_s=0.2)) as client:
        assert (num_slots(client), most_slots(client)) == (1, 3)
        with asking_for_slots(client, 2, deadline_s=90):
            assert num_slots(client) == 2
            busy = [client.submit(hold, str(release), pure=False, resources={"slot": 1}) for _ in range(2)]
            more = client.submit(hold, str(release), pure=False, resources={"slot": 1})
            wait_for(lambda: num_slots(client) == 3)
        release.touch()
        client.gather([*busy, more])
        del busy, more
        wait_for(lambda: num_slots(client) == 1)
        assert client.submit(threading.active_count, resources={"slot": 1}).result(timeout=60) > 0
        with pytest.raises(NotEnoughSlotsError, match="has 3 slots"), asking_for_slots(client, 4, deadline_s=90):
            raise AssertionError("it cannot grow to that size")
