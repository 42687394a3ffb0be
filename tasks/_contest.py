"""Who wins, the champion or its challenger: a pure function of what both said about the same test rows."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from tasks._compare_stats import Answers, Interval, figures, paired_intervals


class Terms(BaseModel):
    """What a challenger has to do."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_gain: Annotated[float, Field(ge=0)] = Field(default=0.0, description="Least gain in the main metric over all test rows.")
    max_slice_loss: Annotated[float, Field(ge=0)] = Field(
        default=0.05, description="Most that it may lose on one slice: accuracy, or a share of the champion's RMSE."
    )
    min_slice: Annotated[int, Field(ge=1)] = Field(default=20, description="Slices with fewer test rows are not looked at.")


class Slice(BaseModel):
    """A part of the test rows: a class, a quarter of the values' range, or the old or the new data."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    num_rows: int
    champion: float
    challenger: float
    loss: float = Field(description="How much worse the challenger is: accuracy, or a share of the champion's RMSE; negative: better.")


class Outcome(BaseModel):
    """The decision and all its numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    winner: Literal["champion", "challenger"]
    reason: str
    metric: str
    num_rows: int
    champion: float
    challenger: float
    gain: float = Field(description="Challenger over champion; positive: better, also where a lower metric is.")
    interval: Interval = Field(description="95 % bootstrap interval of the gain, both on the same rows.")
    slices: list[Slice]


def contest(champion: Answers, challenger: Answers, is_new: NDArray[np.bool_], classes: list[str], terms: Terms, seed: int = 0) -> Outcome:
    """The challenger wins if it is better by the margin, surely so, and on no slice worse than allowed.

    Args:
        champion, challenger: about the same rows in the same order; predictions are class indices or numbers.
        is_new: bool [N], rows that the champion's data did not have.
        classes: names; empty for numbers.

    Surely: the 95 % interval of the difference, by a paired bootstrap over the rows, lies above 0.
    """
    assert len(champion) == len(challenger) == len(is_new), "both are about the same rows"
    metric, sign = ("accuracy", 1.0) if champion.num_classes else ("rmse", -1.0)
    before, after = figures(champion)[metric], figures(challenger)[metric]
    ends = sorted(sign * end for end in paired_intervals(champion, challenger, seed)[metric])
    gain, interval = sign * (after - before), (ends[0], ends[1])
    slices = [
        _slice(name, rows, champion, challenger, metric)
        for name, rows in _parts(champion, is_new, classes)
        if rows.sum() >= terms.min_slice
    ]
    worse = [one for one in slices if one.loss > terms.max_slice_loss + 1e-12]
    figure = f"{metric} {after:.4g} against {before:.4g} on the same {len(is_new):,} test rows"
    span = f"gain {gain:+.4g}, 95 % interval {interval[0]:+.4g} to {interval[1]:+.4g}"
    against = []
    if gain <= 0 or gain < terms.min_gain - 1e-12:
        against.append(f"a gain of at least {terms.min_gain:g} was needed" if terms.min_gain else "it is not better")
    elif interval[0] <= 0:
        against.append("that may be chance")
    against += [f"it loses {one.loss:.3g} on {one.name} ({one.num_rows} rows; {terms.max_slice_loss:g} is allowed)" for one in worse[:5]]
    return Outcome(
        winner="champion" if against else "challenger",
        reason=f"{figure} ({span})" + (f"; {'; '.join(against)}" if against else ""),
        metric=metric,
        num_rows=len(is_new),
        champion=before,
        challenger=after,
        gain=gain,
        interval=interval,
        slices=slices,
    )


def _parts(answers: Answers, is_new: NDArray[np.bool_], classes: list[str]) -> list[tuple[str, NDArray[Any]]]:
    parts: list[tuple[str, NDArray[Any]]] = [("the old data", ~is_new), ("the new data", is_new)]
    if classes:
        return parts + [(f"class {name}", answers.labels == place) for place, name in enumerate(classes)]
    edges = np.quantile(answers.labels, [0, 0.25, 0.5, 0.75, 1])
    places = np.clip(np.searchsorted(edges, answers.labels, side="right") - 1, 0, 3)
    return parts + [(f"targets from {edges[place]:.4g} to {edges[place + 1]:.4g}", places == place) for place in range(4)]


def _slice(name: str, rows: NDArray[Any], champion: Answers, challenger: Answers, metric: str) -> Slice:
    places = np.flatnonzero(rows)
    before, after = figures(champion, places)[metric], figures(challenger, places)[metric]
    loss = before - after if metric == "accuracy" else (after - before) / max(before, 1e-12)
    return Slice(name=name, num_rows=len(places), champion=before, challenger=after, loss=loss)
