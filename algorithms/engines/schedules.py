"""Learning rates as pure functions of how far the training is: there is no state to save."""

from __future__ import annotations

import math

from algorithms.engines.torch_config import TorchConfig

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
