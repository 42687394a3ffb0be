"""The ensemble as a family of the estimator engine: fit members until the time is used, weigh them, perhaps distil them into one."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from algorithms.metrics import classification_metrics, regression_metrics
from algorithms.tables.config import EnsembleConfig
from algorithms.tables.ensemble import model as fitted
from algorithms.tables.ensemble.bags import Bag, Rows, fit_bag, gather_rows
from algorithms.tables.ensemble.checkpoints import Checkpoints
from algorithms.tables.ensemble.distill import distil
from algorithms.tables.ensemble.folds import ALWAYS_LEARNED
from algorithms.tables.ensemble.model import Ensemble
from algorithms.tables.ensemble.portfolio import list_members
from algorithms.tables.ensemble.selection import blend, loss_of, select_weights, true_score
from algorithms.tables.family import Family, Learning, balanced_weights
from algorithms.tables.progress import Progress

KEPT_BACK = 0.05
"""Share of the time for what comes after the last member: weights, and saving."""
MOST_OF_REST = 1 / 3
"""Share of the remaining time that one member may take."""


@dataclass
class Clock:
    """The time limit, less what earlier attempts used."""

    limit_s: float
    begin: float = field(default_factory=time.monotonic)

    @property
    def end(self) -> float:
        return self.begin + self.limit_s * (1 - KEPT_BACK)

    @property
    def left_s(self) -> float:
        return max(self.end - time.monotonic(), 0.0)

    def charge(self, seconds: float) -> None:
        """Count time that an earlier attempt spent."""
        self.begin -= seconds


def fit(config: EnsembleConfig, learning: Learning, progress: Progress) -> Ensemble:
    """Fit members in their order until all are done or the time is used, and weigh them by their left-out predictions.

    The result depends on the seed and on which members were done in time; if all were, on the seed alone.
    """
    clock = Clock(config.time_limit_s)
    labels = np.concatenate([learning.train_labels, learning.valid_labels])
    balanced = learning.num_classes and getattr(config, "class_weights", "none") == "balanced"
    weights = balanced_weights(labels, learning.num_classes) if balanced else None
    rows = gather_rows(learning, weights, config.target, config.seed, config.folds)
    bags = _fit_members(config, rows, clock, progress)
    usable = usable_rows(rows)
    shares = _weigh(bags, rows, usable)
    board: dict[str, Any] = {
        "members": _board(bags, shares, rows, usable),
        "left_out": _judge(blend([bag.left_out for bag in bags], shares), rows, usable),
    }
    board |= {
        "num_rows": len(rows),
        "folds": config.folds,
        "seconds": round(time.monotonic() - clock.begin, 2),
        "time_limit_s": config.time_limit_s,
    }
    kept = [index for index, share in enumerate(shares) if share > 0]
    ensemble = Ensemble([bags[index] for index in kept], shares[kept], rows.dense, rows.num_classes, board)
    progress.best_round = len(progress.rounds)
    said = f"{len(kept)} of {len(bags)} members have a weight"
    if config.distill == "none":
        progress.run.report({"kind": "log", "message": f"The ensemble took {board['seconds']:.0f} s; {said}."})
        return ensemble
    left_out = blend([bag.left_out for bag in bags], shares)
    student, told = distil(config, ensemble, rows, left_out, usable, progress.run)
    progress.run.report(
        {"kind": "log", "message": f"The ensemble took {board['seconds']:.0f} s; {said}; distilled into {student.member.kind}."}
    )
    return Ensemble([student], np.ones(1), rows.dense, rows.num_classes, {**board, "distilled": told})


def _fit_members(config: EnsembleConfig, rows: Rows, clock: Clock, progress: Progress) -> list[Bag]:
    members = list_members(config.members, num_rows=len(rows), num_classes=rows.num_classes, repeats=config.repeats)
    checkpoints = Checkpoints(progress.run)
    usable = usable_rows(rows)
    bags: list[Bag] = []
    took: dict[str, float] = {}
    for member in members:
        bag = checkpoints.load(member, rows.threads)
        if bag is not None:
            clock.charge(bag.seconds)
        elif not bags or took.get(member.kind, 0.0) <= clock.left_s > 0:
            bag = _fit_in_time(member, rows, clock, progress, must=not bags)
            if bag is not None:
                checkpoints.save(bag)
        if bag is None:
            continue
        bags.append(bag)
        took[member.kind] = bag.seconds
        blended = blend([one.left_out for one in bags], _weigh(bags, rows, usable))
        progress.add(len(members), **_judge(blended, rows, usable, prefix="valid_"))
    return bags


def _fit_in_time(member: Any, rows: Rows, clock: Clock, progress: Progress, *, must: bool) -> Bag | None:
    now = time.monotonic()
    return fit_bag(member, rows, progress.run, deadline=min(clock.end, now + max(clock.left_s * MOST_OF_REST, 1.0)), must=must)


def usable_rows(rows: Rows) -> NDArray[np.bool_]:
    """Rows that every member has predicted without having learned from them."""
    return rows.folds(0) != ALWAYS_LEARNED


def _weigh(bags: list[Bag], rows: Rows, usable: NDArray[np.bool_]) -> NDArray[np.float64]:
    weights = None if rows.weights is None else rows.weights[usable]
    return select_weights([bag.left_out[usable] for bag in bags], rows.labels[usable], weights)


def _judge(left_out: NDArray[np.float64], rows: Rows, usable: NDArray[np.bool_], prefix: str = "") -> dict[str, float]:
    """``loss``, and ``accuracy`` or ``rmse`` (of standardised numbers)."""
    labels, found = rows.labels[usable], left_out[usable]
    weights = None if rows.weights is None else rows.weights[usable]
    loss = loss_of(true_score(found, labels), labels, weights, is_class=bool(rows.num_classes))
    if not rows.num_classes:
        return {f"{prefix}loss": loss, f"{prefix}rmse": regression_metrics(labels, found)["rmse"]}
    metrics = classification_metrics(labels, found, [str(index) for index in range(rows.num_classes)])
    return {f"{prefix}loss": loss, f"{prefix}accuracy": metrics["accuracy"]}


def _board(bags: list[Bag], shares: NDArray[np.float64], rows: Rows, usable: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """What was tried, in the order of trying."""
    return [
        {
            **fitted.describe_member(bag.member),
            "weight": float(share),
            "seconds": round(bag.seconds, 3),
            "num_models": len(bag.models),
            "num_parameters": sum(bag.family.size(one) for one in bag.models),
            **_judge(bag.left_out, rows, usable),
        }
        for bag, share in zip(bags, shares, strict=True)
    ]


ENSEMBLE = Family(
    keep_nan=True,
    scaled=False,
    fit=fit,
    save=fitted.save,
    load=fitted.load,
    predict=fitted.predict,
    importance=fitted.importance,
    size=fitted.size,
    head=fitted.head,
)
