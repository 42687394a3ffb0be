"""Options of the table presets: which column to predict, from which columns, and what each kind of model can be told."""

from __future__ import annotations

import difflib
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator

from algorithms.engines.torch_config import TorchConfig
from algorithms.spec import Config, Names, split_names
from algorithms.user_code import is_dotted

ROW_POLICIES = ("none", "noise", "smote")


class TableConfig(Config):
    """What every table preset can be told."""

    target: str = Field(min_length=1, description="Column to predict.")
    features: Names = Field(
        default=(), description="Columns to learn from; empty: all but the target and those that cannot help (see drop)."
    )
    drop: Names = Field(default=(), description="Columns to leave out.")
    max_one_hot: int = Field(
        default=12,
        ge=2,
        le=1000,
        description="Text columns with up to this many values get one feature per value; others the mean of the target.",
    )
    max_categories: int = Field(
        default=1000, ge=2, le=100_000, description="Values kept of a text column, the most frequent; the rest counts as one."
    )
    augment: str = Field(
        default="none", min_length=1, description="How training rows are augmented: none, noise, or a dotted name of your own."
    )
    noise_sigma: float = Field(
        default=0.1, gt=0, le=10, description="Strength of augment=noise, in standard deviations of each column of numbers."
    )

    @field_validator("augment")
    @classmethod
    def _augment_is_known(cls, name: str) -> str:
        allowed = ROW_POLICIES if issubclass(cls, ClassWeights) else ROW_POLICIES[:2]
        if name in allowed or is_dotted(name):
            return name
        near = difflib.get_close_matches(name, allowed, n=2)
        nearest = f"; nearest: {', '.join(near)}" if near else ""
        raise ValueError(f"there is no {name!r}{nearest}. Allowed: {', '.join(allowed)}, or package.module:name")


class ClassWeights(Config):
    """For classification."""

    augment: str = Field(
        default="none",
        min_length=1,
        description="How training rows are augmented: none, noise, smote (rows between neighbours of rarer classes), or a dotted name of your own.",
    )

    class_weights: Literal["none", "balanced"] = Field(
        default="none",
        description="balanced: rare classes weigh as much as frequent ones (better balanced accuracy, worse calibrated scores).",
    )


class LinearConfig(TableConfig):
    """Logistic regression, or ridge and elastic net."""

    regularization: float | None = Field(
        default=None,
        gt=0,
        le=1e6,
        description="Strength of the penalty on the coefficients; unset: the best of several on the valid split.",
    )
    l1_ratio: float = Field(
        default=0.0, ge=0, le=1, description="Share of the L1 penalty: 0 is L2 (ridge), 1 is L1 (lasso), between is elastic net."
    )
    max_iterations: int = Field(default=500, ge=10, le=100_000, description="Largest number of solver iterations.")


class LinearClassifierConfig(ClassWeights, LinearConfig):
    """Logistic regression."""


class RandomForestConfig(TableConfig):
    """Averaged trees, each grown on a bootstrap sample."""

    num_trees: int = Field(default=300, ge=1, le=10_000, description="Trees; more is better and slower, with less and less to gain.")
    max_depth: int | None = Field(default=None, ge=1, le=100, description="Deepest split; unset: no limit.")
    max_leaves: int = Field(default=8192, ge=2, le=1_000_000, description="Leaves per tree; holds the model's size on large tables.")
    min_samples_leaf: int = Field(default=1, ge=1, le=100_000, description="Rows that each leaf must keep.")
    feature_share: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Share of the features tried at each split; unset: the square root of them, a third for regression.",
    )


class RandomForestClassifierConfig(ClassWeights, RandomForestConfig):
    """Random forest for classes."""


class BoostingConfig(TableConfig):
    """Trees that each correct those before; the number of rounds is found on the valid split."""

    num_rounds: int = Field(default=1000, ge=1, le=100_000, description="Largest number of boosting rounds.")
    early_stopping_rounds: int = Field(
        default=50,
        ge=0,
        le=10_000,
        description="Stop when the loss on the valid split has not fallen by a thousandth for this many rounds; 0: never.",
    )
    learning_rate: float = Field(default=0.05, gt=0, le=1, description="How much of each tree's correction is taken.")
    row_share: float = Field(default=0.9, gt=0, le=1, description="Share of the rows that each round sees.")
    feature_share: float = Field(default=0.8, gt=0, le=1, description="Share of the features that each tree sees.")
    l1: float = Field(default=0.0, ge=0, le=1e6, description="L1 penalty on leaf values.")


