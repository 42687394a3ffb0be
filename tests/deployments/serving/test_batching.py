"""The queue of a model, on an event loop of its own, without a server."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deployments.serving.batching import Answer, Batcher, Feeds, seconds_to_wait
from deployments.serving.inputs import Limits
from deployments.serving.metrics import Metrics
from deployments.serving.model import ServedModel, open_package
from infra.artifacts import Artifact
from infra.errors import RequestRefusedError
from infra.registry import ModelVersion
from tests.packages import write_sums


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


class Doubling:
    """A model that doubles, remembers its batches, and fails on what is negative."""

    def __init__(self) -> None:
        self.batches: list[list[float]] = []
        self.threads: set[str] = set()
        self.may_go = threading.Event()
        self.may_go.set()

    def __call__(self, feeds: Feeds) -> Any:
        self.may_go.wait(30)
        values = feeds["x"]
        self.batches.append(values.ravel().tolist())
        self.threads.add(threading.current_thread().name)
        if (values < 0).any():
            raise ValueError("negative")
        return values * 2


def one(value: float, rows: int = 1) -> dict[str, Any]:
    return {"x": np.full((rows, 1), value, np.float32)}


def queue_of(model: Doubling, executor: ThreadPoolExecutor, **more: Any) -> Batcher:
    return Batcher(model, executor=executor, **{"max_rows": 4, "max_delay_s": 0.0, "max_waiting_rows": 100, **more})


def test_what_is_there_at_once_shares_a_run_and_each_gets_its_own(executor: ThreadPoolExecutor) -> None:
    model = Doubling()

    async def ask() -> list[Answer]:
        batcher = queue_of(model, executor)
        return list(await asyncio.gather(*(batcher.submit(one(value), 1) for value in range(6))))

    answers = asyncio.run(ask())
    assert [answer.output.tolist() for answer in answers] == [[[2.0 * value]] for value in range(6)]
    assert model.batches == [[0, 1, 2, 3], [4, 5]]
    assert [answer.batch_rows for answer in answers] == [4, 4, 4, 4, 2, 2]


def test_requests_of_different_groups_or_too_many_rows_do_not_share(executor: ThreadPoolExecutor) -> None:
    model = Doubling()

    async def ask() -> None:
        batcher = queue_of(model, executor)
        await asyncio.gather(
            batcher.submit(one(1), 1, "a"),
            batcher.submit(one(2), 1, "b"),
            batcher.submit(one(3), 1, "a"),
            batcher.submit(one(9, 7), 7, "c"),
        )

    asyncio.run(ask())
    assert model.batches == [[1, 3], [2], [9] * 7]


def test_one_that_fails_does_not_fail_the_others(executor: ThreadPoolExecutor) -> None:
    model = Doubling()

    async def ask() -> list[Any]:
        batcher = queue_of(model, executor)
        return list(await asyncio.gather(*(batcher.submit(one(value), 1) for value in (1, -1, 2)), return_exceptions=True))

    first, failed, last = asyncio.run(ask())
    assert (first.output.item(), str(failed), last.output.item()) == (2, "negative", 4)


def test_a_long_run_leaves_the_loop_free_and_the_next_batch_gathers_meanwhile(executor: ThreadPoolExecutor) -> None:
    model = Doubling()

    async def ask() -> None:
        batcher = queue_of(model, executor)
        batcher.run_s = 1.0  # as if measured
        model.may_go.clear()
        first = batcher.submit(one(0), 1)
        await asyncio.sleep(0)
        others = [batcher.submit(one(value), 1) for value in (1, 2, 3)]
        await asyncio.sleep(0.01)  # the loop turns while the model works
        assert not first.done()
        model.may_go.set()
        await asyncio.gather(first, *others)
        assert batcher.is_idle

    asyncio.run(ask())
    assert model.batches == [[0], [1, 2, 3]]
    assert threading.current_thread().name not in model.threads


def test_too_much_waiting_is_refused_and_a_client_that_went_away_does_no_harm(executor: ThreadPoolExecutor) -> None:
    model = Doubling()

    async def ask() -> None:
        batcher = queue_of(model, executor, max_waiting_rows=3)
        gone = batcher.submit(one(1), 1)
        kept = batcher.submit(one(2), 2)
        with pytest.raises(RequestRefusedError) as refused:
            batcher.submit(one(3), 1)
        assert refused.value.status == 503
        gone.cancel()
        assert (await kept).output.item() == 4

    asyncio.run(ask())


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, 0.002),
        ({"rows_last": 1}, 0.0),
        ({"rows_waiting": 16}, 0.0),
        ({"rows_waiting": 8}, 0.0),
        ({"oldest_s": 0.0015}, 0.0005),
        ({"oldest_s": 1.0}, 0.0),
        ({"run_s": 0.001}, 0.001),
        ({"max_delay_s": 0.0}, 0.0),
    ],
)
def test_waiting_pays_only_in_company(changed: dict[str, Any], expected: float) -> None:
    usual = {"rows_waiting": 3, "rows_last": 8, "max_rows": 16, "run_s": 0.05, "oldest_s": 0.0, "max_delay_s": 0.002}
    assert seconds_to_wait(**{**usual, **changed}) == pytest.approx(expected)


def test_a_version_that_goes_is_freed_at_once(executor: ThreadPoolExecutor, tmp_path: Path) -> None:
    version = ModelVersion(
        name="sums",
        version=1,
        algorithm="a/b",
        dataset="d",
        metrics={},
        created="2026-11-01T00:00:00+00:00",
        package=Artifact(key="x", kind="export", digest="0"),
    )

    async def ask() -> tuple[Any, Any]:
        package = open_package(write_sums(tmp_path / "package"))
        model = ServedModel(
            version, package, Metrics().of("sums", 1), limits=Limits(), max_batch=4, max_delay_s=0.0, max_waiting_rows=9, executor=executor
        )
        model.warm_up()
        feeds = model.from_rows([{"size": 1, "count": 2, "kind": "big"}])
        assert (await model.batcher.submit(feeds, 1)).output.tolist() == [1003]
        return weakref.ref(model), weakref.ref(package)

    gc.disable()  # the collector must not be what frees it
    try:
        model, package = asyncio.run(ask())
        assert (model(), package()) == (None, None)
    finally:
        gc.enable()
