"""Whether a canary may go on: a pure function of what was counted of it and of the live version over the same time.

Tests, each one-sided against the canary and each at its share of the significance level:

- failures (500): Fisher's exact test of failed against answered;
- latency: Fisher's exact test of the requests that took longer than a bound, ``latency_factor`` times what 95 % of the live version's stay under;
- predictions: the chi-square test of homogeneity over classes (or bands of a value), if besides the distributions lie further apart than
  ``max_shift`` (total variation distance);
- accuracy, where true answers came: Fisher's exact test of wrong against right, or Welch's test of the squared errors of a value.

A judge that looks again and again would find a difference by chance at some look. So look k is given the level
``significance / (k (k + 1))``: over all looks together that is at most ``significance``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

_NUM_TESTS = 4
_QUANTILE = 0.95
_LEAST_EXPECTED = 5


class Bars(BaseModel):
    """What a canary is held to."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    significance: Annotated[float, Field(gt=0, lt=1)] = Field(default=0.01, description="Chance to send back a canary that is as good.")
    min_requests: Annotated[int, Field(ge=1)] = Field(default=100, description="Requests that the canary must have answered in a step.")
    min_feedback: Annotated[int, Field(ge=0)] = Field(
        default=0, description="True answers that must have come for it before it is promoted."
    )
    latency_factor: Annotated[float, Field(ge=1)] = Field(default=1.5, description="How much slower it may be.")
    max_shift: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.2, description="How far its predictions may lie from the live version's."
    )
    max_accuracy_loss: Annotated[float, Field(ge=0, le=1)] = Field(default=0.0, description="Accuracy that it may lose.")


class Seen(BaseModel):
    """What was counted of one version since the canary began."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    answered: int = 0
    failed: int = 0
    slower_than: Mapping[float, int] = Field(default_factory=dict, description="Requests by the upper bound of their latency, seconds.")
    predictions: Mapping[str, int] = Field(default_factory=dict)
    right: int = 0
    wrong: int = 0
    values: int = Field(default=0, description="Values whose truth came.")
    squared_error: float = 0.0
    quartic_error: float = 0.0

    @property
    def num_feedback(self) -> int:
        return self.right + self.wrong + self.values


class Verdict(BaseModel):
    """What follows from it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    decision: Literal["wait", "advance", "roll back"]
    reasons: list[str] = Field(description="Why it is sent back, or what is waited for.")
    tests: dict[str, float] = Field(default_factory=dict, description="p-values.")


def level(significance: float, look: int) -> float:
    """The significance level of one test at a look (from 1)."""
    return significance / (look * (look + 1)) / _NUM_TESTS


def judge(live: Seen, canary: Seen, bars: Bars, *, look: int, in_step: int, is_last: bool = False) -> Verdict:
    """Send the canary back if a test speaks against it, let it go on if it has answered enough, else wait.

    Args:
        live, canary: counts over the same time.
        look: how many times this was asked since the canary began, this time included.
        in_step: requests that the canary answered since its share last grew.
        is_last: whether it is promoted if it goes on.
    """
    found = {
        "failures": _failures(live, canary),
        "latency": _latency(live, canary, bars),
        "predictions": _predictions(live, canary, bars),
        "accuracy": _accuracy(live, canary, bars),
    }
    tests = {name: p_value for name, (p_value, _) in found.items()}
    bar = level(bars.significance, look)
    against = [f"{reason} (p = {p_value:.2g})" for p_value, reason in found.values() if p_value < bar]
    if against:
        return Verdict(decision="roll back", reasons=against, tests=tests)
    waiting = []
    if in_step < bars.min_requests:
        waiting.append(f"{in_step} of {bars.min_requests} requests in this step")
    if live.answered < bars.min_requests:
        waiting.append(f"{live.answered} of {bars.min_requests} requests of the live version to compare with")
    if is_last and canary.num_feedback < bars.min_feedback:
        waiting.append(f"{canary.num_feedback} of {bars.min_feedback} true answers")
    return Verdict(decision="wait" if waiting else "advance", reasons=waiting, tests=tests)


def _worse(bad: int, good: int, bad_live: int, good_live: int) -> float:
    """p-value of Fisher's exact test that the first share of bad ones is not larger."""
    if bad + good == 0 or bad_live + good_live == 0 or bad * (bad_live + good_live) <= bad_live * (bad + good):
        return 1.0
    from scipy.stats import fisher_exact

    return float(fisher_exact([[bad, good], [bad_live, good_live]], alternative="greater").pvalue)


