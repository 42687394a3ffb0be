"""Quantization-aware training: weights and activations rounded to int8 in the forward pass, as the exported graph will round them.

Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference (arXiv 1712.05877). Weights: symmetric,
per output channel; that commutes with the folding of batch normalisation, which scales output channels, so nothing need be folded here.
Inputs of layers: uint8 over a moving range. Gradients go straight through, and are zero outside the range.
"""

from __future__ import annotations

import torch
from torch import nn

from algorithms.engines.checkpoints import Tensors

_RANGE = "input_range"
_FOLLOW = 0.05


def _rounded_weight(weight: torch.Tensor) -> torch.Tensor:
    scale = (weight.detach().abs().flatten(1).amax(dim=1) / 127).clamp_min(1e-8).float()
    zero = torch.zeros_like(scale, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight.float(), scale, zero, 0, -127, 127)


class _RoundedInput(nn.Module):
    """Shared behaviour of rounded layers: the moving range of their input, float32 [2], NaN until the first batch."""

    input_range: torch.Tensor

    def rounded(self, inputs: torch.Tensor) -> torch.Tensor:
        inputs = inputs.float()
        if self.training:
            with torch.no_grad():
                found = torch.stack([inputs.amin().clamp_max(0.0), inputs.amax().clamp_min(0.0)])
                follow = torch.where(self.input_range.isnan(), torch.ones_like(found), torch.full_like(found, _FOLLOW))
                self.input_range.copy_(torch.lerp(torch.nan_to_num(self.input_range), found, follow))
        low, high = torch.nan_to_num(self.input_range).unbind()
        scale = ((high - low) / 255).clamp_min(1e-8)
        zero = (-low / scale).round().clamp(0, 255).to(torch.int32)
        return torch.fake_quantize_per_tensor_affine(inputs, scale.reshape(1), zero.reshape(1), 0, 255)


class RoundedConv2d(_RoundedInput, nn.Conv2d):
    """A convolution that computes with rounded inputs and weights."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self._conv_forward(self.rounded(inputs), _rounded_weight(self.weight), self.bias)


class RoundedLinear(_RoundedInput, nn.Linear):
    """A linear layer that computes with rounded inputs and weights."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(self.rounded(inputs), _rounded_weight(self.weight), self.bias)


_ROUNDED: dict[type[nn.Module], type[nn.Module]] = {nn.Conv2d: RoundedConv2d, nn.Linear: RoundedLinear}


def attach(model: nn.Module) -> int:
    """Make every plain convolution and linear layer round, in place; returns how many. Names of weights stay as they are."""
    count = 0
    for module in model.modules():
        rounded = _ROUNDED.get(type(module))
        if rounded is not None:
            module.__class__ = rounded
            module.register_buffer(_RANGE, torch.full((2,), torch.nan))
            count += 1
    return count


def strip(tensors: Tensors) -> Tensors:
    """The weights of the network as it was before ``attach``."""
    return {name: tensor for name, tensor in tensors.items() if name.rpartition(".")[2] != _RANGE}
