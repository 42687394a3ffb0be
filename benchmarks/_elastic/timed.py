"""``python -m algorithms`` as it is, for both kinds of job; each rank tells how long it took from the end of its first step to that of its last.

Event ``timed``: ``seconds`` of the clock with all validations, checkpoints and commits between the two, ``cpu_s`` of all threads of the rank, ``samples``
of all ranks, ``steps``, and ``elastic_s``: what of ``seconds`` went into questions of all ranks and commits, 0 in a job of a fixed size.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any


def run(argument: str, report: Callable[[dict[str, Any]], None]) -> int:
    """Do what the document says; returns the exit status."""
    from algorithms.__main__ import run as rank
    from algorithms.engines.elastic import Elastic
    from algorithms.engines.loop import Training

    step_of_loop, after_step = Training._step, Elastic.after_step
    spent: list[float] = []
    ends: list[tuple[float, float]] = []
    samples: list[int] = []

    def timed(self: Training, step: int, parts: Any) -> Any:
        loss = step_of_loop(self, step, parts)
        ends.append((time.perf_counter(), time.process_time()))
        first, last = self.pace.bounds(self.at.epoch, step)
        samples.append(last - first)
        if self.at.epoch == self.config.epochs - 1 and step == self.steps - 1:
            took, cpu = (end - begin for begin, end in zip(ends[0], ends[-1], strict=True))
            told = {"seconds": took, "cpu_s": cpu, "samples": sum(samples[1:]), "steps": len(ends) - 1, "elastic_s": sum(spent)}
            report({"kind": "timed", **told})
        return loss

    def timed_after(self: Elastic) -> None:
        begun = time.perf_counter()
        after_step(self)
        if self.active:
            spent.append(time.perf_counter() - begun)

    Training._step = timed  # type: ignore[method-assign]
    Elastic.after_step = timed_after  # type: ignore[method-assign]
    return rank(argument, report)


if __name__ == "__main__":
    from algorithms.run import events_to_fd

    status = run(sys.argv[1], events_to_fd())
    if status != 0:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
