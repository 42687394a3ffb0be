"""Which of the served rows are worth a person's label: those that the model is least sure about, spread over its classes, and a few at random."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

RANDOM_SHARE = 0.1  # so that the labels also tell how good the rest is


@dataclass(frozen=True)
class Pick:
    """One row to label: its place, and why."""

    row: int
    reason: str


def margin(scores: Mapping[str, float]) -> float:
    """Difference of the two largest scores: 0 undecided, 1 certain."""
    first, second = [*sorted(scores.values(), reverse=True), 0.0, 0.0][:2]
    return first - second


def pick_unsure(labels: Sequence[str], margins: Sequence[float], most: int, seed: int = 0) -> list[Pick]:
    """The smallest margins, of each predicted class at most twice its fair share; a tenth of the places goes to rows at random.

    Returns:
        At most ``most`` rows, in the order of the input.
    """
    most = min(most, len(labels))
    num_random = int(most * RANDOM_SHARE)
    per_class = max(1, -(-2 * (most - num_random) // max(1, len(set(labels)))))
    taken: Counter[str] = Counter()
    picks: dict[int, Pick] = {}
    for row in sorted(range(len(labels)), key=lambda row: (margins[row], row)):
        if len(picks) == most - num_random:
            break
        if taken[labels[row]] < per_class:
            taken[labels[row]] += 1
            picks[row] = Pick(row, f"unsure: margin {margins[row]:.3f}")
    left = [row for row in range(len(labels)) if row not in picks]
    for row in random.Random(seed).sample(left, min(len(left), most - len(picks))):
        picks[row] = Pick(row, "at random")
    return [picks[row] for row in sorted(picks)]


def pick_outlying(oddness: Sequence[float], most: int, seed: int = 0) -> list[Pick]:
    """Where there are no scores (a value is predicted): the rows that lie furthest from what was learned, and a tenth at random.

    Args:
        oddness: largest distance of the row's numbers from their mean in training, in standard deviations.
    """
    most = min(most, len(oddness))
    num_random = int(most * RANDOM_SHARE)
    order = sorted(range(len(oddness)), key=lambda row: (-oddness[row], row))
    picks = {row: Pick(row, f"unusual: {oddness[row]:.1f} standard deviations from training") for row in order[: most - num_random]}
    left = [row for row in range(len(oddness)) if row not in picks]
    for row in random.Random(seed).sample(left, min(len(left), most - len(picks))):
        picks[row] = Pick(row, "at random")
    return [picks[row] for row in sorted(picks)]
