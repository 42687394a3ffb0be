"""Rules about what the model does well and badly; see ``algorithms.analysis.advice``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from algorithms.analysis.advice_value import Advice, Figures, list_words

CONFUSED_SHARE = 0.1
CONFUSED_TIMES = 3
UNCALIBRATED = 0.08
FRAGILE_DROP = 0.1
PACKAGE_WORSE = 0.01


def no_better_than_guessing(figures: Figures) -> Advice | None:
    """Accuracy and balanced accuracy may be those of always naming the most frequent class; or the error is that of the mean."""
    counts: dict[str, int] = figures.get("data", {}).get("train_counts", {})
    intervals = figures.get("intervals", {})
    interval, balanced = intervals.get("accuracy"), intervals.get("balanced_accuracy")
    explained = figures.get("metrics", {}).get("package", {}).get("r2")
    if interval is not None and len(counts) > 1:
        frequent = max(counts, key=lambda name: counts[name])
        guessed = counts[frequent] / sum(counts.values())
        if interval["low"] > guessed or (balanced is not None and balanced["low"] > 1 / len(counts)):
            return None
        told = (
            f"accuracy {interval['value']:.3f} ({interval['low']:.3f} to {interval['high']:.3f}), and {guessed:.3f} for always {frequent}"
        )
    elif explained is not None and explained <= 0:
        told = f"R2 is {explained:.3f}, and always giving the mean would have 0"
    else:
        return None
    return Advice(
        rule="no-better-than-guessing",
        severity="warning",
        text=f"The model may be no better than guessing: {told}. Do not use it. Train longer or with another learning rate, look at "
        "samples and their labels, and check that the inputs say anything about the target.",
    )


def classes_confused(figures: Figures) -> Advice | None:
    """A class is taken for another in ``CONFUSED_SHARE`` of its samples or more, and at least ``CONFUSED_TIMES``."""
    pairs = [
        pair
        for pair in figures.get("confused", [])
        if pair["count"] >= CONFUSED_TIMES and pair["count"] / pair["support"] >= CONFUSED_SHARE
    ]
    if not pairs:
        return None
    told = list_words([f"{pair['label']} is taken for {pair['prediction']} in {pair['count']} of {pair['support']}" for pair in pairs[:3]])
    return Advice(
        rule="classes-confused",
        severity="warning",
        text=f"Confused classes: {told} test samples. Look at these samples: are the labels right, can a person tell them apart at the size that "
        "the model sees? Then collect more of both, or merge the classes.",
    )


def scores_are_not_probabilities(figures: Figures) -> Advice | None:
    """The expected calibration error on the test split is above ``UNCALIBRATED``."""
    calibration = figures.get("calibration", {})
    used = figures.get("samples", {}).get("test", {}).get("used", 0)
    if calibration.get("ece", 0.0) <= UNCALIBRATED or used < 100:
        return None
    means = calibration.get("confidence", 0.0), calibration.get("accuracy", 0.0)
    direction = "surer than it is right" if means[0] > means[1] else "less sure than it is right"
    return Advice(
        rule="scores-are-not-probabilities",
        severity="info",
        text=f"The scores are no probabilities: on average the model is {direction} (mean score {means[0]:.3f}, right {means[1]:.3f}, calibration "
        f"error {calibration['ece']:.3f}). Do not use a score as a probability; more valid samples let the scaling of the scores work better.",
    )


def weak_slice(figures: Figures) -> Advice | None:
    """A part of the samples is judged worse than the rest by more than chance explains."""
    worse = [entry for entry in figures.get("slices", []) if entry["worse"]]
    if not worse:
        return None
    name = figures.get("metric", {}).get("name", "figure")
    told = list_words(
        [f"{one['column']} {one['value']} ({name} {one['figure']:.3g} on {one['count']}, {one['rest']:.3g} elsewhere)" for one in worse[:3]]
    )
    return Advice(
        rule="weak-slice",
        severity="warning",
        text=f"Weaker than elsewhere, beyond chance: {told}. Collect more such samples, or do not use the model there.",
    )


def fragile(figures: Figures) -> Advice | None:
    """The mildest level of a disturbance costs more than ``FRAGILE_DROP`` of the accuracy."""
    mildest: dict[str, Mapping[str, Any]] = {}
    for entry in figures.get("robustness", []):
        mildest.setdefault(entry["kind"], entry)
    if figures.get("metric", {}).get("name") != "accuracy":
        return None
    hurt = [entry for entry in mildest.values() if entry["undisturbed"] - entry["figure"] > FRAGILE_DROP]
    if not hurt:
        return None
    told = list_words(
        [
            f"{one['kind']} of {one['level']:g} {one['unit']} lowers accuracy from {one['undisturbed']:.3f} to {one['figure']:.3f}"
            for one in hurt
        ]
    )
    return Advice(
        rule="fragile",
        severity="info",
        text=f"Sensitive input: {told}. If such input occurs where the model is used, train with augmentation that looks like it.",
    )


def package_is_worse(figures: Figures) -> Advice | None:
    """What ships is less accurate than the trained model by more than ``PACKAGE_WORSE``."""
    scores = figures.get("metrics", {})
    package, trained = scores.get("package", {}).get("accuracy"), scores.get("trained", {}).get("accuracy")
    if package is None or trained is None or trained - package <= PACKAGE_WORSE:
        return None
    return Advice(
        rule="package-is-worse",
        severity="warning",
        text=f"The package is less accurate than the trained model: {package:.4f} instead of {trained:.4f}. "
        "If that matters more than size and speed, compress less.",
    )
