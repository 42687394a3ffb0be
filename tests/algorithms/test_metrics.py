from __future__ import annotations

import json

import numpy as np
import pytest

from algorithms.metrics import classification_metrics, primary_metric, regression_metrics


def one_hot(labels: list[int], num_classes: int) -> np.ndarray:
    return np.eye(num_classes)[labels]


def test_binary_metrics_have_their_known_values() -> None:
    scores = np.array([[0.9, 0.1], [0.6, 0.4], [0.35, 0.65], [0.2, 0.8]])
    found = classification_metrics([0, 1, 0, 1], scores, ["no", "yes"])
    assert found["accuracy"] == 0.5
    assert found["auc"] == pytest.approx(0.75)
    assert found["confusion_matrix"] == [[1, 1], [1, 1]]
    assert found["log_loss"] == pytest.approx(-np.log([0.9, 0.4, 0.35, 0.8]).mean())
    assert found["per_class"]["yes"] == {"precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 2, "auc": pytest.approx(0.75)}


def test_metrics_agree_with_scikit_learn_on_many_classes() -> None:
    from sklearn import metrics

    random = np.random.default_rng(0)
    truth = random.integers(0, 5, 400)
    scores = random.dirichlet(np.ones(5), 400)
    scores[np.arange(400), truth] += 0.2
    scores /= scores.sum(axis=1, keepdims=True)
    predicted = scores.argmax(axis=1)
    found = classification_metrics(truth, scores, list("abcde"))
    assert found["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(truth, predicted))
    for average in ("macro", "weighted"):
        precision, recall, f1, _ = metrics.precision_recall_fscore_support(truth, predicted, average=average)
        assert found[f"precision_{average}"] == pytest.approx(precision)
        assert found[f"recall_{average}"] == pytest.approx(recall)
        assert found[f"f1_{average}"] == pytest.approx(f1)
    assert found["auc"] == pytest.approx(metrics.roc_auc_score(truth, scores, multi_class="ovr"))
    assert found["log_loss"] == pytest.approx(metrics.log_loss(truth, scores))
    assert found["confusion_matrix"] == metrics.confusion_matrix(truth, predicted).tolist()


def test_a_class_absent_from_the_samples_leaves_no_nan_behind() -> None:
    found = classification_metrics([0, 1, 1], one_hot([0, 1, 0], 4), list("abcd"))
    json.dumps(found, allow_nan=False)
    assert found["per_class"]["c"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0}
    assert found["balanced_accuracy"] == 0.75
    assert found["precision_macro"] == 0.75  # of a and b: c and d neither occur nor are predicted
    assert found["auc"] == pytest.approx(0.75)


def test_a_figure_that_is_not_defined_is_absent() -> None:
    found = classification_metrics([1, 1], one_hot([1, 1], 2), ["a", "b"])
    assert "auc" not in found
    assert found["accuracy"] == found["balanced_accuracy"] == 1.0
    assert found["log_loss"] == pytest.approx(0.0, abs=1e-6)
    broken = classification_metrics([0, 1], np.full((2, 2), np.nan), ["a", "b"])
    json.dumps(broken, allow_nan=False)
    assert "log_loss" not in broken


def test_a_wrong_certainty_costs_a_finite_log_loss() -> None:
    assert classification_metrics([0], one_hot([1], 2), ["a", "b"])["log_loss"] == pytest.approx(
        -np.log(np.finfo(np.float32).eps), rel=1e-3
    )


def test_regression_metrics_have_their_known_values() -> None:
    found = regression_metrics([1.0, 2.0, 3.0, 6.0], [1.0, 3.0, 3.0, 4.0])
    assert found == {
        "num_samples": 4,
        "rmse": pytest.approx(1.25**0.5),
        "mae": 0.75,
        "median_absolute_error": 0.5,
        "max_error": 2.0,
        "r2": pytest.approx(1 - 5 / 14),
    }


def test_r2_of_a_constant_target_is_absent() -> None:
    assert "r2" not in regression_metrics([2.0, 2.0], [1.0, 2.0])


@pytest.mark.parametrize(
    ("labels", "scores"),
    [([], np.zeros((0, 2))), ([0], np.zeros((1, 3))), ([2], np.zeros((1, 2)))],
    ids=["empty", "shape", "label out of range"],
)
def test_arrays_that_do_not_fit_are_refused(labels: list[int], scores: np.ndarray) -> None:
    with pytest.raises(ValueError):
        classification_metrics(labels, scores, ["a", "b"])


def test_regression_without_samples_is_refused() -> None:
    with pytest.raises(ValueError):
        regression_metrics([], [])


def test_the_primary_metric_follows_the_task() -> None:
    assert primary_metric("tabular-regression") == ("rmse", False)
    assert primary_metric("tabular-classification") == primary_metric("image-classification") == ("accuracy", True)
