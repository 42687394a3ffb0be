"""Optimizers by name."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from functools import cache
from typing import Any

import torch
from torch import nn

from algorithms.engines.torch_config import TorchConfig
from algorithms.user_code import call_with_accepted, is_dotted, load_dotted
from infra.errors import UserCodeError

OPTIMIZERS: dict[str, tuple[type[torch.optim.Optimizer], dict[str, Any]]] = {
    "sgd": (torch.optim.SGD, {}),
    "momentum": (torch.optim.SGD, {"momentum": None}),
    "nesterov": (torch.optim.SGD, {"momentum": None, "nesterov": True}),
    "adam": (torch.optim.Adam, {}),
    "adamw": (torch.optim.AdamW, {}),
    "amsgrad": (torch.optim.Adam, {"amsgrad": True}),
    "adamax": (torch.optim.Adamax, {}),
    "adagrad": (torch.optim.Adagrad, {}),
    "adadelta": (torch.optim.Adadelta, {}),
    "rmsprop": (torch.optim.RMSprop, {"momentum": None}),
}
"""Class and fixed arguments; a momentum of None is the option's."""

_WRAPPED = ("add_param_group", "state_dict", "load_state_dict", "zero_grad")


def make_optimizer(config: TorchConfig, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer that the options name, over the weights that learn; weight decay only on weights of two and more dimensions.

    Raises:
        UserCodeError: a dotted name that does not load, or is no optimizer.
    """
    learns = [p for p in model.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in learns if p.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in learns if p.dim() <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    name = config.optimizer
    if is_dotted(name):
        offered = {"lr": config.learning_rate, "weight_decay": config.weight_decay, "momentum": config.momentum}
        made = call_with_accepted(name, load_dotted(name), offered, groups)
        if not isinstance(made, torch.optim.Optimizer):
            raise UserCodeError(name, f"it gave a {type(made).__name__}, not a torch.optim.Optimizer")
        return made
    kind, fixed = OPTIMIZERS[name]
    arguments: dict[str, Any] = {key: config.momentum if value is None else value for key, value in fixed.items()}
    if "fused" in inspect.signature(kind).parameters:
        arguments["fused"] = True  # one kernel for all weights: small networks are bound by the calls otherwise
    return _without_compiler(name)(groups, lr=config.learning_rate, **arguments)  # type: ignore[call-arg]


@cache
def _without_compiler(name: str) -> type[torch.optim.Optimizer]:
    """The class of that name, but its methods do not load torch's compiler.

    torch wraps them so that they exclude themselves from a compilation, and for that imports all of ``torch._dynamo`` at their first call:
    half of what a rank takes to its first step, though the network at most is compiled here, never the optimizer. A step never records gradients.
    """
    kind = OPTIMIZERS[name][0]
    methods: dict[str, Any] = {method: inspect.unwrap(getattr(kind, method)) for method in _WRAPPED}
    methods["step"] = torch.no_grad()(inspect.unwrap(kind.step))
    return type(kind.__name__, (kind,), {**methods, "__doc__": kind.__doc__, "__module__": __name__})


def penalised(model: nn.Module) -> list[nn.Parameter]:
    """The weights that L1 and L2 penalties speak of: those with two and more dimensions."""
    return [p for p in model.parameters() if p.requires_grad and p.dim() > 1]


@torch.no_grad()
def add_penalties(weights: Iterable[nn.Parameter], l1: float, l2: float) -> None:
    """Add the gradient of ``l1 * |w| + l2 / 2 * w^2`` to gradients that are already the mean over the whole batch."""
    for weight in weights:
        assert weight.grad is not None
        if l1:
            weight.grad.add_(weight.sign(), alpha=l1)
        if l2:
            weight.grad.add_(weight, alpha=l2)
