"""Losses by name: functions (outputs, targets) -> loss of every sample [n], so that the loop can weigh uneven shares exactly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from algorithms.engines.torch_config import CLASS_LOSSES, NUMBER_LOSSES, TorchConfig
from algorithms.engines.torch_engine import TorchData
from algorithms.user_code import call_with_accepted, guarded_with_traceback, is_dotted, load_dotted
from infra.errors import InvalidOptionError, UserCodeError

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
_FOCAL_GAMMA = 2.0


def make_loss(config: TorchConfig, data: TorchData) -> Loss:
    """The loss that the options name: logits [n, C] and int64 [n], or numbers [n] and float32 [n] -> float32 [n].

    Raises:
        InvalidOptionError: not for this kind of target.
        UserCodeError: a dotted name that does not load.
    """
    name = config.loss
    if name == "auto":
        name = "cross_entropy" if data.target == "class" else "mse"
    if is_dotted(name):
        return _own_loss(name, data)
    allowed = CLASS_LOSSES if data.target == "class" else NUMBER_LOSSES
    if name not in allowed:
        what = "classes" if data.target == "class" else "numbers"
        raise InvalidOptionError(
            "training", [f"loss: {name!r} is not a loss for {what}"], f"For {what}: {', '.join(allowed)}, or package.module:name."
        )
    if name == "cross_entropy":
        return lambda outputs, targets: functional.cross_entropy(outputs, targets, reduction="none", label_smoothing=config.label_smoothing)
    if name == "focal":
        return lambda outputs, targets: _focal(outputs, targets, config.label_smoothing)
    if name == "bce":
        return lambda outputs, targets: _bce(outputs, targets, config.label_smoothing)
    return {"mse": _mse, "mae": _mae, "huber": _huber}[name]


def _focal(outputs: torch.Tensor, targets: torch.Tensor, smoothing: float) -> torch.Tensor:
    """Lin et al., Focal Loss for Dense Object Detection (arXiv 1708.02002), gamma 2."""
    entropy = functional.cross_entropy(outputs, targets, reduction="none", label_smoothing=smoothing)
    certainty = outputs.softmax(dim=1).gather(1, targets[:, None]).squeeze(1)
    return (1 - certainty) ** _FOCAL_GAMMA * entropy


def _bce(outputs: torch.Tensor, targets: torch.Tensor, smoothing: float) -> torch.Tensor:
    """One yes-or-no question for each class, summed over the classes."""
    wanted = functional.one_hot(targets, outputs.shape[1]).to(outputs.dtype)
    wanted = wanted * (1 - smoothing) + smoothing / outputs.shape[1]
    return functional.binary_cross_entropy_with_logits(outputs, wanted, reduction="none").sum(dim=1)


def _mse(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return functional.mse_loss(outputs, targets, reduction="none")


def _mae(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return functional.l1_loss(outputs, targets, reduction="none")


def _huber(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return functional.huber_loss(outputs, targets, reduction="none")


def _own_loss(name: str, data: TorchData) -> Loss:
    found: Any = load_dotted(name)
    if isinstance(found, type):
        found = call_with_accepted(name, found, {"num_classes": len(data.classes), "classes": data.classes})
    if not callable(found):
        raise UserCodeError(name, f"it is a {type(found).__name__}, not a function or class")

    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        value = guarded_with_traceback(name, found, outputs, targets)
        if not isinstance(value, torch.Tensor) or value.shape not in ((), (len(targets),)):
            shape = tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
            raise UserCodeError(
                name, f"a loss gives one number (the mean) or one a sample, a tensor [] or [{len(targets)}]; this gave {shape}"
            )
        return value.expand(len(targets)) if value.dim() == 0 else value

    return loss
