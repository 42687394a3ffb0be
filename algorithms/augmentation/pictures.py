"""Policies at work on batches of pictures. Cheap steps are one operation for the whole batch; torchvision's are applied picture by picture, as one
call draws one set of numbers. torchvision is loaded where it is needed: it takes a second or two, with all of torch's compiler.

All chance comes from torch's generator of the CPU, whose state is in the checkpoints: the same seed gives the same pictures, also after a stop.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional

from algorithms.augmentation import steps as s
from algorithms.augmentation.policies import Policy, check_no_flip
from algorithms.images.preprocess import random_shift
from algorithms.user_code import call_with_accepted, guarded_with_traceback, load_dotted
from infra.errors import InvalidOptionError, UserCodeError

Change = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # uint8 [N, C, S, S] and labels int64 [N] -> uint8 [N, C, S, S]
_MIXING = (s.MixUp, s.CutMix)


class PictureAugment:
    """A policy, ready for batches of one data set; see ``algorithms.engines.augmenting.BatchAugment``."""

    def __init__(
        self, policy: Policy, classes: Sequence[str], size: int | tuple[int, int], channels: int, no_flip: Sequence[str] = ()
    ) -> None:
        check_no_flip(no_flip, classes)
        self._kept = torch.tensor([name in no_flip for name in classes], dtype=torch.bool)
        side = size if isinstance(size, int) else min(size)
        offered = {"classes": list(classes), "image_size": side, "channels": channels, "no_flip": list(no_flip)}
        self._changes = [self._change(step, size, offered) for step in policy if not isinstance(step, _MIXING)]
        self._mixers = [step for step in policy if isinstance(step, _MIXING)]
        if self._mixers:  # not in the middle of a step, where the other ranks would wait
            from torchvision.transforms import v2

            self._kinds = {s.MixUp: v2.MixUp, s.CutMix: v2.CutMix}

    def change(self, pictures: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Each picture changed by itself: uint8 [N, S, S, C] and int64 [N] -> uint8 [N, S, S, C]."""
        if not self._changes:
            return pictures
        device = pictures.device
        # Some hundred tiny operations a batch: on a GPU each would cost more to start than to do.
        planes, where = pictures.permute(0, 3, 1, 2).cpu(), labels.cpu()
        for change in self._changes:
            planes = change(planes, where)
        return planes.permute(0, 2, 3, 1).contiguous().to(device)

    def mix(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Pictures mixed with their neighbours in the batch: float32 [N, C, S, S] -> the same, and the share [N] that is still their own.

        The rest of picture i is of picture i - 1; None if nothing is mixed.
        """
        if len(inputs) < 2 or not self._mixers:
            return inputs, None
        step = self._mixers[int(torch.randint(len(self._mixers), ()))]
        if float(torch.rand(())) >= step.p:
            return inputs, None
        mixed, shares = self._kinds[type(step)](alpha=step.alpha, num_classes=len(inputs))(inputs, torch.arange(len(inputs)))
        return mixed, shares.diagonal().to(inputs.device)

    def _change(self, step: s.Step, size: int | tuple[int, int], offered: dict[str, Any]) -> Change:
        """The step as a function of a batch."""
        if isinstance(step, s.Own):
            return _own(step, offered)
        if isinstance(step, s.Shift | s.Warp):
            moved = _shift(step) if isinstance(step, s.Shift) else _warp(step)
            return lambda planes, labels: _some(planes, moved(planes), _chosen(len(planes), step.p))
        if isinstance(step, s.Flip | s.VerticalFlip):
            axis = 3 if isinstance(step, s.Flip) else 2
            return lambda planes, labels: _some(planes, planes.flip(axis), _chosen(len(planes), step.p) & ~self._kept[labels])
        return _each(_transform(step, size), step.p)


def _chosen(count: int, p: float) -> torch.Tensor:
    """Which of ``count`` pictures get a step: bool [N]."""
    return torch.rand(count) < p


def _some(planes: torch.Tensor, changed: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    return torch.where(chosen[:, None, None, None], changed, planes)


def _each(transform: Callable[[torch.Tensor], Any], p: float) -> Change:
    """A transform of one picture [C, S, S], for each with chances of its own."""

    def change(planes: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        chosen = _chosen(len(planes), p).tolist()
        return torch.stack([transform(picture) if picked else picture for picture, picked in zip(planes, chosen, strict=True)])

    return change


def _shift(step: s.Shift) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda planes: random_shift(planes.permute(0, 2, 3, 1), step.share).permute(0, 3, 1, 2)


def _warp(step: s.Warp) -> Callable[[torch.Tensor], torch.Tensor]:
    def warp(planes: torch.Tensor) -> torch.Tensor:
        turn, scale, across, down = torch.rand(4, len(planes))
        angle = (turn * 2 - 1) * math.radians(step.degrees)
        size = 1 / (step.scale[0] + scale * (step.scale[1] - step.scale[0]))
        cos, sin = angle.cos() * size, angle.sin() * size
        # Coordinates go from -1 to 1, so a share of the side is twice as much there.
        where = (torch.stack([across, down]) * 2 - 1) * 2 * step.share
        tall = planes.shape[2] / planes.shape[3]  # a turn keeps angles, also where both sides are 2 long but of different pixels
        matrix = torch.stack([cos, -sin * tall, where[0], sin / tall, cos, where[1]], dim=1).reshape(-1, 2, 3)
        grid = functional.affine_grid(matrix, list(planes.shape), align_corners=False)
        moved = functional.grid_sample(planes.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)
        return moved.round().clamp_(0, 255).to(torch.uint8)

    return warp


def _transform(step: s.Step, size: int | tuple[int, int]) -> Callable[[torch.Tensor], Any]:
    """torchvision's transform of one picture."""
    from torchvision.transforms import v2

    smooth = v2.InterpolationMode.BILINEAR
    match step:
        case s.Crop():
            return v2.RandomResizedCrop(size, scale=step.scale, ratio=step.ratio, antialias=True)
        case s.Affine():
            shear, moved = step.shear or None, (step.translate, step.translate)
            return v2.RandomAffine(step.degrees, translate=moved, scale=step.scale, shear=shear, interpolation=smooth)
        case s.Rotation():
            return v2.RandomRotation(step.degrees, interpolation=smooth)
        case s.Colour():
            return v2.ColorJitter(step.brightness, step.contrast, step.saturation, step.hue)
        case s.Noise():
            return v2.GaussianNoise(sigma=step.sigma)
        case s.Blur():
            _check_blur(step, size)
            return v2.GaussianBlur(step.kernel, sigma=step.sigma)
        case s.Erasing():
            return v2.RandomErasing(p=1.0, scale=step.scale, value=127)
        case s.TrivialAugment():
            return v2.TrivialAugmentWide(interpolation=smooth)
        case s.RandAugment():
            return v2.RandAugment(step.num_ops, step.magnitude, interpolation=smooth)
    raise AssertionError(f"{step.name} is no transform of one picture")


def _check_blur(step: s.Blur, size: int | tuple[int, int]) -> None:
    """Refuse a kernel that reaches from the middle of the picture beyond its mirrored edge."""
    side = size if isinstance(size, int) else min(size)
    if step.kernel // 2 >= side:
        problem = f"blur: a kernel of {step.kernel} pixels is too large for pictures of {side}; the largest is {2 * side - 1}"
        raise InvalidOptionError("augmentation", [problem])


def _own(step: s.Own, offered: dict[str, Any]) -> Change:
    """A user's function of a picture, or of a batch and its labels; or a class or factory of one."""
    found: Any = load_dotted(step.name)
    if isinstance(found, type) or step.arguments:
        found = call_with_accepted(step.name, found, {**offered, **step.arguments})
    if not callable(found):
        raise UserCodeError(step.name, f"it is a {type(found).__name__}, not a function, a class or a transform")

    def one(picture: torch.Tensor) -> torch.Tensor:
        return _checked(step.name, guarded_with_traceback(step.name, found, picture), picture)

    if _num_arguments(found) < 2:
        return _each(one, step.p)

    def change(planes: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        given = guarded_with_traceback(step.name, found, planes.clone(), labels.clone())
        return _some(planes, _checked(step.name, given, planes), _chosen(len(planes), step.p))

    return change


def _num_arguments(function: Any) -> int:
    """How many arguments a call wants by position; a torchvision transform takes any number and is given a picture."""
    if isinstance(function, torch.nn.Module):
        function = function.forward
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some built-in callables have no signature
        return 1
    return sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty for p in parameters)


def _checked(name: str, given: Any, like: torch.Tensor) -> torch.Tensor:
    if isinstance(given, torch.Tensor) and given.shape == like.shape and given.dtype == like.dtype:
        return given.as_subclass(torch.Tensor)
    what = f"{str(given.dtype).removeprefix('torch.')} {list(given.shape)}" if isinstance(given, torch.Tensor) else type(given).__name__
    raise UserCodeError(name, f"given pixels uint8 {list(like.shape)} it has to give such a tensor; it gave {what}")
