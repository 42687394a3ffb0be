"""What the training loop knows of augmentation: batches that are changed, samples that are mixed, classes that weigh more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch

if TYPE_CHECKING:
    import numpy as np

    from algorithms.engines.losses import Loss
    from algorithms.engines.torch_engine import TorchData


class BatchAugment(Protocol):
    """Changes training batches. Chance comes from torch's generators alone, which the checkpoints keep."""

    def change(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """A batch as ``Samples.read`` gave it -> one of the same shape and type."""
        ...

    def mix(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """A batch as the network takes it -> the same, and the share [n] of each sample that is still its own, or None.

        The rest of sample i is sample i - 1's, that of the first the last one's.
        """
        ...


@dataclass(frozen=True)
class Phase:
    """What training batches are in some epochs; validation knows nothing of it.

    Attributes:
        augment: what changes them, if anything does.
        fit: inputs as ``Samples.read`` gives them -> the same in the size that these epochs train at; it runs in the thread that reads ahead.
    """

    augment: BatchAugment | None = None
    fit: Callable[[np.ndarray], np.ndarray] | None = None


def mixed_loss(loss: Loss, outputs: torch.Tensor, targets: torch.Tensor, shares: torch.Tensor | None) -> torch.Tensor:
    """The loss [n] of mixed samples: of their own target and their neighbour's, by their shares.

    For cross entropy that is the loss of the mixed target; any other loss needs no soft targets this way.
    """
    own = loss(outputs, targets)
    return own if shares is None else shares * own + (1 - shares) * loss(outputs, targets.roll(1, 0))


def weigh_classes(loss: Loss, config: Any, data: TorchData, device: torch.device) -> Loss:
    """The loss, times the weight of each sample's class if ``class_weights`` is balanced: 1 on average, and classes weigh the same in sum."""
    wanted = data.target == "class" and getattr(config, "class_weights", "none") == "balanced"
    return _weighed(loss, data, "train", device) if wanted else loss


def judging_loss(loss: Loss, config: Any, data: TorchData, device: torch.device) -> Loss:
    """The loss by which epochs are compared: where training gives rare classes more weight, they weigh as much in judging.

    Accuracy would choose the epoch that sees the frequent classes alone.
    """
    balances = getattr(config, "class_weights", "none") == "balanced" or getattr(config, "augment", "none") == "smote"
    valid = data.samples.get("valid")
    wanted = data.target == "class" and balances and valid is not None and len(valid) > 0
    return _weighed(loss, data, "valid", device) if wanted else loss


def _weighed(loss: Loss, data: TorchData, split: str, device: torch.device) -> Loss:
    counts = torch.bincount(torch.as_tensor(data.samples[split].labels), minlength=len(data.classes))
    weights = (counts.sum() / ((counts > 0).sum() * counts.clamp(min=1))).float().to(device)
    return lambda outputs, targets: loss(outputs, targets) * weights[targets]
