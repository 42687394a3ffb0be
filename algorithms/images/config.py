"""Options of networks that tell classes of pictures apart."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from algorithms.engines.torch_config import TorchConfig


class ImageClassificationConfig(TorchConfig):
    """Options of picture classification. Defaults suit a network trained from random weights on some thousand pictures."""

    image_size: int = Field(default=224, ge=8, le=1024, description="Height and width that pictures are resized to, pixels.")
    channels: Literal[1, 3] = Field(default=3, description="3 is colour, 1 is grey.")
    random_shift: float = Field(
        default=0.0, ge=0, le=0.5, description="Training pictures are shifted at random by up to this share of their side."
    )
    channels_last: bool = Field(default=True, description="Memory layout NHWC, which most hardware computes faster.")
    width: float = Field(default=1.0, ge=0.1, le=8, description="small-cnn: factor on the number of channels; other networks have theirs.")
