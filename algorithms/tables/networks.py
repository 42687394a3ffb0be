"""The network of the mlp presets."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


class Mlp(nn.Module):
    """Layers of linear, layer normalisation, ReLU and dropout; float32 [N, num_features] -> float32 [N, num_outputs].

    Layer normalisation and not batch normalisation: a row's output then does not depend on its batch, nor on how many ranks share it.
    """

    def __init__(self, num_features: int, num_outputs: int, hidden: Sequence[int], dropout: float) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = num_features
        for size in hidden:
            layers += [nn.Linear(width, size), nn.LayerNorm(size), nn.ReLU(), nn.Dropout(dropout)]
            width = size
        self.layers = nn.Sequential(*layers, nn.Linear(width, num_outputs))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.layers(features)
        return outputs
