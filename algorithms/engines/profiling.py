"""Where the time of a training step goes: on always, because it costs a few microseconds a step."""

from __future__ import annotations

import itertools
import time
from typing import Any

import torch

from infra.collectives import Collectives

PARTS = ("data", "forward", "backward", "reduce", "optimizer", "other")
"""data: waiting for the next batch; reduce: waiting for other ranks after the backward pass (what it hides is not in it);
optimizer: with zeroing gradients and averaging weights; other: progress and checkpoints."""
_MOST_MARKS = 4096


class StepClock:
    """Adds up the time of each part of a step; the parts follow each other without a gap, so they add up to the whole.

    On a GPU, where work is only queued, events in its stream are what is timed.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.num_steps = 0
        self._last = 0.0
        self._marks: list[tuple[str, torch.cuda.Event]] = []

    def start(self) -> None:
        """The first step of an epoch begins; what lies between two epochs is no part of a step."""
        self._settle()
        self._last = time.perf_counter()
        if self.device.type == "cuda":
            self._mark("")

    def lap(self, part: str) -> None:
        """What was done since the last call was ``part``."""
        if self.device.type == "cuda":
            self._mark(part)
            return
        now = time.perf_counter()
        self.seconds[part] += now - self._last
        self._last = now

    def step(self) -> None:
        """A step has ended."""
        self.lap("other")
        self.num_steps += 1
        if len(self._marks) > _MOST_MARKS:
            last = self._marks[-1]
            self._settle()
            self._marks = [("", last[1])]

    def _mark(self, part: str) -> None:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self._marks.append((part, event))

    def _settle(self) -> None:
        marks, self._marks = self._marks, []
        if marks:
            marks[-1][1].synchronize()
        for (_, before), (part, event) in itertools.pairwise(marks):
            self.seconds[part] += before.elapsed_time(event) / 1000

    def summary(self, collectives: Collectives) -> dict[str, Any]:
        """The mean over all ranks, a JSON value: number of steps timed, milliseconds a step, and of each part. All ranks call it."""
        self._settle()
        steps = max(self.num_steps, 1)
        sums = torch.tensor([self.seconds[part] / steps * 1000 for part in PARTS], dtype=torch.float64)
        collectives.all_reduce(sums, "mean")
        parts = {part: round(value, 4) for part, value in zip(PARTS, sums.tolist(), strict=True)}
        return {"num_steps": self.num_steps, "step_ms": round(float(sums.sum()), 4), "parts_ms": parts}
