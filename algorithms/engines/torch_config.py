"""Options that every network shares, whatever it learns from. A family adds its own by inheriting from ``TorchConfig``."""

from __future__ import annotations

import difflib
from typing import Literal

from pydantic import Field, field_validator

from algorithms.spec import Config
from algorithms.user_code import is_dotted

OPTIMIZER_NAMES = ("sgd", "momentum", "nesterov", "adam", "adamw", "amsgrad", "adamax", "adagrad", "adadelta", "rmsprop")
CLASS_LOSSES = ("cross_entropy", "focal", "bce")
NUMBER_LOSSES = ("mse", "mae", "huber")


class TorchConfig(Config):
    """How a network is trained."""

    epochs: int = Field(default=30, ge=1, le=100_000, description="Passes over the training split.")
    batch_size: int = Field(
        default=64,
        ge=1,
        le=1_048_576,
        description="Samples in one step over ALL workers together: the result does not depend on their number.",
    )
    accumulation: int = Field(
        default=1, ge=1, le=4096, description="Parts into which a worker cuts its share of a batch, to need less memory."
    )

    optimizer: str = Field(
        default="adamw",
        min_length=1,
        description="sgd, momentum, nesterov, adam, adamw, amsgrad, adamax, adagrad, adadelta, rmsprop, or a dotted name of your own.",
    )
    learning_rate: float = Field(default=1e-3, gt=0, le=100, description="Highest learning rate of the schedule.")
    weight_decay: float = Field(
        default=0.01, ge=0, le=10, description="Weight decay of the optimizer; biases and normalisation are spared."
    )
    momentum: float = Field(default=0.9, ge=0, lt=1, description="Momentum of sgd (momentum, nesterov) and rmsprop.")
    schedule: Literal["constant", "cosine", "step", "onecycle"] = Field(default="cosine", description="How the learning rate goes.")
    warmup_epochs: float = Field(
        default=1.0, ge=0, le=10_000, description="Epochs in which the learning rate rises from 0 (not for onecycle)."
    )
    step_epochs: float = Field(default=0.0, ge=0, description="Schedule step: epochs between two falls; 0 is a third of the training.")
    step_factor: float = Field(
        default=0.1, gt=0, le=1, description="Schedule step: what the learning rate is multiplied with at each fall."
    )
    clip_norm: float = Field(default=0.0, ge=0, description="Largest norm of the whole gradient; 0 is off.")
    l1: float = Field(default=0.0, ge=0, le=10, description="L1 penalty on weights; together with l2 it is the elastic net.")
    l2: float = Field(
        default=0.0, ge=0, le=10, description="L2 penalty on weights, added to the gradient (weight_decay is the optimizer's own)."
    )
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Share of activations dropped before the last layer.")

    loss: str = Field(
        default="auto",
        min_length=1,
        description="cross_entropy, focal, bce (classes); mse, mae, huber (numbers); or a dotted name. auto is cross_entropy or mse.",
    )
    label_smoothing: float = Field(default=0.0, ge=0, lt=1, description="Share of the target spread over all classes.")
    ema_decay: float = Field(default=0.0, ge=0, lt=1, description="Decay of the average of weights that is kept as the model; 0 is off.")
    early_stopping: int = Field(
        default=0, ge=0, description="Epochs without a better validation metric after which training stops; 0 is off."
    )

    model: str = Field(default="", description="Your own network by dotted name (pkg.module:callable); empty: the preset's.")
    pretrained: str = Field(default="", description="Path or URI of safetensors weights to start from; empty: random weights.")

    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto", description="Arithmetic of training; auto is bf16 where the hardware has it."
    )
    checkpoint_every_s: float = Field(default=20.0, gt=0, description="Seconds between two checkpoints within an epoch.")
    checkpoint_every_steps: int = Field(
        default=0, ge=0, description="Steps between two checkpoints within an epoch, besides the time; 0 is off."
    )

    commit_every_steps: int = Field(
        default=0,
        ge=0,
        description="Steps between two commits of an elastic training, which a failure loses at most; 0: as many as cost 1 % of the time.",
    )
    scale_batch: bool = Field(
        default=False,
        description="Batch size and learning rate follow the number of workers: each worker has a batch of batch_size of its own.",
    )

    @field_validator("optimizer")
    @classmethod
    def _optimizer_is_known(cls, name: str) -> str:
        return _known(name, OPTIMIZER_NAMES)

    @field_validator("loss")
    @classmethod
    def _loss_is_known(cls, name: str) -> str:
        return _known(name, ("auto", *CLASS_LOSSES, *NUMBER_LOSSES))


def _known(name: str, names: tuple[str, ...]) -> str:
    """The name, if it is one of these or a dotted name; so a slip is told before any work begins."""
    if name in names or is_dotted(name):
        return name
    near = difflib.get_close_matches(name, names, n=3)
    nearest = f"; nearest: {', '.join(near)}" if near else ""
    raise ValueError(f"there is no {name!r}{nearest}. Allowed: {', '.join(names)}, or package.module:name")
