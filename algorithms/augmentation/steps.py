"""The steps that a policy for pictures is made of, as data with ranges. Nothing here imports torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Share = Annotated[float, Field(ge=0, le=1)]
Degrees = Annotated[float, Field(ge=0, le=180)]
Factor = Annotated[float, Field(gt=0, le=100)]


class Step(BaseModel):
    """One change, drawn anew for every picture. ``p`` is the probability that a picture gets it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    p: Share = 1.0

    @model_validator(mode="after")
    def _ranges_rise(self) -> Step:
        for key, value in self:
            if isinstance(value, tuple) and len(value) == 2 and value[0] > value[1]:
                raise ValueError(f"{key}: the first of {list(value)} has to be the smaller one")
        return self


class Shift(Step):
    """Moved up or down and left or right; the edge is repeated. One operation for the whole batch."""

    name: Literal["shift"] = "shift"
    share: float = Field(default=0.08, ge=0, le=0.5, description="Furthest, as a share of the side.")


class Warp(Step):
    """Turned, scaled and moved in one resampling of the whole batch; the edge is repeated. For small pictures many times faster than affine."""

    name: Literal["warp"] = "warp"
    degrees: Degrees = 10.0
    scale: tuple[Factor, Factor] = (0.9, 1.1)
    share: float = Field(default=0.06, ge=0, le=0.5, description="Furthest shift, as a share of the side.")


class Crop(Step):
    """A part of the picture, resized to the whole (Szegedy et al., arXiv 1409.4842)."""

    name: Literal["crop"] = "crop"
    scale: tuple[Share, Share] = (0.6, 1.0)
    ratio: tuple[Factor, Factor] = (0.75, 4 / 3)


class Flip(Step):
    """Left and right exchanged, but not in the classes that must not be flipped."""

    name: Literal["flip"] = "flip"
    p: Share = 0.5


class VerticalFlip(Step):
    """Top and bottom exchanged, but not in the classes that must not be flipped."""

    name: Literal["vertical-flip"] = "vertical-flip"
    p: Share = 0.5


class Affine(Step):
    """Turned, moved, scaled and sheared; what comes in at the edge is black."""

    name: Literal["affine"] = "affine"
    degrees: Degrees = 15.0
    translate: Share = Field(default=0.1, description="Furthest shift, as a share of the side.")
    scale: tuple[Factor, Factor] = (0.9, 1.1)
    shear: Degrees = 5.0


class Rotation(Step):
    """Turned by up to so many degrees either way."""

    name: Literal["rotation"] = "rotation"
    degrees: Degrees = 15.0


class Colour(Step):
    """Brightness, contrast, saturation and hue changed by up to these factors."""

    name: Literal["colour"] = "colour"
    brightness: float = Field(default=0.3, ge=0, le=1)
    contrast: float = Field(default=0.3, ge=0, le=1)
    saturation: float = Field(default=0.3, ge=0, le=1)
    hue: float = Field(default=0.05, ge=0, le=0.5)


class Noise(Step):
    """Gaussian noise of its own for every pixel."""

    name: Literal["noise"] = "noise"
    sigma: float = Field(default=0.05, ge=0, le=1, description="Standard deviation; 1 is the whole range from black to white.")


class Blur(Step):
    """Gaussian blur."""

    name: Literal["blur"] = "blur"
    kernel: int = Field(default=3, ge=3, le=63, multiple_of=1, description="Pixels, odd.")
    sigma: tuple[Factor, Factor] = (0.1, 1.0)

    @model_validator(mode="after")
    def _is_odd(self) -> Blur:
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel: {self.kernel} is even; a kernel has a middle, so it has to be odd")
        return self


class Erasing(Step):
    """A rectangle made grey (Zhong et al., arXiv 1708.04896)."""

    name: Literal["erasing"] = "erasing"
    p: Share = 0.5
    scale: tuple[Share, Share] = (0.02, 0.2)


class TrivialAugment(Step):
    """One of 14 changes at a strength drawn at random (Mueller and Hutter, arXiv 2103.10158)."""

    name: Literal["trivial-augment"] = "trivial-augment"


class RandAugment(Step):
    """Some of 14 changes, all at one strength (Cubuk et al., arXiv 1909.13719)."""

    name: Literal["rand-augment"] = "rand-augment"
    num_ops: int = Field(default=2, ge=1, le=10)
    magnitude: int = Field(default=9, ge=0, le=30)


class MixUp(Step):
    """Blended with another picture of the batch, and so is the label (Zhang et al., arXiv 1710.09412)."""

    name: Literal["mixup"] = "mixup"
    alpha: float = Field(default=0.2, gt=0, le=10, description="Of the beta distribution that the share is drawn from.")


class CutMix(Step):
    """A rectangle taken from another picture of the batch, and its label by as much (Yun et al., arXiv 1905.04899)."""

    name: Literal["cutmix"] = "cutmix"
    alpha: float = Field(default=1.0, gt=0, le=10, description="Of the beta distribution that the share is drawn from.")


class Own(Step):
    """A user's own function or class, by dotted name, and what it is made with."""

    arguments: dict[str, Any] = Field(default_factory=dict)


STEPS: tuple[type[Step], ...] = (
    Shift, Warp, Crop, Flip, VerticalFlip, Affine, Rotation, Colour, Noise, Blur, Erasing, TrivialAugment, RandAugment, MixUp, CutMix,
)  # fmt: skip
BATCHWISE = (Own, Shift, Warp, Flip, VerticalFlip)  # the others need torchvision
BY_NAME: dict[str, type[Step]] = {step.model_fields["name"].default: step for step in STEPS}
