"""Options of networks that tell classes of pictures apart."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from algorithms.augmentation.policies import parse_policy
from algorithms.engines.schedules import check_points
from algorithms.engines.torch_config import TorchConfig, WholeSteps
from algorithms.spec import Names


class ImageClassificationConfig(TorchConfig):
    """Options of picture classification. Defaults suit a network trained from random weights on some thousand pictures."""

    image_size: int = Field(default=224, ge=8, le=1024, description="Height and width that pictures are resized to, pixels.")
    image_size_by_epoch: WholeSteps = Field(
        default=(),
        description="Smaller pictures in the first epochs, such as 0:64,10:80,20:96 for image_size 96: faster; judged and exported at image_size.",
    )
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

    @model_validator(mode="after")
    def _sizes_end_at_the_final_one(self) -> ImageClassificationConfig:
        if self.image_size_by_epoch:
            check_points(self.image_size_by_epoch, least=8, most=self.image_size)
            if self.image_size_by_epoch[-1][1] != self.image_size:
                raise ValueError(f"image_size_by_epoch: the last size has to be image_size, {self.image_size}")
        return self

    @field_validator("augment")
    @classmethod
    def _augment_is_known(cls, value: str | tuple[dict[str, Any], ...]) -> str | tuple[dict[str, Any], ...]:
        parse_policy(value)
        return value
