"""The fitted ensemble: how it is kept, how it predicts, and how it becomes one graph."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from algorithms.tables.ensemble.bags import Bag
from algorithms.tables.ensemble.dense import Dense, load_dense
from algorithms.tables.ensemble.portfolio import KINDS, Member
from algorithms.tables.graph import GraphBuilder, Head

FILE = "ensemble.json"
NOTHING = np.zeros(0)


@dataclass(frozen=True)
class Ensemble:
    """Members and their weights; or, distilled, the one student that took their place (with weight 1).

    ``board`` tells what was tried and found, JSON: see ``docs/tables.md``.
    """

    bags: list[Bag]
    weights: NDArray[np.float64]
    dense: Dense
    num_classes: int
    board: dict[str, Any]


def predict(model: Ensemble, features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Scores [N, C], or standardised numbers [N]."""
    dense = model.dense.transform(features)
    found: NDArray[np.float64] = np.sum(
        [weight * bag.predict(features, dense) for bag, weight in zip(model.bags, model.weights, strict=True)], axis=0
    )
    return found


def importance(model: Ensemble, num_features: int) -> NDArray[np.float64]:
    """The members' own, each as shares of the whole, weighted as they are."""
    total = np.zeros(num_features)
    for bag, weight in zip(model.bags, model.weights, strict=True):
        for one in bag.models:
            if bag.is_dense:
                found = model.dense.fold_back(bag.family.importance(one, model.dense.num_features), num_features)
            else:
                found = bag.family.importance(one, num_features)
            total += weight / len(bag.models) * found / (found.sum() or 1.0)
    return total


def size(model: Ensemble) -> int:
    return sum(bag.family.size(one) for bag in model.bags for one in bag.models)


def head(model: Ensemble, num_classes: int) -> Head:
    """Every member's operators on the same matrix, and the weighted sum of what they say."""

    def add(builder: GraphBuilder, matrix: str) -> str:
        dense = model.dense.add(builder, matrix) if any(bag.is_dense for bag in model.bags) else ""
        parts = []
        for bag, weight in zip(model.bags, model.weights, strict=True):
            outputs = [bag.family.head(one, num_classes)(builder, dense if bag.is_dense else matrix) for one in bag.models]
            mean = _sum(builder, outputs)
            if bag.power == 1.0:
                parts.append(builder.add("Mul", mean, builder.constant(weight / len(outputs))))
            else:
                parts.append(builder.add("Mul", _sharpened(builder, mean, bag.power), builder.constant(weight)))
        return _sum(builder, parts)

    return add


def _sharpened(builder: GraphBuilder, scores: str, power: float) -> str:
    """``bags.sharpen``; a constant factor of the scores makes no difference."""
    axes = builder.constant([1], np.int64)
    highest = builder.add("ReduceMax", scores, axes, keepdims=1)
    raised = builder.add("Pow", builder.add("Div", scores, highest), builder.constant(power))
    return builder.add("Div", raised, builder.add("ReduceSum", raised, axes, keepdims=1))


def _sum(builder: GraphBuilder, parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else builder.add("Sum", *parts)


def save_bag(bag: Bag, folder: Path) -> None:
    for number, one in enumerate(bag.models):
        place = folder / str(number)
        place.mkdir(parents=True)
        bag.family.save(one, place)


def describe_member(member: Member) -> dict[str, Any]:
    return {"name": member.name, "kind": member.kind, "options": dict(member.options), "repeat": member.repeat}


def load_models(member: Member, num_models: int, folder: Path, threads: int) -> list[Any]:
    return [KINDS[member.kind].family.load(folder / str(number), threads) for number in range(num_models)]


def save(model: Ensemble, folder: Path) -> None:
    """``ensemble.json``, ``dense.npz``, and ``members/<member>/<model>/`` with what each family keeps."""
    described = []
    for number, (bag, weight) in enumerate(zip(model.bags, model.weights, strict=True)):
        save_bag(bag, folder / "members" / str(number))
        described.append(
            {
                **describe_member(bag.member),
                "weight": float(weight),
                "num_models": len(bag.models),
                "seconds": bag.seconds,
                "power": bag.power,
            }
        )
    model.dense.save(folder)
    content = {"num_classes": model.num_classes, "members": described, "board": model.board}
    (folder / FILE).write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")


def load(folder: Path, threads: int) -> Ensemble:
    content = json.loads((folder / FILE).read_text())
    bags, weights = [], []
    for number, entry in enumerate(content["members"]):
        member = Member(entry["name"], entry["kind"], entry["options"], entry["repeat"])
        models = load_models(member, entry["num_models"], folder / "members" / str(number), threads)
        bags.append(Bag(member, models, NOTHING, entry["seconds"], entry["power"]))
        weights.append(entry["weight"])
    return Ensemble(bags, np.asarray(weights), load_dense(folder), content["num_classes"], content["board"])
