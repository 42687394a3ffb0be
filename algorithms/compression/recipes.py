"""What is tried to make a model smaller and faster, as data; and what to try next, as a function of what is known. Imports no library."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Mode = Literal["none", "prune", "quantize", "distill", "auto"]
Quantization = Literal["none", "static", "dynamic", "fp16"]

PRUNED_SHARES = (0.3, 0.5, 0.7)
TREE_SHARES = (0.5, 0.25)
CALIBRATION_BATCH = 32  # samples; the ranges that fewer give are not those of the data
_FINE_TUNING_SHARE = 0.3
_LAST_TUNING_SHARE = 0.7
_DISTILLED = 0.5


class Variant(BaseModel):
    """How one more training differs from the first: the ``variant`` of a ``RunSpec`` with the verb ``train``.

    The training starts from the spec's ``model``; its ``reference`` is the teacher.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    options: dict[str, Any] = Field(default_factory=dict, description="Options of this training alone, such as fewer epochs.")
    student: dict[str, Any] = Field(
        default_factory=dict, description="Options of a smaller architecture; it starts from random weights, and is kept with the model."
    )
    prune: float = Field(default=0.0, ge=0, lt=1, description="Share of the channels to remove from each layer of the start model.")
    distill: float = Field(default=0.0, ge=0, le=1, description="Weight of the teacher's outputs in the loss.")
    quantization_aware: bool = Field(default=False, description="Weights and activations are rounded to int8 in the forward pass.")
    trees: float = Field(default=1.0, gt=0, le=1, description="Share of the boosting rounds, or of a forest's trees, to keep.")


class Recipe(BaseModel):
    """One candidate: further trainings, one after the other, then a number format."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="Short and unique, such as prune-50-int8.")
    tunings: tuple[Variant, ...] = ()
    quantize: Quantization = "none"


class Compressible(BaseModel):
    """What can be done to a model, told by its engine.

    Attributes:
        static, dynamic: int8 with activation ranges from calibration, or found at each call.
        fp16: it is a network, so half precision may help on a GPU.
        prunable: channels can be removed and the rest trained on.
        trees: boosting rounds or trees can be dropped.
        student: options of a smaller architecture; empty: there is none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    static: bool = False
    dynamic: bool = False
    fp16: bool = False
    prunable: bool = False
    trees: bool = False
    student: dict[str, Any] = Field(default_factory=dict)


