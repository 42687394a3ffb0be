"""What can be done to make the estimators smaller and faster, told from their options alone."""

from __future__ import annotations

from typing import Any

from algorithms.compression.recipes import Compressible
from algorithms.tables.config import LightGBMConfig, RandomForestConfig, XGBoostConfig

_MOST_LEAVES = 64


def tell_compressible(config: Any) -> Compressible:
    """Trees: fewer of them, or smaller ones; a linear model is as small as it gets."""
    if isinstance(config, XGBoostConfig):
        return Compressible(trees=True, student={"max_depth": max(1, config.max_depth // 2)})
    if isinstance(config, LightGBMConfig):
        return Compressible(trees=True, student={"num_leaves": max(2, config.num_leaves // 3)})
    if isinstance(config, RandomForestConfig):
        return Compressible(trees=True, student={"max_leaves": min(_MOST_LEAVES, max(2, config.max_leaves // 2))})
    return Compressible()