def _share(part: int, rest: int) -> str:
    return f"{part / max(1, part + rest):.2%}"


def _failures(live: Seen, canary: Seen) -> tuple[float, str]:
    p_value = _worse(canary.failed, canary.answered, live.failed, live.answered)
    return (
        p_value,
        f"{_share(canary.failed, canary.answered)} of its requests failed, {_share(live.failed, live.answered)} of the live version's",
    )


def latency_bound(live: Seen, factor: float) -> float | None:
    """The bound, seconds: one of the histogram's, at least ``factor`` times that which 95 % of the live version's requests stay under."""
    total, below = sum(live.slower_than.values()), 0
    bounds = sorted(live.slower_than)
    for bound in bounds:
        below += live.slower_than[bound]
        if total and below >= _QUANTILE * total:
            return next((one for one in bounds if one >= bound * factor and math.isfinite(one)), None)
    return None


def _latency(live: Seen, canary: Seen, bars: Bars) -> tuple[float, str]:
    bound = latency_bound(live, bars.latency_factor)
    if bound is None:
        return 1.0, ""
    slow = sum(count for upper, count in canary.slower_than.items() if upper > bound)
    slow_live = sum(count for upper, count in live.slower_than.items() if upper > bound)
    rest, rest_live = sum(canary.slower_than.values()) - slow, sum(live.slower_than.values()) - slow_live
    words = (
        f"{_share(slow, rest)} of its requests took longer than {bound * 1e3:g} ms, {_share(slow_live, rest_live)} of the live version's"
    )
    return _worse(slow, rest, slow_live, rest_live), words


def shift(live: Mapping[str, int], canary: Mapping[str, int]) -> float:
    """Total variation distance of two distributions: 0 equal, 1 nothing in common."""
    total, total_live = sum(canary.values()), sum(live.values())
    if not total or not total_live:
        return 0.0
    return sum(abs(canary.get(name, 0) / total - live.get(name, 0) / total_live) for name in live.keys() | canary.keys()) / 2


def _predictions(live: Seen, canary: Seen, bars: Bars) -> tuple[float, str]:
    distance = shift(live.predictions, canary.predictions)
    words = f"its predictions are spread otherwise: {distance:.0%} of them would have to change (allowed: {bars.max_shift:.0%})"
    table = _grouped(live.predictions, canary.predictions)
    if distance <= bars.max_shift or len(table) < 2:
        return 1.0, words
    from scipy.stats import chi2_contingency

    return float(chi2_contingency([[one for one, _ in table], [other for _, other in table]], correction=False).pvalue), words


def _grouped(live: Mapping[str, int], canary: Mapping[str, int]) -> list[tuple[int, int]]:
    """Counts of both by class; classes too rare for the test are one class together."""
    total, total_live = sum(canary.values()), sum(live.values())
    share = min(total, total_live) / max(1, total + total_live)
    table: list[tuple[int, int]] = []
    rare = rare_live = 0
    for name in sorted(live.keys() | canary.keys()):
        count, count_live = canary.get(name, 0), live.get(name, 0)
        if (count + count_live) * share >= _LEAST_EXPECTED:
            table.append((count, count_live))
        else:
            rare, rare_live = rare + count, rare_live + count_live
    return [*table, (rare, rare_live)] if rare + rare_live else table


def _accuracy(live: Seen, canary: Seen, bars: Bars) -> tuple[float, str]:
    if canary.values and live.values:
        return _squared_errors(live, canary)
    allowed = round(bars.max_accuracy_loss * (live.right + live.wrong))
    wrong_live = min(live.wrong + allowed, live.right + live.wrong)
    p_value = _worse(canary.wrong, canary.right, wrong_live, live.right + live.wrong - wrong_live)
    return (
        p_value,
        f"{_share(canary.wrong, canary.right)} of its predictions were wrong, {_share(live.wrong, live.right)} of the live version's",
    )


def _squared_errors(live: Seen, canary: Seen) -> tuple[float, str]:
    mean, mean_live = canary.squared_error / canary.values, live.squared_error / live.values
    words = f"its mean squared error is {mean:.4g}, the live version's {mean_live:.4g}"
    if min(canary.values, live.values) < 30 or mean <= mean_live:
        return 1.0, words
    spread = max(0.0, canary.quartic_error / canary.values - mean**2) / canary.values
    spread += max(0.0, live.quartic_error / live.values - mean_live**2) / live.values
    if spread == 0:
        return 0.0, words
    return math.erfc((mean - mean_live) / math.sqrt(2 * spread)) / 2, words
