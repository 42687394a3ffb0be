"""``python -m algorithms`` as it is, but every step is told; and a pause in each step of one epoch, as long as there is the file ATELIER_BENCH_PAUSE."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def run(argument: str, report: Callable[[dict[str, Any]], None]) -> int:
    """Do what the document says; returns the exit status."""
    from algorithms.__main__ import run as rank
    from algorithms.engines.loop import Training

    step_of_loop = Training._step
    pause = Path(os.environ.get("ATELIER_BENCH_PAUSE", "/nonexistent"))

    def told(self: Training, step: int, parts: Any) -> Any:
        if self.at.epoch == 1 and pause.exists():
            time.sleep(0.25)
        loss = step_of_loop(self, step, parts)
        if self.run.is_main:
            where = {"epoch": self.at.epoch, "step": step, "size": self.collectives.size, "pid": os.getpid()}
            report({"kind": "step", "bounds": list(self.pace.bounds(self.at.epoch, step)), **where})
        return loss

    Training._step = told  # type: ignore[method-assign]
    report({"kind": "hello", "pid": os.getpid()})
    return rank(argument, report)
