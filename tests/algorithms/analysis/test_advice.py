"""Each rule of advice speaks where it should, and is silent where it should."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import Any

import pytest

from algorithms.analysis.advice import RULES, Rule, give_advice
from algorithms.analysis.advice_value import list_words
from algorithms.analysis.rules_training import summarise_history

TRAINING = {
    "num_epochs": 20,
    "best_epoch": 15,
    "stopped_early": False,
    "has_learning_rate": True,
    "train_loss_first": 2.0,
    "train_loss_last": 0.1,
    "rises": 0.1,
    "late_fall": 0.01,
    "least_valid_epoch": 15,
    "valid_loss_risen": 0.02,
    "train_loss_at_best": 0.2,
}
GOOD: dict[str, Any] = {
    "metric": {"name": "accuracy", "higher_is_better": True},
    "data": {"train_counts": {"cat": 200, "dog": 180}},
    "samples": {"test": {"used": 800, "total": 800}, "valid": {"used": 200, "total": 200}},
    "metrics": {"package": {"accuracy": 0.95, "balanced_accuracy": 0.95}, "trained": {"accuracy": 0.951}},
    "confused": [{"label": "cat", "prediction": "dog", "count": 12, "support": 400}],
    "training": TRAINING,
    "intervals": {"accuracy": {"value": 0.95, "low": 0.93, "high": 0.965}},
    "calibration": {"ece": 0.02, "confidence": 0.94, "accuracy": 0.95},
    "slices": [{"column": "site", "value": "north", "figure": 0.93, "count": 100, "rest": 0.955, "worse": False}],
    "robustness": [
        {"kind": "noise", "level": 0.05, "unit": "of the brightness range", "figure": 0.94, "undisturbed": 0.95},
        {"kind": "noise", "level": 0.2, "unit": "of the brightness range", "figure": 0.5, "undisturbed": 0.95},
    ],
    "importance": {
        "permutation": [
            {"column": "age", "mean": 0.5, "std": 0.05},
            {"column": "size", "mean": 0.3, "std": 0.05},
            {"column": "kind", "mean": 0.1, "std": 0.05},
        ]
    },
    "label_errors": {"count": 2, "looked_at": 1000, "samples": [{"id": "a"}]},
    "leaks": {"columns": []},
}
SMALL = {"intervals": {"accuracy": {"value": 0.9, "low": 0.75, "high": 0.98}}, "samples": {"test": {"used": 30, "total": 30}}}
GUESSED = {"intervals": {"accuracy": {"value": 0.5, "low": 0.214, "high": 0.714}}}
SPEAKS: dict[str, list[tuple[Mapping[str, Any], str]]] = {
    "few_samples_in_a_class": [({"data": {"train_counts": {"cat": 200, "dog": 7}}}, r"dog \(7\)")],
    "uneven_classes": [
        (
            {"data": {"train_counts": {"cat": 900, "dog": 30}}, "metrics": {"package": {"accuracy": 0.95, "balanced_accuracy": 0.7}}},
            "cat has 30 times",
        )
    ],
    "leakage_suspected": [
        ({"leaks": {"columns": ["diagnosis_code"]}}, "'diagnosis_code' determines the target"),
        (
            {
                "metrics": {"package": {"accuracy": 0.999}},
                "importance": {"permutation": [{"column": c, "mean": m, "std": 0.0} for c, m in (("id", 3.0), ("a", 0.1), ("b", 0.0))]},
            },
            "'id' carries 97%",
        ),
    ],
    "too_few_test_samples": [
        (SMALL, "0.75 to 0.98"),
        ({"metric": {"name": "rmse"}, "intervals": {"rmse": {"value": 10.0, "low": 6.0, "high": 15.0}}}, "rmse 10 may be"),
    ],
    "no_better_than_guessing": [
        (GUESSED, "accuracy 0.500 .0.214 to 0.714., and 0.526 for always cat"),
        ({"intervals": {"rmse": {"value": 9.0, "low": 8.0, "high": 9.5}}, "metrics": {"package": {"r2": -0.02}}}, "R2 is -0.020"),
    ],
    "labels_look_wrong": [({"label_errors": {"count": 20, "looked_at": 1000, "samples": [{"id": "x/1.png"}]}}, "20 of 1000.*x/1.png")],
    "useless_columns": [
        (
            {
                "importance": {
                    "permutation": [{"column": c, "mean": m, "std": 0.0} for c, m in (("age", 0.5), ("size", 0.2), ("noise", 0.0))]
                }
            },
            "1 of 3 columns.*noise",
        )
    ],
    "classes_confused": [
        ({"confused": [{"label": "cat", "prediction": "dog", "count": 12, "support": 50}]}, "cat is taken for dog in 12 of 50")
    ],
    "weak_slice": [
        ({"slices": [{**GOOD["slices"][0], "figure": 0.7, "worse": True}]}, r"site north \(accuracy 0.7 on 100, 0.955 elsewhere\)")
    ],
    "fragile": [({"robustness": [{**GOOD["robustness"][0], "figure": 0.6}]}, "noise of 0.05 of the brightness range lowers")],
    "package_is_worse": [({"metrics": {"package": {"accuracy": 0.9}, "trained": {"accuracy": 0.93}}}, "0.9000 instead of 0.9300")],
    "scores_are_not_probabilities": [({"calibration": {"ece": 0.2, "confidence": 0.98, "accuracy": 0.78}}, "surer than it is right")],
    "overfitting": [({"training": {**TRAINING, "valid_loss_risen": 0.4}}, "since epoch 15 .* risen by 40%")],
    "underfitting": [({"training": {**TRAINING, "best_epoch": 20, "late_fall": 0.1}}, "still fell by 10%")],
    "learning_rate_too_high": [
        ({"training": {**TRAINING, "rises": 0.5}}, "rose in 50%"),
        ({"training": {**TRAINING, "train_loss_last": 3.0}}, "from 2 to 3"),
    ],
    "learning_rate_too_low": [({"training": {**TRAINING, "train_loss_last": 1.9}}, "fell by only 5%")],
}
SILENT: dict[str, list[Mapping[str, Any]]] = {
    "uneven_classes": [{"data": {"train_counts": {"cat": 900, "dog": 30}}}],  # and yet the rare class is found
    "too_few_test_samples": [{**SMALL, "samples": {"test": {"used": 30, "total": 3000}}}],  # only a sample was looked at
    "no_better_than_guessing": [
        {"metrics": {"package": {"r2": 0.4}}, "intervals": {}},
        {"intervals": {**GUESSED["intervals"], "balanced_accuracy": {"value": 0.7, "low": 0.6, "high": 0.8}}},  # it finds the rare class
    ],
    "labels_look_wrong": [
        {"label_errors": {"count": 5, "looked_at": 10_000, "samples": [{"id": "a"}]}},
        {
            "label_errors": {"count": 20, "looked_at": 1000, "samples": [{"id": "a"}]},
            **GUESSED,
        },  # a model that knows nothing suspects at random
    ],
    "leakage_suspected": [{"metrics": {"package": {"accuracy": 0.999}}}],  # a good model with several columns
    "overfitting": [{"training": {**TRAINING, "valid_loss_risen": 0.4, "train_loss_last": 0.5}}],  # the training loss rose, too
    "underfitting": [{"training": {**TRAINING, "best_epoch": 20, "late_fall": 0.1, "stopped_early": True}}, {"training": {}}],
    "learning_rate_too_high": [{"training": {**TRAINING, "rises": 0.5, "has_learning_rate": False}}],
    "learning_rate_too_low": [{"training": {**TRAINING, "train_loss_last": 1.9, "num_epochs": 2}}],
    "scores_are_not_probabilities": [{"calibration": {"ece": 0.2}, "samples": {"test": {"used": 30}}}],
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_rule_speaks_and_is_silent(rule: Rule) -> None:
    name = rule.__name__
    assert SPEAKS[name], "a rule needs an example where it speaks"
    for change, words in SPEAKS[name]:
        advice = rule({**copy.deepcopy(GOOD), **change})
        assert advice is not None
        assert re.search(words, advice.text), advice.text
        assert advice.text.endswith(".")
        assert advice.rule == advice.rule.lower()
    assert rule(GOOD) is None
    assert rule({}) is None, "a figure that is absent makes a rule silent"
    for change in SILENT.get(name, []):
        assert rule({**copy.deepcopy(GOOD), **change}) is None


def test_a_good_model_gets_no_advice_and_warnings_come_first() -> None:
    assert give_advice(GOOD) == []
    bad = {**GOOD, "training": {**TRAINING, "best_epoch": 20, "late_fall": 0.1}, "data": {"train_counts": {"cat": 3}}}
    assert [advice.severity for advice in give_advice(bad)] == ["warning", "info"]
    assert len({advice.rule for advice in give_advice(bad)}) == 2


def test_names_of_rules_are_their_own() -> None:
    assert len({rule.__name__ for rule in RULES}) == len(RULES) == len(SPEAKS)


def test_words_make_a_list() -> None:
    assert [list_words(["a"]), list_words(["a", "b"]), list_words(["a", "b", "c"])] == ["a", "a and b", "a, b and c"]


def test_a_history_is_summarised() -> None:
    epochs = [
        {"epoch": n + 1, "train_loss": loss, "valid_loss": 1 + abs(n - 4) / 10, "learning_rate": 0.1}
        for n, loss in enumerate(range(20, 0, -2))
    ]
    found = summarise_history({"epochs": epochs, "best_epoch": 5, "metric": "accuracy"})
    assert found["num_epochs"] == 10
    assert (found["train_loss_first"], found["train_loss_last"], found["rises"]) == (20, 2, 0)
    assert found["late_fall"] == pytest.approx(0.5)
    assert (found["least_valid_epoch"], found["train_loss_at_best"]) == (5, 12)
    assert found["valid_loss_risen"] == pytest.approx(0.5)
    assert found["has_learning_rate"]
    without = summarise_history({"epochs": [{"epoch": n, "train_loss": 1.0} for n in range(1, 4)]})
    assert "valid_loss_risen" not in without
    assert not without["has_learning_rate"]
    assert summarise_history({"epochs": [{"epoch": 1, "valid_loss": 1.0}]}) == {}
