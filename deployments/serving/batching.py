"""Micro-batching: requests that are there at the same time share one run of the model. Without load, none waits for another."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.errors import RequestRefusedError

Feeds = Mapping[str, NDArray[Any]]
Run = Callable[[Feeds], NDArray[Any]]

INLINE_BELOW_S = 1e-3
_SMOOTHING = 0.2


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one request.

    Attributes:
        output: its rows of the model's output.
        queue_s: from coming in to the start of the run, seconds.
        model_s: the run that it shared.
        batch_rows: rows of that run.
    """

    output: NDArray[Any]
    queue_s: float
    model_s: float
    batch_rows: int


@dataclass(slots=True)
class _Waiting:
    feeds: Feeds
    rows: int
    group: Hashable
    since: float
    future: asyncio.Future[Answer]


def seconds_to_wait(*, rows_waiting: int, rows_last: int, max_rows: int, run_s: float, oldest_s: float, max_delay_s: float) -> float:
    """How much longer a batch should wait for company.

    Nothing if it is full, or if the last batch was a single row (nobody else is there). Otherwise at most ``max_delay_s`` since its first
    request came, and never longer than a run takes: waiting that costs more than a run cannot pay. Nor does it wait once it is as large as
    the last one, because clients that wait for their answers come back together.

    Args:
        rows_waiting, rows_last, max_rows: of this batch, of the batch before it, and at most.
        run_s: what a run takes, seconds.
        oldest_s: how long its first request has waited.
    """
    if rows_waiting >= max_rows or rows_last <= 1 or rows_waiting >= rows_last:
        return 0.0
    return max(0.0, min(max_delay_s, run_s) - oldest_s)


class Batcher:
    """The queue of one model version. It lives on one event loop; only ``run`` may be called on another thread.

    A run that takes less than a millisecond is done on the event loop itself, because handing it to a thread and back costs as much.

    Args:
        run: from feeds [N, ...] to output [N, ...].
        max_rows: of one run; a request with more is a batch of its own.
        max_delay_s: longest time that a request waits for others although the model is free.
        max_waiting_rows: above it requests are refused (503).
        executor: runs what takes long.
    """

    def __init__(self, run: Run, *, max_rows: int, max_delay_s: float, max_waiting_rows: int, executor: Executor) -> None:
        self._run, self._executor = run, executor
        self._max_rows, self._max_delay_s, self._max_waiting_rows = max_rows, max_delay_s, max_waiting_rows
        self._queue: deque[_Waiting] = deque()
        self._rows = 0
        self._busy = False
        self._wake: asyncio.Handle | None = None
        self._sleeps = False  # whether what wakes it is a timer
        self._rows_last = 0
        self.run_s = 0.0

    @property
    def rows_waiting(self) -> int:
        return self._rows

    @property
    def is_idle(self) -> bool:
        return not self._busy and not self._queue

    def submit(self, feeds: Feeds, rows: int, group: Hashable = None) -> asyncio.Future[Answer]:
        """The answer to come; requests of the same ``group`` may share a run.

        Raises:
            RequestRefusedError: 503, too much is waiting.
        """
        if self._rows + rows > self._max_waiting_rows and self._queue:
            raise RequestRefusedError(503, f"the server is overloaded: {self._rows} rows are waiting for this model; try again later")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        self._queue.append(_Waiting(feeds, rows, group, time.perf_counter(), future))
        self._rows += rows
        if not self._busy:
            if self._wake is None:
                # Not at once: whatever else this turn of the loop reads from its sockets joins the batch.
                self._wake = loop.call_soon(self._flush)
            elif self._sleeps and self._rows >= min(self._max_rows, self._rows_last):
                self._wake.cancel()
                self._sleeps, self._wake = False, loop.call_soon(self._flush)
        return future

    def _flush(self) -> None:
        self._wake, self._sleeps = None, False
        if self._busy or not self._queue:
            return
        loop = asyncio.get_running_loop()
        wait_s = seconds_to_wait(
            rows_waiting=self._rows,
            rows_last=self._rows_last,
            max_rows=self._max_rows,
            run_s=self.run_s,
            oldest_s=time.perf_counter() - self._queue[0].since,
            max_delay_s=self._max_delay_s if self.run_s >= INLINE_BELOW_S else 0.0,
        )
        if wait_s > 0:
            self._sleeps, self._wake = True, loop.call_later(wait_s, self._flush)
            return
        batch = self._take()
        self._rows_last = sum(item.rows for item in batch)
        if self.run_s < INLINE_BELOW_S:
            self._settle(batch, *self._compute(batch))
        else:
            self._busy = True
            running = loop.run_in_executor(self._executor, self._compute, batch)
            running.add_done_callback(lambda done: self._back(batch, done))
        if self._queue and not self._busy:
            self._wake = loop.call_soon(self._flush)

    def _back(self, batch: Sequence[_Waiting], done: asyncio.Future[Any]) -> None:
        self._busy = False
        self._settle(batch, *done.result())
        if self._queue and self._wake is None:
            self._wake = asyncio.get_running_loop().call_soon(self._flush)

    def _take(self) -> list[_Waiting]:
        """The oldest request and those after it that can share its run, up to ``max_rows``."""
        group, rows = self._queue[0].group, 0
        batch: list[_Waiting] = []
        others: deque[_Waiting] = deque()
        while self._queue:
            item = self._queue.popleft()
            if item.group == group and (not batch or rows + item.rows <= self._max_rows):
                batch.append(item)
                rows += item.rows
            else:
                others.append(item)
        self._queue = others
        self._rows -= rows
        return batch

    def _compute(self, batch: Sequence[_Waiting]) -> tuple[float, float, list[NDArray[Any] | Exception]]:
        """When the run began, what it took, and each request's output; if the run fails, each is run alone, so that only the guilty fails."""
        begun = time.perf_counter()
        if len(batch) == 1:
            outputs: list[NDArray[Any] | Exception] = [self._guarded(batch[0].feeds)]
        else:
            whole = self._guarded({name: np.concatenate([item.feeds[name] for item in batch]) for name in batch[0].feeds})
            if isinstance(whole, Exception):
                outputs = [self._guarded(item.feeds) for item in batch]
            else:
                ends = np.cumsum([item.rows for item in batch])
                outputs = [whole[end - item.rows : end] for item, end in zip(batch, ends, strict=True)]
        return begun, time.perf_counter() - begun, outputs

    def _guarded(self, feeds: Feeds) -> NDArray[Any] | Exception:
        try:
            return self._run(feeds)
        except Exception as error:  # noqa: BLE001 - onnxruntime's errors have no base of their own; it goes to whoever asked
            return error

    def _settle(self, batch: Sequence[_Waiting], begun: float, took_s: float, outputs: Sequence[NDArray[Any] | Exception]) -> None:
        self.run_s = took_s if self.run_s == 0 else (1 - _SMOOTHING) * self.run_s + _SMOOTHING * took_s
        rows = self._rows_last
        for item, output in zip(batch, outputs, strict=True):
            if item.future.done():  # the client went away
                continue
            if isinstance(output, Exception):
                item.future.set_exception(output)
            else:
                item.future.set_result(Answer(output, begun - item.since, took_s, rows))