class Search(BaseModel):
    """Everything that decides what is tried."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: Mode
    can: Compressible
    config: dict[str, Any] = Field(description="Options of the first training.")
    max_loss: float
    gpu: bool = False


BASELINE = Recipe(name="fp32")


def next_recipes(search: Search, known: Mapping[str, float | None]) -> list[Recipe]:
    """What to try now; empty at the end.

    Args:
        known: loss of accuracy by the name of each recipe that was tried, at its worst (``choosing.worst_loss``); None if it could not be made.
    """
    return [recipe for recipe in _wanted(search, known) if recipe.name not in known]


def _wanted(search: Search, known: Mapping[str, float | None]) -> list[Recipe]:
    quantized, pruned, distilled = _quantized(search, known), _pruned(search, known), _distilled(search, known)
    if search.mode == "quantize":
        return quantized
    if search.mode == "prune":
        return [*pruned, *_fewer_trees(search)]
    if search.mode == "distill":
        return distilled
    return [*quantized, *pruned, *distilled, *_fewer_trees(search)] if search.mode == "auto" else []


def _quantized(search: Search, known: Mapping[str, float | None]) -> list[Recipe]:
    can = search.can
    found = [Recipe(name="int8", quantize="static")] if can.static else []
    found += [Recipe(name="int8-dynamic", quantize="dynamic")] if can.dynamic else []
    found += [Recipe(name="fp16", quantize="fp16")] if can.fp16 and search.gpu else []
    if can.static and can.prunable and _lost(known.get("int8"), search.max_loss):
        aware = Variant(options=fine_tuning(search.config, _FINE_TUNING_SHARE, 0.1), quantization_aware=True, distill=_DISTILLED)
        found.append(Recipe(name="int8-aware", tunings=(aware,), quantize="static"))
    return found


def _lost(loss: float | None, most: float) -> bool:
    """Whether a recipe was tried and lost more than allowed."""
    return loss is not None and loss > most


def _pruned(search: Search, known: Mapping[str, float | None]) -> list[Recipe]:
    """More and more channels removed, as long as what was removed before cost at most half of the loss allowed."""
    if not search.can.prunable:
        return []
    shares = PRUNED_SHARES[1:] if search.mode == "auto" else PRUNED_SHARES
    found: list[Recipe] = []
    for count, share in enumerate(shares, start=1):
        made = _pruned_by(search, share, shares[: count - 1])
        found += made
        if not _cheap(made, search, known):
            break
    if search.mode == "auto" and all(_lost(known.get(recipe.name), search.max_loss) for recipe in found):
        found += _pruned_by(search, PRUNED_SHARES[0], ())
    return found


def _cheap(made: list[Recipe], search: Search, known: Mapping[str, float | None]) -> bool:
    """Whether one of them was tried and cost at most half of the loss allowed."""
    losses = [known.get(recipe.name) for recipe in made]
    return any(loss is not None and loss <= search.max_loss / 2 for loss in losses)


def _pruned_by(search: Search, share: float, before: tuple[float, ...]) -> list[Recipe]:
    """Goes on from the networks that were pruned by the shares ``before``, and so repeats none of their training.

    The first half goes in two steps. After each step the network is fine-tuned, the longest before it may be shipped, with the unpruned model
    as the teacher.
    """
    short, long = (fine_tuning(search.config, part, 0.5) for part in (_FINE_TUNING_SHARE, _LAST_TUNING_SHARE))
    targets = [(reached, long) for reached in (*before, share)]
    if targets[0][0] > PRUNED_SHARES[0]:
        targets.insert(0, (1 - (1 - targets[0][0]) ** 0.5, short))
    tunings, kept = [], 1.0
    for reached, options in targets:
        tunings.append(Variant(options=options, prune=round(1 - (1 - reached) / kept, 6), distill=_DISTILLED))
        kept = 1 - reached
    name = f"prune-{round(share * 100)}"
    found = [Recipe(name=name, tunings=tuple(tunings))]
    if search.mode == "auto" and search.can.static:
        found.append(Recipe(name=f"{name}-int8", tunings=tuple(tunings), quantize="static"))
    return found


def _distilled(search: Search, known: Mapping[str, float | None]) -> list[Recipe]:
    can = search.can
    if search.mode == "auto" and can.prunable:
        halved = _pruned_by(search, PRUNED_SHARES[1], ())
        if any(recipe.name not in known for recipe in halved) or _cheap(halved, search, known):
            return []  # half of the channels are gone at little loss: a student from random weights would cost a whole training more
    if can.student and not can.trees:
        tunings: tuple[Variant, ...] = (Variant(student=can.student, distill=_DISTILLED),)
    elif can.student:
        return [Recipe(name="small-trees", tunings=(Variant(student=can.student),))]
    elif can.prunable and search.mode == "distill":
        # No smaller architecture of its own: the student is the network with half of its channels.
        options = fine_tuning(search.config, 1.0, 0.5)
        tunings = (Variant(options=options, prune=0.5, distill=0.7),)
    else:
        return []
    found = [Recipe(name="student", tunings=tunings)]
    if search.mode == "auto" and can.static:
        found.append(Recipe(name="student-int8", tunings=tunings, quantize="static"))
    return found


def _fewer_trees(search: Search) -> list[Recipe]:
    if not search.can.trees:
        return []
    return [Recipe(name=f"trees-{round(share * 100)}", tunings=(Variant(trees=share),)) for share in TREE_SHARES]


def fine_tuning(config: Mapping[str, Any], share: float, rate: float) -> dict[str, Any]:
    """Options of a training that goes on from trained weights: ``share`` of the epochs, ``rate`` of the learning rate."""
    if "epochs" not in config:
        return {}
    epochs = max(2, round(config["epochs"] * share))
    return {
        "epochs": epochs,
        "learning_rate": config["learning_rate"] * rate,
        "warmup_epochs": min(config["warmup_epochs"], epochs / 4),
        "early_stopping": 0,
        "pretrained": "",
    }
