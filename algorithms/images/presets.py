"""The presets for pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from algorithms.compression.recipes import Compressible
from algorithms.engines.torch_engine import TorchData, TorchEngine
from algorithms.images import export, models, samples
from algorithms.images.config import ImageClassificationConfig
from algorithms.search_space import Choice, Float, Range
from algorithms.spec import Algorithm, Expectation
from infra.datasets.card import Card
from infra.errors import InvalidOptionError

if TYPE_CHECKING:
    from torch import nn


def list_expectations(config: ImageClassificationConfig, card: Card) -> list[Expectation]:
    """What pictures must look like; see ``algorithms.expectations``."""
    from algorithms.augmentation.policies import check_no_flip
    from algorithms.expectations import image_expectations

    check_no_flip(config.no_flip, card.classes)
    if config.image_size_by_epoch and config.image_size_by_epoch[-1][0] >= config.epochs:
        problem = (
            f"image_size_by_epoch: image_size has to be reached before the end of the training, at epoch {config.epochs - 1} or earlier"
        )
        raise InvalidOptionError("training", [problem])
    return image_expectations(card)


def image_engine(
    build_model: Callable[[Any, TorchData], nn.Module],
    *modules: str,
    tell_compressible: Callable[[Any], Compressible] = models.tell_compressible,
) -> TorchEngine:
    """The torch engine for pictures, around a network; ``modules`` are what that loads."""
    return TorchEngine(
        open_data=samples.open_pictures,
        build_model=build_model,
        prepare_batch=models.prepare_batch,
        write_package=export.write_picture_package,
        list_expectations=list_expectations,
        model_arguments=models.model_arguments,
        tell_compressible=tell_compressible,
        make_augment=models.make_augment,
        at_epoch=models.at_epoch,
        fit_inputs=models.fit_inputs,
        option_modules=models.modules_of_augment,
        family_modules=("PIL.Image", "algorithms.images.preprocess", *modules),
    )


# What trains the larger networks well from random weights: AdamW, one cycle of cosine after a warm-up, clipping, label smoothing, averaging.
_FROM_SCRATCH = {"epochs": 60, "warmup_epochs": 3.0, "clip_norm": 1.0, "label_smoothing": 0.1, "ema_decay": 0.998, "augment": "shift"}

_SPACE: dict[str, Range] = {
    "learning_rate": Float(low=3e-4, high=1e-2, log=True),
    "weight_decay": Float(low=1e-3, high=0.3, log=True),
    "batch_size": Choice(values=(32, 64, 128)),
    "label_smoothing": Float(low=0.0, high=0.2),
    "dropout": Float(low=0.0, high=0.5),
    "augment": Choice(values=("shift", "photo", "strong")),
}

IMAGE_PRESETS = (
    Algorithm(
        name="image-classification/small-cnn",
        config_type=ImageClassificationConfig,
        engine=image_engine(models.build_small_cnn, "algorithms.images.networks", tell_compressible=models.tell_small_cnn_compressible),
        summary="A small convolutional network for small pictures",
        suits="pictures of up to about 64 pixels, such as digits and icons; trains in seconds on a CPU",
        size="0.3 M parameters",
        defaults={
            "image_size": 16,
            "epochs": 14,
            "learning_rate": 3e-3,
            "weight_decay": 0.05,
            "ema_decay": 0.99,
            "label_smoothing": 0.05,
            "dropout": 0.2,
            "augment": "shift",
        },
        search_space={**_SPACE, "augment": Choice(values=("none", "shift", "affine")), "width": Choice(values=(0.5, 0.75, 1.0, 1.5))},
    ),
    Algorithm(
        name="image-classification/resnet18",
        config_type=ImageClassificationConfig,
        engine=image_engine(models.timm_builder("resnet18"), "timm"),
        summary="Residual network with 18 layers (arXiv 1512.03385)",
        suits="a first try on photographs: robust, fast, prunes and quantizes well",
        size="11.2 M parameters",
        defaults=_FROM_SCRATCH,
        search_space=_SPACE,
    ),
    Algorithm(
        name="image-classification/resnet50",
        config_type=ImageClassificationConfig,
        engine=image_engine(models.timm_builder("resnet50"), "timm"),
        summary="Residual network with 50 layers (arXiv 1512.03385)",
        suits="photographs where accuracy counts more than speed, with a GPU or pretrained weights",
        size="23.5 M parameters",
        defaults={**_FROM_SCRATCH, "weight_decay": 0.05},
        search_space=_SPACE,
    ),
    Algorithm(
        name="image-classification/mobilenetv3-small",
        config_type=ImageClassificationConfig,
        engine=image_engine(models.timm_builder("mobilenetv3_small_100"), "timm"),
        summary="MobileNetV3 small (arXiv 1905.02244)",
        suits="phones, boards and other places where every millisecond counts",
        size="1.5 M parameters",
        defaults={**_FROM_SCRATCH, "learning_rate": 2e-3, "dropout": 0.2},
        search_space=_SPACE,
    ),
    Algorithm(
        name="image-classification/efficientnet-b0",
        config_type=ImageClassificationConfig,
        engine=image_engine(models.timm_builder("efficientnet_b0"), "timm"),
        summary="EfficientNet B0 (arXiv 1905.11946)",
        suits="photographs where accuracy for few parameters counts",
        size="4.0 M parameters",
        defaults={**_FROM_SCRATCH, "learning_rate": 2e-3, "dropout": 0.2},
        search_space=_SPACE,
    ),
)
