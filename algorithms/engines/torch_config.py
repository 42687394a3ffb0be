"""Options that every network shares, whatever it learns from. A family adds its own by inheriting from ``TorchConfig``."""

from __future__ import annotations

import difflib
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from algorithms.engines.schedules import check_points, split_points
from algorithms.spec import Config
from algorithms.user_code import is_dotted

OPTIMIZER_NAMES = ("sgd", "momentum", "nesterov", "adam", "adamw", "amsgrad", "adamax", "adagrad", "adadelta", "rmsprop")
CLASS_LOSSES = ("cross_entropy", "focal", "bce")
NUMBER_LOSSES = ("mse", "mae", "huber")
_HAVE_NO_MOMENTUM = ("sgd", "adagrad", "adadelta")

# "EPOCH:VALUE,..." as it comes from a command line, an object {"EPOCH": VALUE}, or a list of pairs; kept as a tuple of pairs.
WholeSteps = Annotated[tuple[tuple[int, int], ...], BeforeValidator(split_points)]
Points = Annotated[tuple[tuple[float, float], ...], BeforeValidator(split_points)]


class TorchConfig(Config):
    """How a network is trained."""

    epochs: int = Field(default=30, ge=1, le=100_000, description="Passes over the training split.")
    batch_size: int = Field(
        default=64,
        ge=1,
        le=1_048_576,
        description="Samples in one step over ALL workers together: the result does not depend on their number.",
    )
    batch_size_by_epoch: WholeSteps = Field(
        default=(),
        description="Other batch sizes from epochs on (the first is 0): 10:128,20:256 is batch_size up to epoch 9, then 128, then 256.",
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
    momentum_by_epoch: Points = Field(
        default=(),
        description="Momentum (Adam: beta1) at points of the training, linear between them, such as 0:0.85,5:0.95; empty: constant.",
    )
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
    compile: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="torch.compile of the network; auto: on GPUs, for trainings of at least 2,000 steps (CPUs got slower by it).",
    )
    sync_batchnorm: bool = Field(
        default=False, description="Batch normalisation over the samples of all workers instead of each worker's share; costs messages."
    )
    gradient_compression: Literal["none", "bf16", "fp16"] = Field(
        default="none", description="Type in which gradients travel between workers; for slow networks. Horovod sends bf16 as fp32."
    )
    checkpoint_every_s: float = Field(default=20.0, gt=0, description="Seconds between two checkpoints within an epoch.")
    checkpoint_every_steps: int = Field(
        default=0, ge=0, description="Steps between two checkpoints within an epoch, besides the time; 0 is off."
    )

    @field_validator("batch_size_by_epoch")
    @classmethod
    def _batches_are_batches(cls, points: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
        return check_points(points, least=1, most=1_048_576)

    @field_validator("momentum_by_epoch")
    @classmethod
    def _momentum_is_below_one(cls, points: tuple[tuple[float, float], ...]) -> tuple[tuple[float, float], ...]:
        return check_points(points, least=0.0, most=0.9999)

    @model_validator(mode="after")
    def _momentum_is_used(self) -> TorchConfig:
        if self.momentum_by_epoch and self.optimizer in _HAVE_NO_MOMENTUM:
            raise ValueError(
                f"momentum_by_epoch: the optimizer {self.optimizer} has no momentum; take momentum, nesterov or adamw, for instance"
            )
        return self

    commit_every_steps: int = Field(
        default=0,
        ge=0,
        description="Steps between two commits of an elastic training, which a failure loses at most; 0: as many as cost 0.5 % of the time.",
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
