"""A way around a fault of oneDNN that kills a training on a CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

_BLOCK = 16  # channels that oneDNN's AVX-512 kernels work on at once; those for AVX2 take 8


def thin_out_first(model: nn.Module) -> int:
    """Let 1x1 convolutions with a stride and few channels skip positions before they compute, in place; the results are the same.

    In channels_last, the gradient of such a weight with fewer input channels than a block writes past its scratch memory
    (github.com/uxlfoundation/oneDNN/issues/6035, oneDNN 3.13): wrong numbers or a crash, sooner or later. Pruned networks have such layers,
    as the shortcuts of resnets. Weights, their names and shapes stay. Convolutions that a user's ``forward`` calls as functions are not seen.

    Returns:
        How many convolutions were changed.
    """
    found = [module for module in model.modules() if isinstance(module, nn.Conv2d) and _is_hit(module)]
    for module in found:
        module.register_forward_pre_hook(_Every(*module.stride))
        module.stride = (1, 1)
    return len(found)


def _is_hit(module: nn.Conv2d) -> bool:
    few = module.in_channels // module.groups < _BLOCK
    return few and module.kernel_size == (1, 1) and module.stride != (1, 1) and module.padding in ((0, 0), "valid")


class _Every:
    """Keep the rows and columns that the stride would have stopped at; a class, so that a copied network keeps it."""

    def __init__(self, rows: int, columns: int) -> None:
        self.rows, self.columns = rows, columns

    def __call__(self, module: nn.Module, arguments: tuple[Any, ...]) -> tuple[torch.Tensor, ...]:
        inputs: torch.Tensor = arguments[0]
        return (inputs[..., :: self.rows, :: self.columns],)
