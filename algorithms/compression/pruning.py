"""Structured pruning: whole channels leave, and a pruned network is built again from the shapes of its weights."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from torch import nn

from infra.errors import CompressionError

# Vector units and cache lines take channels by eight; a width between multiples costs as much as the next one.
ROUND_TO = 8


def prune(model: nn.Module, example: torch.Tensor, share: float, num_outputs: int) -> None:
    """Remove ``share`` of the channels of every layer, in place: those with the smallest L2 norm over all layers that they run through.

    DepGraph (arXiv 2301.12900) finds which channels of which layers belong together. The layers that give the outputs keep them.

    Args:
        example: a batch as the network takes it.
        share: 0 to 1; each layer keeps at least eight channels, and a multiple of eight.

    Raises:
        CompressionError: this network cannot be pruned.
    """
    import torch_pruning

    was_training = model.training
    model.eval().requires_grad_(True)
    heads = [module for module in model.modules() if isinstance(module, nn.Linear) and module.out_features == num_outputs]
    before = sum(weight.numel() for weight in model.parameters())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pruner = torch_pruning.pruner.BasePruner(
                model,
                example,
                importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
                pruning_ratio=share,
                ignored_layers=heads,
                round_to=ROUND_TO,
            )
            pruner.step()
            with torch.no_grad():
                outputs = model(example)
    except (RuntimeError, ValueError, KeyError, IndexError, AttributeError, TypeError, AssertionError) as error:
        raise CompressionError("prune", f"this network cannot be pruned: {type(error).__name__}: {error}") from error
    if outputs.shape[1:].numel() != num_outputs:
        raise CompressionError("prune", f"pruning changed the outputs to {tuple(outputs.shape)}")
    if sum(weight.numel() for weight in model.parameters()) >= before:
        raise CompressionError("prune", f"no layer is wide enough to lose {share:.0%} of its channels")
    model.train(was_training)


def fit_shapes(model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Give every layer the shape of its weights in ``tensors``, in place, so that they can be loaded; equal shapes stay untouched.

    Raises:
        CompressionError: a layer of a kind that cannot take another shape.
    """
    for name, module in model.named_modules():
        prefix = f"{name}." if name else ""
        own = {**dict(module.named_parameters(recurse=False)), **dict(module.named_buffers(recurse=False))}
        other = {key for key, tensor in own.items() if f"{prefix}{key}" in tensors and tensors[f"{prefix}{key}"].shape != tensor.shape}
        if not other:
            continue
        for key in other:
            _replace(module, key, tensors[f"{prefix}{key}"])
        _set_widths(module, name)


def _replace(module: nn.Module, key: str, tensor: torch.Tensor) -> None:
    if key in dict(module.named_parameters(recurse=False)):
        setattr(module, key, nn.Parameter(torch.empty_like(tensor)))
    else:
        setattr(module, key, torch.empty_like(tensor))


def _set_widths(module: nn.Module, name: str) -> None:
    """The numbers that a layer keeps beside its weights."""
    weight = getattr(module, "weight", None)
    assert isinstance(weight, torch.Tensor)
    if isinstance(module, nn.modules.conv._ConvNd) and not module.transposed:
        if module.groups == module.in_channels == module.out_channels:  # depthwise
            module.groups = weight.shape[0]
        module.out_channels, module.in_channels = weight.shape[0], weight.shape[1] * module.groups
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = weight.shape
    elif isinstance(module, nn.modules.batchnorm._BatchNorm):
        module.num_features = weight.shape[0]
    elif isinstance(module, nn.LayerNorm):
        module.normalized_shape = tuple(weight.shape)
    else:
        raise CompressionError("prune", f"the layer {name} ({type(module).__name__}) cannot be built again with other widths")
