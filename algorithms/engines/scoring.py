"""Judging a network on a split: exact over any number of ranks, because what is added up are sums, not means."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from algorithms.engines.batches import Reader, share
from algorithms.engines.hardware import autocast
from algorithms.engines.losses import Loss
from algorithms.engines.torch_engine import TorchData
from infra.collectives import Collectives

Prepare = Callable[[torch.Tensor, bool], torch.Tensor]


def forward(module: nn.Module, prepare: Prepare, inputs: torch.Tensor, data: TorchData, *, training: bool, precision: str) -> torch.Tensor:
    """What the network gives for a batch as it was read; see ``run_network``."""
    return run_network(module, prepare(inputs, training), data, precision)


def run_network(module: nn.Module, prepared: torch.Tensor, data: TorchData, precision: str) -> torch.Tensor:
    """What the network gives for a prepared batch: logits float32 [n, C] or, of numbers, float32 [n] in the scaled unit."""
    with autocast(prepared.device, "bf16" if precision == "bf16" else "fp32"):
        outputs = module(prepared)
    outputs = outputs.float()
    return outputs.reshape(len(prepared)) if data.target == "number" else outputs


def scale_targets(targets: torch.Tensor, data: TorchData) -> torch.Tensor:
    """Targets in the unit that the network learns in."""
    return targets if data.target == "class" else (targets.float() - data.target_mean) / data.target_std


@torch.no_grad()
def judge(
    module: nn.Module,
    prepare: Prepare,
    reader: Reader,
    data: TorchData,
    loss: Loss,
    collectives: Collectives,
    *,
    precision: str,
    batch_size: int,
) -> dict[str, float]:
    """Mean loss and the metrics that can be summed, over a whole split shared out among the ranks.

    Returns:
        ``loss``, and ``accuracy`` or ``rmse`` and ``mae``; the same on every rank.
    """
    first, last = share(0, len(reader.samples), collectives.rank, collectives.size)
    sums = torch.zeros(4, dtype=torch.float64)
    plan = (np.arange(start, min(start + batch_size, last)) for start in range(first, last, batch_size))
    for inputs, targets in reader.batches(plan):
        outputs = forward(module, prepare, inputs, data, training=False, precision=precision)
        losses = loss(outputs, scale_targets(targets, data))
        if data.target == "class":
            first_sum, second_sum = (outputs.argmax(dim=1) == targets).sum(), 0.0
        else:
            errors = (outputs * data.target_std + data.target_mean - targets).double()
            first_sum, second_sum = (errors**2).sum(), float(errors.abs().sum())
        sums += torch.tensor([float(losses.double().sum()), float(first_sum), second_sum, len(targets)], dtype=torch.float64)
    collectives.all_reduce(sums, "sum")
    loss_sum, one, two, count = sums.tolist()
    if data.target == "class":
        return {"loss": loss_sum / count, "accuracy": one / count}
    return {"loss": loss_sum / count, "rmse": (one / count) ** 0.5, "mae": two / count}


@torch.no_grad()
def predict(module: nn.Module, prepare: Prepare, inputs: torch.Tensor, data: TorchData, temperature: float = 1.0) -> np.ndarray:
    """Probabilities float32 [n, C], or numbers float32 [n] in the target's own unit; in fp32."""
    outputs = forward(module, prepare, inputs, data, training=False, precision="fp32")
    result = (outputs / temperature).softmax(dim=1) if data.target == "class" else outputs * data.target_std + data.target_mean
    return result.cpu().numpy()
