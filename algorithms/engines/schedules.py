"""What changes while a training runs, as pure functions of how far it is: there is no state to save.

Learning rate and momentum change with every step, batch size and picture size from one epoch to the next.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from algorithms.engines.torch_config import TorchConfig

Number = TypeVar("Number", int, float)

_ONECYCLE_START = 1 / 25
_ONECYCLE_RISE = 0.3


def learning_rate(config: TorchConfig, epoch: float) -> float:
    """The learning rate at a point of the training.

    Args:
        epoch: epochs done, with fraction, from 0 to ``config.epochs``.
    """
    return config.learning_rate * _factor(config, epoch)


def _factor(config: TorchConfig, epoch: float) -> float:
    if config.schedule == "onecycle":
        return _onecycle(epoch / config.epochs)
    warmup = min(config.warmup_epochs, config.epochs / 2)
    if epoch < warmup:
        return max(epoch / warmup, 1e-3)
    if config.schedule == "cosine":
        done = (epoch - warmup) / max(config.epochs - warmup, 1e-9)
        return 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
    if config.schedule == "step":
        return config.step_factor ** math.floor(epoch / (config.step_epochs or config.epochs / 3))
    return 1.0


def _onecycle(done: float) -> float:
    """Smith and Topin, Super-Convergence (arXiv 1708.07120), with cosine legs."""
    if done < _ONECYCLE_RISE:
        return _ONECYCLE_START + (1 - _ONECYCLE_START) * 0.5 * (1 - math.cos(math.pi * done / _ONECYCLE_RISE))
    return 0.5 * (1 + math.cos(math.pi * min((done - _ONECYCLE_RISE) / (1 - _ONECYCLE_RISE), 1.0)))


def split_points(value: Any) -> Any:
    """``0:64,10:96`` or ``{"0": 64, "10": 96}`` as pairs; anything else as it is."""
    if isinstance(value, str):
        pairs = [part.partition(":") for part in value.split(",") if part.strip()]
        if any(not colon for _, colon, _ in pairs):
            raise ValueError("must be EPOCH:VALUE,EPOCH:VALUE, such as 0:64,10:96")
        return tuple((first.strip(), second.strip()) for first, _, second in pairs)
    return tuple(value.items()) if isinstance(value, Mapping) else value


def check_points(points: tuple[tuple[Number, Number], ...], *, least: Number, most: Number) -> tuple[tuple[Number, Number], ...]:
    """The points, if their epochs rise from 0 or later and their values are in range.

    Raises:
        ValueError: what is wrong.
    """
    epochs = [epoch for epoch, _ in points]
    if epochs != sorted(set(epochs)) or (epochs and epochs[0] < 0):
        raise ValueError(f"epochs must rise, from 0 or later; they are {', '.join(f'{epoch:g}' for epoch in epochs)}")
    wrong = [value for _, value in points if not least <= value <= most]
    if wrong:
        raise ValueError(f"values must be from {least:g} to {most:g}; {wrong[0]:g} is not")
    return points


def step_value(points: Sequence[tuple[int, int]], epoch: int, before: int) -> int:
    """The value of the last point at or before ``epoch``; ``before`` if there is none."""
    return next((value for start, value in reversed(points) if start <= epoch), before)


def line_value(points: Sequence[tuple[float, float]], epoch: float) -> float:
    """The value at ``epoch`` on the line through the points, level before the first and after the last."""
    after = next((number for number, (start, _) in enumerate(points) if start > epoch), len(points))
    if after in (0, len(points)):
        return points[min(after, len(points) - 1)][1]
    (first, low), (last, high) = points[after - 1], points[after]
    return low + (high - low) * (epoch - first) / (last - first)


def batch_size(config: TorchConfig, epoch: int) -> int:
    """Samples in one step of an epoch (from 0), over all workers."""
    return step_value(config.batch_size_by_epoch, epoch, config.batch_size)


def set_rates(groups: Sequence[dict[str, Any]], config: TorchConfig, epoch: float, scale: int = 1) -> None:
    """Give an optimizer's groups the learning rate, ``scale`` times the schedule's, and, if it is scheduled, the momentum of a point of the training."""
    rate = learning_rate(config, epoch) * scale
    momentum = line_value(config.momentum_by_epoch, epoch) if config.momentum_by_epoch else None
    for group in groups:
        group["lr"] = rate
        if momentum is not None:
            if "betas" in group:
                group["betas"] = (momentum, group["betas"][1])
            else:
                group["momentum"] = momentum
