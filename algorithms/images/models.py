"""The networks of the picture presets, and what goes into them. No torch at module level: presets refer to these functions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from algorithms.compression.recipes import Compressible
from algorithms.engines.schedules import step_value
from algorithms.engines.torch_engine import TorchData
from algorithms.images.config import ImageClassificationConfig

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn

    from algorithms.engines.augmenting import BatchAugment


def build_small_cnn(config: ImageClassificationConfig, data: TorchData) -> nn.Module:
    """See ``algorithms.images.networks.SmallCnn``."""
    from algorithms.images.networks import SmallCnn

    return SmallCnn(data.num_outputs, config.channels, config.width, config.dropout)


def timm_builder(name: str) -> Callable[[ImageClassificationConfig, TorchData], nn.Module]:
    """A function that builds timm's network of a name, with random weights."""
    return partial(_build_timm, name)


def _build_timm(name: str, config: ImageClassificationConfig, data: TorchData) -> nn.Module:
    import timm

    model: nn.Module = timm.create_model(
        name, pretrained=False, num_classes=data.num_outputs, in_chans=config.channels, drop_rate=config.dropout
    )
    return model


def model_arguments(config: ImageClassificationConfig, data: TorchData) -> dict[str, Any]:
    """What a user's own network is called with, if it accepts it."""
    return {
        "num_classes": data.num_outputs,
        "channels": config.channels,
        "in_channels": config.channels,
        "image_size": config.image_size,
        "dropout": config.dropout,
        "config": config,
    }


def prepare_batch(config: ImageClassificationConfig, data: TorchData) -> Callable[[torch.Tensor, bool], torch.Tensor]:
    """uint8 [N, S, S, C] -> float32 [N, C, S, S]."""
    from algorithms.images.preprocess import normalise

    return lambda pictures, training: normalise(pictures, config.channels_last)


def tell_compressible(config: ImageClassificationConfig) -> Compressible:
    """Convolutions prune and calibrate well; int8 convolutions with dynamic ranges are slow everywhere, so they are not tried."""
    return Compressible(static=True, fp16=True, prunable=True)


def tell_small_cnn_compressible(config: ImageClassificationConfig) -> Compressible:
    """As ``tell_compressible``; half the width is a smaller architecture of its own."""
    student = {} if config.model else {"width": max(config.width / 2, 0.1)}
    return Compressible(static=True, fp16=True, prunable=True, student=student)


def at_epoch(config: ImageClassificationConfig, epoch: int) -> ImageClassificationConfig:
    """The options with the picture size of an epoch (from 0)."""
    size = step_value(config.image_size_by_epoch, epoch, config.image_size)
    return config if size == config.image_size else config.model_copy(update={"image_size": size})


def fit_inputs(config: ImageClassificationConfig, data: TorchData) -> Callable[[np.ndarray], np.ndarray] | None:
    """Pictures uint8 [N, H, W, C] made as small as the epoch of this config wants them, or None if they are."""
    if data.input_shape[0] == config.image_size:
        return None
    import torch

    from algorithms.images.preprocess import shrink

    return lambda pictures: shrink(torch.from_numpy(pictures), config.image_size).numpy()


def modules_of_augment(config: ImageClassificationConfig) -> tuple[str, ...]:
    """What the policy of the options loads."""
    from algorithms.augmentation.policies import parse_policy
    from algorithms.augmentation.steps import BATCHWISE

    own = all(isinstance(step, BATCHWISE) for step in parse_policy(config.augment))
    return () if own else ("torchvision.transforms.v2",)


def make_augment(config: ImageClassificationConfig, data: TorchData) -> BatchAugment | None:
    """The policy that the options name, if it changes anything."""
    from algorithms.augmentation.policies import parse_policy

    policy = parse_policy(config.augment)
    if not policy:
        return None
    from algorithms.augmentation.pictures import PictureAugment

    return PictureAugment(policy, data.classes, config.image_size, config.channels, config.no_flip)
