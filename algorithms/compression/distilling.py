"""Distillation: a trained network's outputs are part of the target (Hinton et al., arXiv 1503.02531)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from algorithms.engines.scoring import run_network
from algorithms.engines.torch_engine import TorchData

TEMPERATURE = 3.0


@dataclass(frozen=True)
class Teacher:
    """A trained network in evaluation mode, and the weight of its word: loss = (1 - weight) * own + weight * difference to the teacher."""

    module: nn.Module
    weight: float

    def mix(self, losses: torch.Tensor, outputs: torch.Tensor, prepared: torch.Tensor, data: TorchData, precision: str) -> torch.Tensor:
        """Losses [n] of the truth and of the teacher's outputs for the same prepared batch, as shifted and normalised for the student."""
        with torch.no_grad():
            wanted = run_network(self.module, prepared, data, precision)
        if data.target == "number":
            difference = functional.mse_loss(outputs, wanted, reduction="none")
        else:
            soft = functional.log_softmax(outputs / TEMPERATURE, dim=1)
            aim = functional.log_softmax(wanted / TEMPERATURE, dim=1)
            difference = functional.kl_div(soft, aim, reduction="none", log_target=True).sum(dim=1) * TEMPERATURE**2
        return (1 - self.weight) * losses + self.weight * difference
