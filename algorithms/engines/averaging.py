"""The moving average of a network's weights, which often generalises better than the weights themselves."""

from __future__ import annotations

import copy

import torch
from torch import nn


class WeightAverage:
    """A copy of a network whose weights and statistics follow it slowly; ``module`` is always in evaluation mode.

    In the first steps the decay is smaller, (1 + step) / (10 + step), so that the random start is forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.module = copy.deepcopy(model).eval().requires_grad_(False)
        ours = [*self.module.parameters(), *self.module.buffers()]
        theirs = [*model.parameters(), *model.buffers()]
        pairs = list(zip(ours, theirs, strict=True))
        self._ours = [mine for mine, _ in pairs if mine.is_floating_point()]
        self._theirs = [other.detach() for _, other in pairs if other.is_floating_point()]
        self._whole = [(mine, other) for mine, other in pairs if not mine.is_floating_point()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Follow the network after ``step`` optimizer steps (from 1)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._ours, self._theirs, 1 - decay)
        for mine, other in self._whole:
            mine.copy_(other)
