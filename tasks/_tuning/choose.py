"""Which trial wins: pure functions of values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict

Values = Mapping[int, Sequence[float]]
UNITS = {"latency": "ms", "size": "MiB"}


class Chosen(BaseModel):
    """A trial, and why it was chosen, in words."""

    model_config = ConfigDict(frozen=True)

    number: int
    reason: str


def front(values: Values, *, higher: bool) -> list[int]:
    """The trials that no other one is at least as good as in everything and better in something; the first of equal ones; by number.

    Args:
        values: by trial: the metric, then what is to be small.
        higher: whether a higher metric is better.
    """
    points = {number: (-one[0] if higher else one[0], *one[1:]) for number, one in values.items()}
    return sorted(number for number, point in points.items() if not any(_beats(other, n, point, number) for n, other in points.items()))


def _beats(other: tuple[float, ...], other_number: int, point: tuple[float, ...], number: int) -> bool:
    if other == point:
        return other_number < number
    return all(a <= b for a, b in zip(other, point, strict=True))


def choose(values: Values, *, metric: str, higher: bool, objectives: Sequence[str], max_metric_loss: float) -> Chosen:
    """The best trial; with several objectives the smallest or fastest of the front whose metric is close enough to the best.

    Args:
        values: of the complete trials, at least one.
        max_metric_loss: how much worse than the best the metric may be: absolute where higher is better, else as a share of the best.
    """
    sign = -1 if higher else 1
    best = min(values, key=lambda number: (sign * values[number][0], number))
    if len(objectives) == 1:
        return Chosen(number=best, reason=f"best {metric} on the valid split of {len(values)} complete trials: {values[best][0]:.4g}")
    top = values[best][0]
    limit = top - max_metric_loss if higher else top * (1 + max_metric_loss)
    allowed = [number for number in front(values, higher=higher) if sign * values[number][0] <= sign * limit + 1e-12]
    chosen = min(allowed, key=lambda number: (*values[number][1:], sign * values[number][0], number))
    costs = ", ".join(f"{name} {value:.3g} {UNITS[name]}" for name, value in zip(objectives[1:], values[chosen][1:], strict=True))
    trials = f"{len(allowed)} trial{'s' if len(allowed) > 1 else ''}"
    how = f"{max_metric_loss:g}" if higher else f"{max_metric_loss:.1%}"
    return Chosen(
        number=chosen,
        reason=f"of {trials} on the front whose {metric} is within {how} of the best ({top:.4g}), the one with the smallest "
        f"{objectives[1]}: {metric} {values[chosen][0]:.4g}, {costs}",
    )


def kept(values: Values, *, higher: bool, num_objectives: int) -> set[int]:
    """The trials that can still win when more are known; what the others left may go."""
    if not values:
        return set()
    if num_objectives == 1:
        return {min(values, key=lambda number: (-values[number][0] if higher else values[number][0], number))}
    return set(front(values, higher=higher))


def next_trial(ended: set[int], num_started: int, num_trials: int, num_visible: int) -> bool:
    """Whether the next trial may begin: there is one left, and the trials that it looks at have all ended.

    Args:
        ended: numbers of the trials that have ended.
        num_visible: trials whose results it looks at, the first ones.
    """
    return num_started < num_trials and all(number in ended for number in range(num_visible))
