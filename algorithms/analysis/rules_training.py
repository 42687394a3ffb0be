"""Rules about how the training went; see ``algorithms.analysis.advice``."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from algorithms.analysis.advice_value import Advice, Figures

RISEN = 0.15
STILL_FALLING = 0.03
HARDLY_FALLEN = 0.15
UNSTEADY = 0.35


def overfitting(figures: Figures) -> Advice | None:
    """The loss on the valid split rose by ``RISEN`` above its least while the training loss kept falling."""
    training = figures.get("training", {})
    if "valid_loss_risen" not in training or training["num_epochs"] < 5:
        return None
    if training["valid_loss_risen"] < RISEN or training["train_loss_last"] >= training["train_loss_at_best"]:
        return None
    return Advice(
        rule="overfitting",
        severity="warning",
        text=f"Overfitting: since epoch {training['least_valid_epoch']} the loss on the valid split has risen by {training['valid_loss_risen']:.0%} "
        "while the training loss went on falling. The best epoch was kept; more data, augmentation, more weight decay or dropout, "
        "a smaller model or fewer epochs would help.",
    )


def underfitting(figures: Figures) -> Advice | None:
    """The loss was still falling when training ended: by ``STILL_FALLING`` in the last tenth of the epochs."""
    training = figures.get("training", {})
    if training.get("num_epochs", 0) < 5 or training.get("stopped_early") or "late_fall" not in training:
        return None
    near_the_end = training.get("best_epoch", 0) >= 0.9 * training["num_epochs"]
    if training["late_fall"] < STILL_FALLING or not near_the_end or training.get("valid_loss_risen", 0.0) > STILL_FALLING:
        return None
    return Advice(
        rule="underfitting",
        severity="info",
        text=f"Not learned to the end: the loss still fell by {training['late_fall']:.0%} in the last tenth of the training. "
        "Train longer (more epochs or rounds), or use a larger model.",
    )


def learning_rate_too_high(figures: Figures) -> Advice | None:
    """The training loss rose in more than ``UNSTEADY`` of the epochs, or ended above its start."""
    training = figures.get("training", {})
    if training.get("num_epochs", 0) < 5 or not training.get("has_learning_rate"):
        return None
    if training["rises"] <= UNSTEADY and training["train_loss_last"] <= training["train_loss_first"]:
        return None
    return Advice(
        rule="learning-rate-too-high",
        severity="warning",
        text=f"The training loss jumps: it rose in {training['rises']:.0%} of the epochs (from {training['train_loss_first']:.3g} to "
        f"{training['train_loss_last']:.3g}). The learning rate is probably too high: try a third of it, or more warm-up.",
    )


def learning_rate_too_low(figures: Figures) -> Advice | None:
    """The training loss fell steadily, but by less than ``HARDLY_FALLEN`` in the whole training."""
    training = figures.get("training", {})
    if training.get("num_epochs", 0) < 5 or not training.get("has_learning_rate") or training["train_loss_first"] <= 0:
        return None
    fallen = 1 - training["train_loss_last"] / training["train_loss_first"]
    if training["rises"] > UNSTEADY or not 0 < fallen < HARDLY_FALLEN:
        return None
    return Advice(
        rule="learning-rate-too-low",
        severity="warning",
        text=f"The training loss fell by only {fallen:.0%} in {training['num_epochs']} epochs. The learning rate is probably too low: try three "
        "times as much; or the inputs say little about the target.",
    )


def summarise_history(history: Mapping[str, Any]) -> dict[str, Any]:
    """What the rules need of ``history.json``; empty without two epochs that have a training loss.

    Returns:
        ``num_epochs``, ``best_epoch``, ``stopped_early``, ``has_learning_rate``, ``train_loss_first``, ``train_loss_last``, ``rises`` (share of
        epochs after which the training loss was higher than before), ``late_fall`` (share of the loss that the last tenth of the epochs took
        off), and with a valid split ``least_valid_epoch``, ``valid_loss_risen`` (last over least, minus 1), ``train_loss_at_best``.
    """
    entries = [entry for entry in history.get("epochs", []) if entry.get("train_loss") is not None]
    if len(entries) < 2:
        return {}
    losses = [float(entry["train_loss"]) for entry in entries]
    steps = list(itertools.pairwise(losses))
    ago = losses[-1 - max(1, round(len(losses) / 10))]
    found: dict[str, Any] = {
        "num_epochs": int(entries[-1]["epoch"]),
        "best_epoch": history.get("best_epoch") or 0,
        "stopped_early": bool(history.get("stopped_early")),
        "has_learning_rate": any("learning_rate" in entry for entry in entries),
        "train_loss_first": losses[0],
        "train_loss_last": losses[-1],
        "rises": sum(after > before * 1.001 for before, after in steps) / len(steps),
        "late_fall": max(0.0, 1 - losses[-1] / ago) if ago > 0 else 0.0,
    }
    valid = [(float(entry["valid_loss"]), entry) for entry in entries if entry.get("valid_loss") is not None]
    if len(valid) == len(entries):
        least, at = min(valid, key=lambda pair: pair[0])
        found |= {
            "least_valid_epoch": int(at["epoch"]),
            "valid_loss_risen": valid[-1][0] / least - 1 if least > 0 else 0.0,
            "train_loss_at_best": float(at["train_loss"]),
        }
    return found
