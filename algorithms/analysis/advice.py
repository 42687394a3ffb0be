"""Advice in words: rules over the figures of an explained model, each a pure function that speaks or is silent.

A rule takes the figures of ``explain.json`` (``docs/explain.md`` lists them) and never looks at data. A figure that is absent makes it silent.
"""

from __future__ import annotations

from collections.abc import Callable

from algorithms.analysis import rules_data, rules_model, rules_training
from algorithms.analysis.advice_value import Advice, Figures

Rule = Callable[[Figures], Advice | None]
RULES: tuple[Rule, ...] = (
    rules_model.no_better_than_guessing,
    rules_data.leakage_suspected,
    rules_data.too_few_test_samples,
    rules_data.few_samples_in_a_class,
    rules_data.labels_look_wrong,
    rules_model.classes_confused,
    rules_model.weak_slice,
    rules_data.uneven_classes,
    rules_training.overfitting,
    rules_training.learning_rate_too_high,
    rules_training.learning_rate_too_low,
    rules_training.underfitting,
    rules_model.package_is_worse,
    rules_model.fragile,
    rules_model.scores_are_not_probabilities,
    rules_data.useless_columns,
)


def give_advice(figures: Figures) -> list[Advice]:
    """What the rules have to say: warnings first, each in the order of ``RULES``."""
    found = [advice for rule in RULES if (advice := rule(figures)) is not None]
    return sorted(found, key=lambda advice: advice.severity == "info")
