"""Distillation: one model learns what the ensemble says, from the real rows and from made ones that lie between them.

G. Hinton, O. Vinyals, J. Dean, "Distilling the Knowledge in a Neural Network", 2015: soft labels; R. Fakoor et al., "Fast, Accurate, and
Simple Models for Tabular Data via Augmented Distillation", NeurIPS 2020: made rows matter most for few real ones; C. Bucila, R. Caruana,
A. Niculescu-Mizil, "Model Compression", KDD 2006 (MUNGE): a made row takes each value from a real row or from that row's nearest neighbour.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from algorithms.metrics import classification_metrics, regression_metrics
from algorithms.run import Run
from algorithms.tables.config import EnsembleConfig
from algorithms.tables.ensemble import model as fitted
from algorithms.tables.ensemble.bags import Bag, Rows, TimedProgress, quiet
from algorithms.tables.ensemble.portfolio import KINDS, Member
from algorithms.tables.family import Learning

MADE_PER_ROW, MOST_MADE = 5, 50_000
SWAP_SHARE = 0.5
HARD_SHARE = 0.5
"""Of a real row's label; the rest is what the members that did not learn from the row say."""
LEAST_WEIGHT = 0.01
HELD_FOLD = 0
STUDENTS: dict[str, dict[str, Any]] = {
    "linear": {"regularization": 1.0},
    "random-forest": {"num_trees": 200},
    "lightgbm": {"min_samples_leaf": 5},
    "xgboost": {"max_depth": 5},
    "perceptron": {"epochs": 60},
}


def distil(
    config: EnsembleConfig, teacher: fitted.Ensemble, rows: Rows, left_out: NDArray[np.float64], usable: NDArray[np.bool_], run: Run
) -> tuple[Bag, dict[str, Any]]:
    """Train ``config.distill``'s kind of model on the ensemble's answers; the student, and how it compares on one fold held out.

    Args:
        left_out: the ensemble's predictions of rows that its members did not learn from, of all rows.
    """
    begin = time.monotonic()
    kind = KINDS[config.distill]
    member = Member(f"{config.distill}, distilled", config.distill, STUDENTS[config.distill])
    held = (rows.folds(0) == HELD_FOLD) & usable
    made = make_rows(rows.raw, rows.flat, np.random.default_rng(config.seed))
    soft = _soft_labels(rows, left_out, usable)
    made_soft = fitted.predict(teacher, made)

    def fit(train: NDArray[np.bool_], valid: NDArray[np.bool_]) -> Any:
        learning = _expand(rows, train, valid, soft, made, made_soft, dense=kind.dense)
        return kind.family.fit(member.config(config.target, config.seed), learning, TimedProgress(quiet(run), ""))

    student = fit(~held, held)
    matrix = rows.flat if kind.dense else rows.raw
    compared = {
        "student": _judge(kind.family.predict(student, matrix[held]), rows, held),
        "ensemble": _judge(left_out[held], rows, held),
    }
    if not _needs_valid(config.distill):
        everything = np.ones(len(rows), bool)
        student = fit(everything, ~everything)
    bag = Bag(member, [student], fitted.NOTHING, time.monotonic() - begin)
    told = {
        "kind": config.distill,
        "num_made": len(made),
        "num_held": int(held.sum()),
        "seconds": round(bag.seconds, 2),
        "num_parameters": kind.family.size(student),
        "ensemble_parameters": fitted.size(teacher),
        **compared,
    }
    return bag, told


def make_rows(raw: NDArray[np.float32], flat: NDArray[np.float32], random: np.random.Generator) -> NDArray[np.float32]:
    """Rows [M, F] that each mix a real row [N, F] with its nearest neighbour, value by value.

    Args:
        flat: the same rows without gaps and on one scale, in which neighbours are near.
    """
    from sklearn.neighbors import NearestNeighbors

    if len(raw) < 2:
        return raw[:0]
    num_made = min(MADE_PER_ROW * len(raw), MOST_MADE)
    chosen = random.permutation(len(raw))[:num_made]
    found = NearestNeighbors(n_neighbors=2).fit(flat).kneighbors(flat[chosen], return_distance=False)
    # A row's nearest is itself, or one that is equal.
    neighbours = np.where(found[:, 0] == chosen, found[:, 1], found[:, 0])
    repeats = -(-num_made // len(chosen))
    mine, other = np.tile(chosen, repeats)[:num_made], np.tile(neighbours, repeats)[:num_made]
    swapped: NDArray[np.float32] = np.where(random.random((num_made, raw.shape[1])) < SWAP_SHARE, raw[other], raw[mine])
    return swapped


def _needs_valid(kind: str) -> bool:
    """Whether a model of this kind is stopped by rows held out."""
    return kind in ("lightgbm", "xgboost")


def _soft_labels(rows: Rows, left_out: NDArray[np.float64], usable: NDArray[np.bool_]) -> NDArray[np.float64]:
    """What a student shall say of the real rows: scores [N, C], or numbers [N]."""
    hard = np.eye(rows.num_classes)[rows.labels] if rows.num_classes else np.asarray(rows.labels, np.float64)
    mixed = HARD_SHARE * hard + (1 - HARD_SHARE) * left_out
    return np.where(usable[:, None] if rows.num_classes else usable, mixed, hard)


def _expand(
    rows: Rows,
    train: NDArray[np.bool_],
    valid: NDArray[np.bool_],
    soft: NDArray[np.float64],
    made: NDArray[np.float32],
    made_soft: NDArray[np.float64],
    *,
    dense: bool,
) -> Learning:
    """Real and made rows. A soft label becomes one row a class with the score as weight: the weighted log loss is the soft cross-entropy."""
    matrix = rows.flat if dense else rows.raw
    learned = rows.learning(dense, train, valid)
    features = np.concatenate([matrix[train], rows.dense.transform(made) if dense else made])
    answers = np.concatenate([soft[train], made_soft])
    weights = np.concatenate([np.ones(int(train.sum())) if learned.weights is None else learned.weights, np.ones(len(made))])
    if not rows.num_classes:
        return Learning(features, answers, learned.valid, learned.valid_labels, weights, 0, rows.threads)
    row, label = np.nonzero(answers >= LEAST_WEIGHT)
    return Learning(
        features[row], label, learned.valid, learned.valid_labels, weights[row] * answers[row, label], rows.num_classes, rows.threads
    )


def _judge(found: NDArray[np.float64], rows: Rows, held: NDArray[np.bool_]) -> dict[str, float]:
    labels = rows.labels[held]
    if not rows.num_classes:
        return {"rmse": regression_metrics(labels, found)["rmse"]}
    metrics = classification_metrics(labels, found, [str(index) for index in range(rows.num_classes)])
    return {"accuracy": metrics["accuracy"], "log_loss": metrics["log_loss"]}
