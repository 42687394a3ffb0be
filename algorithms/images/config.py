"""Options of networks that tell classes of pictures apart."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from algorithms.augmentation.policies import parse_policy
from algorithms.engines.torch_config import TorchConfig
from algorithms.spec import Names


class ImageClassificationConfig(TorchConfig):
    """Options of picture classification. Defaults suit a network trained from random weights on some thousand pictures."""

    image_size: int = Field(default=224, ge=8, le=1024, description="Height and width that pictures are resized to, pixels.")
    channels: Literal[1, 3] = Field(default=3, description="3 is colour, 1 is grey.")
    augment: str | tuple[dict[str, Any], ...] = Field(
        default="none",
        description="How training pictures are changed at random: a policy's name (none, photo, strong, or any step's: shift, warp, crop, flip, "
        'mixup, ...), a list of steps such as [{"name": "crop", "scale": [0.5, 1]}], or a dotted name of your own.',
    )
    no_flip: Names = Field(default=(), description="Classes whose pictures must not be flipped, such as left,right.")
    class_weights: Literal["none", "balanced"] = Field(
        default="none", description="balanced: rare classes weigh as much as frequent ones in training."
    )
    channels_last: bool = Field(default=True, description="Memory layout NHWC, which most hardware computes faster.")
    width: float = Field(default=1.0, ge=0.1, le=8, description="small-cnn: factor on the number of channels; other networks have theirs.")

    @field_validator("augment")
    @classmethod
    def _augment_is_known(cls, value: str | tuple[dict[str, Any], ...]) -> str | tuple[dict[str, Any], ...]:
        parse_policy(value)
        return value
