"""What an ensemble is made of: the kinds of members, and their configurations in the order in which they are tried.

A fixed portfolio instead of a search, as in AutoGluon-Tabular (N. Erickson et al., 2020): one good configuration of each kind first, then
others that differ from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from algorithms.spec import Config
from algorithms.tables import config as presets
from algorithms.tables.ensemble import kernel, perceptron
from algorithms.tables.family import Family
from algorithms.tables.lightgbm_trees import LIGHTGBM
from algorithms.tables.linear import LINEAR
from algorithms.tables.random_forest import RANDOM_FOREST
from algorithms.tables.xgboost_trees import XGBOOST


class KernelConfig(Config):
    """Options of a kernel member."""

    width: float = Field(default=1.0, gt=0, description="Of the Gaussian, as a share of the median distance between two rows.")


class PerceptronConfig(Config):
    """Options of a perceptron member."""

    hidden: tuple[int, ...] = Field(default=(128,), description="Width of each hidden layer.")
    penalty: float = Field(default=1e-2, ge=0, description="L2 penalty on the weights.")
    epochs: int = Field(default=100, ge=1, description="Passes over the rows.")


@dataclass(frozen=True)
class Kind:
    """How members of a kind are fitted.

    Attributes:
        family: the functions that fit, keep, predict and export one model.
        config_type: its options.
        dense: it learns from the matrix without gaps (``ensemble.dense``).
        way: how it comes by predictions of rows that it did not learn from, and what is kept:
            ``folds``: one model a fold; their average is kept.
            ``refit``: one model a fold, for the predictions alone; then one of all rows is kept.
            ``left out``: one model of all rows, which knows its left-out predictions (bootstrap, or in closed form); forests of weighted
                rows are fitted as ``refit``.
        most_rows: with more rows it is not tried.
    """

    family: Family
    config_type: type[Config]
    dense: bool
    way: Literal["folds", "refit", "left out"]
    most_rows: int = 2**62


KINDS: dict[str, Kind] = {
    "linear": Kind(LINEAR, presets.LinearConfig, True, "refit"),
    "kernel": Kind(kernel.KERNEL, KernelConfig, True, "left out", kernel.MOST_ROWS),
    "extra-trees": Kind(RANDOM_FOREST, presets.RandomForestConfig, False, "left out"),
    "random-forest": Kind(RANDOM_FOREST, presets.RandomForestConfig, False, "left out"),
    "lightgbm": Kind(LIGHTGBM, presets.LightGBMConfig, False, "folds"),
    "xgboost": Kind(XGBOOST, presets.XGBoostConfig, False, "folds"),
    "perceptron": Kind(perceptron.PERCEPTRON, PerceptronConfig, True, "folds", perceptron.MOST_ROWS),
}


@dataclass(frozen=True)
class Member:
    """One configuration, to be fitted: ``name`` is unique, ``repeat`` says with which folds."""

    name: str
    kind: str
    options: Mapping[str, Any]
    repeat: int = 0

    def config(self, target: str, seed: int) -> Any:
        """The options, checked by the kind's config type; each repeat has a seed of its own."""
        config_type = KINDS[self.kind].config_type
        target_option = {"target": target} if "target" in config_type.model_fields else {}
        return config_type(**target_option, seed=(seed + 7919 * self.repeat) % 2**31, **self.options)


MANY_ROWS = 50_000
"""With more rows boosting comes first: it learns most in a short time."""
_SMALL = {"min_samples_leaf": 5}
_ORDER: Sequence[tuple[str, Mapping[str, Any]]] = (
    ("extra-trees", {"num_trees": 300}),
    ("linear", {"regularization": 1.0}),
    ("kernel", {"width": 1.0}),
    ("lightgbm", {"min_samples_leaf": 10}),
    ("xgboost", {"max_depth": 4}),
    ("random-forest", {"num_trees": 300}),
    ("perceptron", {}),
    ("linear", {"regularization": 10.0}),
    ("kernel", {"width": 0.5}),
    ("kernel", {"width": 2.0}),
    ("extra-trees", {"num_trees": 300, "feature_share": 1.0}),
    ("linear", {"regularization": 100.0}),
    ("lightgbm", {"num_leaves": 7, **_SMALL, "feature_share": 0.4}),
    ("xgboost", {"max_depth": 2, "feature_share": 0.5, "row_share": 0.7}),
    ("perceptron", {"hidden": (64, 64), "penalty": 1.0}),
    ("linear", {"regularization": 0.1}),
    ("random-forest", {"num_trees": 300, "min_samples_leaf": 4}),
    ("extra-trees", {"num_trees": 300, "min_samples_leaf": 4}),
    ("kernel", {"width": 4.0}),
    ("lightgbm", {"num_leaves": 63, **_SMALL, "learning_rate": 0.03, "row_share": 0.7, "feature_share": 0.5}),
    ("xgboost", {"max_depth": 8, "learning_rate": 0.03, "feature_share": 0.5, "row_share": 0.7, "l2": 5.0}),
)
_ONLY_NUMBERS: Sequence[tuple[str, Mapping[str, Any]]] = (
    ("linear", {"regularization": 10.0, "l1_ratio": 1.0}),
    ("linear", {"regularization": 50.0, "l1_ratio": 1.0}),
)


def list_members(kinds: Sequence[str], *, num_rows: int, num_classes: int, repeats: int) -> list[Member]:
    """Every configuration of ``kinds`` that ``num_rows`` allow, in order; then again, those whose folds differ, for each repeat.

    Args:
        num_classes: 0 for numbers.
    """
    wanted = [entry for entry in (*_ORDER, *(() if num_classes else _ONLY_NUMBERS)) if entry[0] in kinds]
    if num_rows > MANY_ROWS:
        wanted.sort(key=lambda entry: entry[0] != "lightgbm")
    seen: dict[str, int] = {}
    members = []
    for kind, options in wanted:
        seen[kind] = seen.get(kind, 0) + 1
        if num_rows <= KINDS[kind].most_rows:
            members.append(Member(f"{kind} {seen[kind]}", kind, options))
    again = [one for one in members if KINDS[one.kind].way == "folds"]
    return members + [Member(f"{one.name}, repeat {n}", one.kind, one.options, n) for n in range(1, repeats) for one in again]