class XGBoostConfig(BoostingConfig):
    """XGBoost with histograms."""

    max_depth: int = Field(default=6, ge=1, le=24, description="Deepest split of a tree.")
    min_child_weight: float = Field(default=1.0, ge=0, le=1e6, description="Least sum of second derivatives in a leaf.")
    l2: float = Field(default=1.0, ge=0, le=1e6, description="L2 penalty on leaf values.")
    min_split_gain: float = Field(default=0.0, ge=0, le=1e6, description="Least gain of a split.")


class XGBoostClassifierConfig(ClassWeights, XGBoostConfig):
    """XGBoost for classes."""


class LightGBMConfig(BoostingConfig):
    """LightGBM: leaf-wise trees."""

    num_leaves: int = Field(default=31, ge=2, le=100_000, description="Leaves per tree.")
    max_depth: int = Field(default=-1, ge=-1, le=100, description="Deepest split of a tree; -1: no limit but the leaves.")
    min_samples_leaf: int = Field(default=20, ge=1, le=1_000_000, description="Rows that each leaf must keep; small tables may want less.")
    l2: float = Field(default=0.1, ge=0, le=1e6, description="L2 penalty on leaf values.")
    min_split_gain: float = Field(default=0.0, ge=0, le=1e6, description="Least gain of a split.")


class LightGBMClassifierConfig(ClassWeights, LightGBMConfig):
    """LightGBM for classes."""


MemberKind = Literal["linear", "kernel", "extra-trees", "random-forest", "lightgbm", "xgboost", "perceptron"]
_EVERY_KIND: tuple[MemberKind, ...] = ("linear", "kernel", "extra-trees", "random-forest", "lightgbm", "xgboost", "perceptron")


class EnsembleConfig(TableConfig):
    """Many models of several kinds, weighted by how well they predict rows that they did not learn from."""

    members: Annotated[tuple[MemberKind, ...], BeforeValidator(split_names)] = Field(
        default=_EVERY_KIND, min_length=1, description="Kinds of models, such as linear,lightgbm; of each several configurations are tried."
    )
    time_limit_s: float = Field(
        default=60.0,
        gt=0,
        le=604_800,
        description="Seconds after which no member is begun; training ends earlier when every configuration is done.",
    )
    folds: int = Field(default=5, ge=2, le=50, description="Folds of the cross-validation by which members are stopped and weighted.")
    repeats: int = Field(
        default=2,
        ge=1,
        le=20,
        description="How often boosted trees and perceptrons are tried, each time with other folds and another seed.",
    )
    distill: Literal["none", "linear", "random-forest", "lightgbm", "xgboost", "perceptron"] = Field(
        default="none", description="Ship one model of this kind that learned what the ensemble says, instead of the ensemble."
    )


class EnsembleClassifierConfig(ClassWeights, EnsembleConfig):
    """An ensemble for classes."""


def _sizes(value: Any) -> Any:
    """``256,128`` as it comes from a command line, one number, or a list."""
    if isinstance(value, int):
        return (value,)
    return tuple(int(part) for part in value.split(",") if part.strip()) if isinstance(value, str) else value


LayerSize = Annotated[int, Field(ge=1, le=16_384)]


class MlpConfig(TorchConfig, TableConfig):
    """A multi-layer perceptron."""

    hidden: Annotated[tuple[LayerSize, ...], BeforeValidator(_sizes)] = Field(
        default=(256, 256), max_length=32, description="Width of each hidden layer, such as 256,128."
    )
    dropout: float = Field(default=0.2, ge=0, lt=1, description="Share of activations dropped after each hidden layer.")
    epochs: int = Field(default=80, ge=1, le=100_000, description="Passes over the training split.")
    batch_size: int = Field(
        default=64,
        ge=1,
        le=1_048_576,
        description="Rows in one step over ALL workers together: the result does not depend on their number.",
    )
    early_stopping: int = Field(
        default=24, ge=0, description="Epochs without a better validation metric after which training stops; 0 is off."
    )
    learning_rate: float = Field(default=2e-3, gt=0, le=100, description="Highest learning rate of the schedule.")
    weight_decay: float = Field(
        default=0.05, ge=0, le=10, description="Weight decay of the optimizer; biases and normalisation are spared."
    )
    ema_decay: float = Field(default=0.95, ge=0, lt=1, description="Decay of the average of weights that is kept as the model; 0 is off.")
    clip_norm: float = Field(default=5.0, ge=0, description="Largest norm of the whole gradient; 0 is off.")


class MlpClassifierConfig(ClassWeights, MlpConfig):
    """A multi-layer perceptron for classes."""
