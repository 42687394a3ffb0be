"""Fitting one member: its models, and what they say about rows that they did not learn from."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from algorithms.run import Run
from algorithms.tables.ensemble import forest, kernel
from algorithms.tables.ensemble.dense import Dense, fit_dense
from algorithms.tables.ensemble.folds import ALWAYS_LEARNED, assign_folds
from algorithms.tables.ensemble.portfolio import KINDS, Member
from algorithms.tables.ensemble.selection import LEAST_SCORE, loss_of, true_score
from algorithms.tables.family import Family, Learning
from algorithms.tables.progress import Progress

CELLS_FOR_THREADS = 50_000
FORESTS = ("extra-trees", "random-forest")
POWERS = (1.0, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.1, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0)
"""1 first: of equal ones the first is taken."""


@dataclass(frozen=True)
class Rows:
    """All rows that an ensemble learns from, in both forms; see ``Learning`` for the parts."""

    raw: NDArray[np.float32]
    flat: NDArray[np.float32]
    dense: Dense
    labels: NDArray[Any]
    weights: NDArray[np.float64] | None
    num_classes: int
    threads: int
    target: str
    seed: int
    num_folds: int

    def __len__(self) -> int:
        return len(self.labels)

    def folds(self, repeat: int) -> NDArray[np.int64]:
        return assign_folds(self.labels, self.num_folds, self.seed + repeat, is_class=bool(self.num_classes))

    def learning(self, dense: bool, train: NDArray[np.bool_], valid: NDArray[np.bool_]) -> Learning:
        """Some rows to learn from, some to stop by."""
        matrix = self.flat if dense else self.raw
        weights = None if self.weights is None else self.weights[train]
        # On few numbers threads cost more than they bring, above all on a busy machine where they wait for each other.
        threads = self.threads if matrix.size >= CELLS_FOR_THREADS else 1
        return Learning(matrix[train], self.labels[train], matrix[valid], self.labels[valid], weights, self.num_classes, threads)


@dataclass(frozen=True)
class Bag:
    """A fitted member.

    Attributes:
        left_out: scores [N, C] or standardised numbers [N] by models that did not learn from the row.
        power: to which scores are raised (and made to sum to 1 again): above 1 for a member that is less sure than it may be.
    """

    member: Member
    models: list[Any]
    left_out: NDArray[np.float64]
    seconds: float
    power: float = 1.0

    @property
    def family(self) -> Family:
        return KINDS[self.member.kind].family

    @property
    def is_dense(self) -> bool:
        return KINDS[self.member.kind].dense

    def predict(self, raw: NDArray[np.float32], dense: NDArray[np.float32]) -> NDArray[np.float64]:
        """The mean of its models: scores [N, C], or standardised numbers [N]."""
        matrix = dense if self.is_dense else raw
        found: NDArray[np.float64] = np.mean([self.family.predict(model, matrix) for model in self.models], axis=0)
        return sharpen(found, self.power)


def sharpen(scores: NDArray[np.float64], power: float) -> NDArray[np.float64]:
    """Scores [N, C] raised to a power: a softmax with another temperature. Other values, and a power of 1, stay as they are."""
    if power == 1.0:
        return scores
    raised = (scores / scores.max(axis=1, keepdims=True)) ** power
    sharp: NDArray[np.float64] = raised / raised.sum(axis=1, keepdims=True)
    return sharp


def calibrated(bag: Bag, rows: Rows) -> Bag:
    """With the power that gives its left-out scores the lowest log loss (C. Guo et al., "On Calibration of Modern Neural Networks", 2017).

    Members of different kinds are unsure in different ways; only when each is calibrated can they be weighed by the log loss.
    """
    if not rows.num_classes:
        return bag
    seen = rows.folds(bag.member.repeat) != ALWAYS_LEARNED
    scores, labels = np.clip(bag.left_out[seen], LEAST_SCORE, 1.0), rows.labels[seen]
    weights = None if rows.weights is None else rows.weights[seen]

    def loss(power: float) -> float:
        return loss_of(true_score(sharpen(scores, power), labels), labels, weights, is_class=True)

    power = min(POWERS, key=loss)
    return replace(bag, power=power, left_out=sharpen(bag.left_out, power))


@dataclass
class TimedProgress(Progress):
    """Reports nothing, saves nothing, and ends boosting at a moment of ``time.monotonic``."""

    deadline: float = float("inf")

    def is_exhausted(self, patience: int) -> bool:
        return super().is_exhausted(patience) or (bool(self.rounds) and time.monotonic() > self.deadline)


def quiet(run: Run) -> Run:
    """The same run, of which nobody hears, and which has nothing saved."""
    return replace(run, spec=run.spec.model_copy(update={"checkpoints": ""}), report=lambda event: None)


def gather_rows(learning: Learning, weights: NDArray[np.float64] | None, target: str, seed: int, num_folds: int) -> Rows:
    """Training and valid rows together: cross-validation does what a valid split is for, and few rows are too few to be spared.

    Args:
        weights: of all rows, those of training first; or None.
    """
    raw = np.concatenate([learning.train, learning.valid])
    labels = np.concatenate([learning.train_labels, learning.valid_labels])
    dense = fit_dense(raw)
    return Rows(raw, dense.transform(raw), dense, labels, weights, learning.num_classes, learning.threads, target, seed, num_folds)


def fit_bag(member: Member, rows: Rows, run: Run, *, deadline: float, must: bool) -> Bag | None:
    """Fit a member; None if ``deadline`` (of ``time.monotonic``) comes before it is done.

    Args:
        must: finish it whatever the time, so that there is a model at all; boosting and forests still stop growing at the deadline.
    """
    begin = time.monotonic()
    kind, config = KINDS[member.kind], member.config(rows.target, rows.seed)
    everything = np.ones(len(rows), bool)
    is_forest = member.kind in FORESTS

    def fit(train: NDArray[np.bool_], valid: NDArray[np.bool_], until: float) -> Any:
        learning = rows.learning(kind.dense, train, valid)
        if is_forest:
            return forest.fit_forest(learning, config, extra=member.kind == "extra-trees", deadline=until, left_out=False)[0]
        return kind.family.fit(config, learning, TimedProgress(quiet(run), "", deadline=until))

    model: Any
    left_out: NDArray[np.float64] | None
    if kind.way == "left out" and (rows.weights is None or not is_forest):
        learning = rows.learning(kind.dense, everything, ~everything)
        if is_forest:
            model, left_out = forest.fit_forest(learning, config, extra=member.kind == "extra-trees", deadline=deadline, left_out=True)
        else:
            model, left_out = kernel.fit_left_out(learning, config.width, rows.folds(member.repeat))
        assert left_out is not None
        models: list[Any] = [model]
    else:
        fitted = _fit_folds(rows, member, fit, kind.dense, deadline, must)
        if fitted is None:
            return None
        models, left_out = fitted
        if kind.way != "folds":
            models = [fit(everything, ~everything, deadline)]
    return calibrated(Bag(member, models, left_out, time.monotonic() - begin), rows)


def _fit_folds(
    rows: Rows, member: Member, fit: Callable[..., Any], dense: bool, deadline: float, must: bool
) -> tuple[list[Any], NDArray[np.float64]] | None:
    folds = rows.folds(member.repeat)
    numbers = [int(number) for number in np.unique(folds) if number != ALWAYS_LEARNED]
    # A row that is always learned from gets no say in the selection (``ensemble.usable_rows``).
    left_out = np.full((len(rows), rows.num_classes), 1 / rows.num_classes) if rows.num_classes else np.zeros(len(rows))
    matrix = rows.flat if dense else rows.raw
    models: list[Any] = []
    longest = 0.0
    for done, number in enumerate(numbers):
        now = time.monotonic()
        if not must and now + longest * 0.8 > deadline:
            return None
        held = folds == number
        model = fit(~held, held, now + max(deadline - now, 0.0) / (len(numbers) - done))
        left_out[held] = KINDS[member.kind].family.predict(model, matrix[held])
        models.append(model)
        longest = max(longest, time.monotonic() - now)
    return models, left_out
