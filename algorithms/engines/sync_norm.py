"""Batch normalisation over the samples of all ranks, through ``Collectives``: the same with every back end, and with one rank plain normalisation."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from infra.collectives import Collectives


def synchronise(model: nn.Module, collectives: Collectives) -> None:
    """Make every batch normalisation of the network use mean and variance over all ranks while it trains; names of weights stay as they are.

    As long as there is one rank, layers do what they did; the number of ranks may change.
    """
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.forward = partial(_forward, module, collectives)  # type: ignore[method-assign]


def _forward(module: Any, collectives: Collectives, inputs: torch.Tensor) -> torch.Tensor:
    if not module.training or collectives.size == 1:
        return type(module).forward(module, inputs)
    outputs = _normalise(module, collectives, inputs)
    # timm's layers have their activation inside.
    for name in ("drop", "act"):
        if hasattr(module, name):
            outputs = getattr(module, name)(outputs)
    return outputs


@torch._disable_dynamo  # torch.compiler.disable, but it loads the compiler only where it is called
def _normalise(module: Any, collectives: Collectives, inputs: torch.Tensor) -> torch.Tensor:
    outputs, mean, variance, count = _SyncNorm.apply(inputs.float(), module.weight, module.bias, module.eps, collectives)
    if module.track_running_stats:
        with torch.no_grad():
            module.num_batches_tracked += 1
            factor = module.momentum if module.momentum is not None else 1.0 / float(module.num_batches_tracked)
            module.running_mean.lerp_(mean, factor)
            module.running_var.lerp_(variance * (count / (count - 1).clamp(min=1)), factor)
    return outputs.to(inputs.dtype)


class _SyncNorm(torch.autograd.Function):
    """Ioffe and Szegedy, arXiv 1502.03167, with sums over ranks; float32 [N, C, ...]."""

    @staticmethod
    def forward(ctx: Any, inputs: torch.Tensor, weight: Any, bias: Any, eps: float, collectives: Collectives) -> tuple[torch.Tensor, ...]:
        axes = [axis for axis in range(inputs.dim()) if axis != 1]
        shape = [1, -1] + [1] * (inputs.dim() - 2)
        count = inputs.numel() / inputs.shape[1] if inputs.shape[1] else 0.0
        # In float64: the variance is a difference of two large sums.
        sums = torch.cat([inputs.double().sum(axes), inputs.double().square().sum(axes), inputs.new_tensor([count], dtype=torch.float64)])
        collectives.all_reduce(sums, "sum")
        total = sums[-1]
        mean, squares = (sums[:-1] / total).chunk(2)
        variance = (squares - mean.square()).clamp(min=0)
        inverse = (variance + eps).rsqrt().float()
        normal = (inputs - mean.float().view(shape)) * inverse.view(shape)
        ctx.save_for_backward(normal, inverse, weight, total)
        ctx.axes, ctx.shape, ctx.collectives = axes, shape, collectives
        outputs = normal if weight is None else normal * weight.view(shape) + bias.view(shape)
        mean, variance, total = mean.float(), variance.float(), total.float()
        ctx.mark_non_differentiable(mean, variance, total)
        return outputs, mean, variance, total

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor, *unused: Any) -> tuple[torch.Tensor | None, ...]:
        normal, inverse, weight, total = ctx.saved_tensors
        by_bias, by_weight = gradient.sum(ctx.axes), (gradient * normal).sum(ctx.axes)
        sums = torch.cat([by_bias, by_weight])
        ctx.collectives.all_reduce(sums, "sum")
        shift, slope = (sums / total.float()).chunk(2)
        inner = gradient - shift.view(ctx.shape) - normal * slope.view(ctx.shape)
        scale = inverse if weight is None else inverse * weight
        learns = weight is not None
        return inner * scale.view(ctx.shape), by_weight if learns else None, by_bias if learns else None, None, None
