"""A user's augmentation policy that fails: importable by ranks on the shared cluster, whose working folder is this repository."""

from __future__ import annotations

import torch


def failing(picture: torch.Tensor) -> torch.Tensor:
    raise ZeroDivisionError("in my own policy")
