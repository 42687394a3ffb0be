"""Many calls of one function on the Dask cluster's slots: a few ahead, results in order, memory bounded by what is in flight."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from infra.context import StageContext
from infra.errors import ServiceError

Result = TypeVar("Result")
AHEAD = 4  # calls in flight for each slot: enough that none waits, few enough that a stop is quick


def in_order(
    context: StageContext,
    function: Callable[..., Result],
    calls: Sequence[tuple[Any, ...]],
    sizes: Sequence[int],
    *,
    phase: str,
    retries: int = 0,
) -> Iterator[Result]:
    """The function's result for the arguments of every call, in order, reporting progress. Stops what runs when it is left.

    Args:
        sizes: samples of each call, for the rate.
        phase: what it is called in the progress.
        retries: how often a call that failed is tried again; one whose worker died is tried again in any case.

    Raises:
        ServiceError: workers died of one call again and again.
    """
    from distributed import KilledWorker

    from infra.cluster import num_slots

    client = context.client()
    waiting = deque(zip(calls, sizes, strict=True))
    steps, window = len(waiting), AHEAD * max(1, num_slots(client))
    begin, samples = time.monotonic(), 0
    running: deque[tuple[int, Any]] = deque()
    try:
        while waiting or running:
            while waiting and len(running) < window:
                call, size = waiting.popleft()
                running.append((size, client.submit(function, *call, resources={"slot": 1}, pure=False, retries=retries)))
            size, future = running.popleft()
            try:
                result = future.result()
            except KilledWorker as error:
                why = f"worker after worker died of the same part (often: out of memory): {error}"
                raise ServiceError("A worker of the Dask cluster", why) from error
            future.release()
            samples += size
            rate = samples / max(time.monotonic() - begin, 1e-9)
            step = steps - len(waiting) - len(running)
            context.report({"kind": "progress", "phase": phase, "step": step, "steps": steps, "samples_per_s": rate})
            yield result
    finally:
        if running:
            client.cancel([future for _, future in running])
