"""What a table must look like before one of the presets learns from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from algorithms.expectations import table_expectations
from algorithms.tables.target import check_columns

if TYPE_CHECKING:
    from algorithms.spec import Expectation
    from algorithms.tables.config import TableConfig
    from infra.datasets.card import Card


def list_expectations(config: TableConfig, card: Card, *, regression: bool) -> list[Expectation]:
    """The standard expectations of tables, for the columns that are used.

    Raises:
        InvalidOptionError: the options do not fit the table; all faults at once.
    """
    check_columns(config, card, regression=regression)
    used = [
        feature
        for feature in card.features
        if feature.name == config.target or (feature.name not in config.drop and (not config.features or feature.name in config.features))
    ]
    return table_expectations(card.model_copy(update={"features": used}), config.target, regression)
