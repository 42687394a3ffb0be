"""Drift: how far what is served lies from what was learned, and whether that is more than chance. Values in, values out.

Distance of a column, 0: the same.

- Numbers, by Evidently: Wasserstein distance over the standard deviation of the reference. 0.1 is a shift of the mean by a tenth of it.
- Classes, texts, booleans, by Evidently: Jensen-Shannon distance of the shares (0.833: nothing in common).
- Missing values: difference of their shares.

A distance alone says nothing about small samples, and a test alone finds the smallest difference in large ones. So a column has drifted only if
its distance is above the bar and a test finds it: Kolmogorov-Smirnov (numbers), chi-square of homogeneity (classes, missing), each at the
significance level over the number of columns (Bonferroni), so that over all columns a false alarm is as rare as the level says.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from tasks._evidently import Kind, Sample, distance

MOST_CLASSES = 200  # rarer ones are one class together
_LEAST_EXPECTED = 5.0
_REST = "(others)"


class Bars(BaseModel):
    """What is watched for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_rows: Annotated[int, Field(ge=10)] = Field(default=200, description="Served rows below which nothing is said.")
    max_distance: Annotated[float, Field(gt=0)] = Field(default=0.1, description="Distance of an input column above which it has drifted.")
    max_prediction_distance: Annotated[float, Field(gt=0)] = Field(default=0.1, description="The same for what is predicted.")
    max_missing: Annotated[float, Field(gt=0, le=1)] = Field(default=0.05, description="Growth of a column's share of missing values.")
    max_drifted_share: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.3, description="Share of the input columns that may drift; above it the model has drifted. 0: none may."
    )
    significance: Annotated[float, Field(gt=0, lt=1)] = Field(default=0.01, description="Chance of a false alarm over all columns.")
    min_feedback: Annotated[int, Field(ge=1)] = Field(default=50, description="True answers below which nothing is said about quality.")
    max_quality_loss: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.05, description="Accuracy that may be lost, or growth of the RMSE as a share of it."
    )


class ColumnDrift(BaseModel):
    """One column against the reference."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    kind: Kind
    role: Literal["input", "prediction"]
    distance: float
    p_value: float
    missing: float = Field(description="Share of missing values in what is served.")
    missing_reference: float
    missing_p_value: float
    drifted: bool = False
    reason: str = ""


class Quality(BaseModel):
    """Predictions whose truth came."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    metric: Literal["accuracy", "rmse"]
    value: float
    expected: float = Field(description="On the test split.")
    num: int
    p_value: float
    dropped: bool = False


class Verdict(BaseModel):
    """What follows from it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    drifted: bool
    quality_dropped: bool
    enough: bool = Field(description="Whether there were enough rows to say anything about drift.")
    reasons: list[str]


def _present(values: Sequence[Any], kind: Kind) -> Any:
    """The values that are there: float64 array, or list of texts."""
    if kind == "class":
        return [str(value) for value in values if value is not None and value != ""]
    numbers = np.array([math.nan if value is None else float(value) for value in values], dtype=np.float64)
    return numbers[np.isfinite(numbers)]


def pair(name: str, kind: Kind, served: Sequence[Any], reference: Sequence[Any]) -> Sample | None:
    """The values that are there, the rarest classes as one; None where one side has none."""
    return _sample(name, kind, _present(served, kind), _present(reference, kind))


def _sample(name: str, kind: Kind, now: Any, then: Any) -> Sample | None:
    if not len(now) or not len(then):
        return None
    if kind == "class":
        kept = {one for one, _ in (Counter(now) + Counter(then)).most_common(MOST_CLASSES)}
        now, then = ([one if one in kept else _REST for one in side] for side in (now, then))
    return Sample(name, kind, now, then)


def measure(name: str, kind: Kind, role: Literal["input", "prediction"], served: Sequence[Any], reference: Sequence[Any]) -> ColumnDrift:
    """Distance and p-values of one column; None, NaN and empty texts are missing."""
    now, then = _present(served, kind), _present(reference, kind)
    sample = _sample(name, kind, now, then)
    gone, gone_then = len(served) - len(now), len(reference) - len(then)
    return ColumnDrift(
        name=name,
        kind=kind,
        role=role,
        distance=distance(sample) if sample else 0.0,
        p_value=_p_value(sample) if sample else 1.0,
        missing=gone / max(1, len(served)),
        missing_reference=gone_then / max(1, len(reference)),
        missing_p_value=_homogeneity([(gone, gone_then), (len(now), len(then))]),
    )


def _p_value(sample: Sample) -> float:
    """Kolmogorov-Smirnov for numbers, chi-square of homogeneity for classes."""
    from scipy.stats import ks_2samp

    if sample.kind == "number":
        return float(ks_2samp(sample.served, sample.learned, method="asymp").pvalue)
    counts, counts_then = Counter(sample.served), Counter(sample.learned)
    return _homogeneity([(counts[name], counts_then[name]) for name in sorted(counts | counts_then)])


def _homogeneity(pairs: Sequence[tuple[int, int]]) -> float:
    """p-value of the chi-square test; classes too rare for it are one class together."""
    from scipy.stats import chi2_contingency

    totals = [sum(pair[side] for pair in pairs) for side in (0, 1)]
    if not all(totals):
        return 1.0
    share = min(totals) / sum(totals)
    table = [pair for pair in pairs if sum(pair) * share >= _LEAST_EXPECTED]
    rare = [pair for pair in pairs if sum(pair) * share < _LEAST_EXPECTED]
    if any(map(sum, rare)):
        table.append((sum(one for one, _ in rare), sum(other for _, other in rare)))
    return float(chi2_contingency(table, correction=False).pvalue) if len(table) > 1 else 1.0


def judge_columns(columns: Sequence[ColumnDrift], bars: Bars) -> list[ColumnDrift]:
    """Each column with whether it has drifted, and why."""
    level = bars.significance / max(1, 2 * len(columns))  # two tests a column: its values, and what is missing
    judged = []
    for column in columns:
        bar = bars.max_prediction_distance if column.role == "prediction" else bars.max_distance
        reasons = []
        if column.distance > bar and column.p_value < level:
            reasons.append(f"distance {column.distance:.3g} (allowed: {bar:g}; p = {column.p_value:.2g})")
        if column.missing - column.missing_reference > bars.max_missing and column.missing_p_value < level:
            reasons.append(f"{column.missing:.1%} missing, {column.missing_reference:.1%} in training (p = {column.missing_p_value:.2g})")
        judged.append(column.model_copy(update={"drifted": bool(reasons), "reason": "; ".join(reasons)}))
    return judged


def judge_accuracy(right: int, wrong: int, expected: float, bars: Bars) -> Quality:
    """Accuracy of the answered against that on the test split: dropped by more than allowed, and by more than chance (binomial test)."""
    from scipy.stats import binomtest

    num = right + wrong
    value = right / max(1, num)
    p_value = float(binomtest(right, num, min(1.0, max(0.0, expected)), alternative="less").pvalue) if num else 1.0
    dropped = num >= bars.min_feedback and value < expected - bars.max_quality_loss and p_value < bars.significance
    return Quality(metric="accuracy", value=value, expected=expected, num=num, p_value=p_value, dropped=dropped)


def judge_errors(squared_errors: Sequence[float], expected_rmse: float, bars: Bars) -> Quality:
    """RMSE of the answered against that on the test split: one-sided z-test of the mean squared error against the allowed one."""
    from scipy.stats import norm

    errors = np.asarray(squared_errors, dtype=np.float64)
    num = len(errors)
    if not num:
        return Quality(metric="rmse", value=0.0, expected=expected_rmse, num=0, p_value=1.0)
    allowed = (expected_rmse * (1 + bars.max_quality_loss)) ** 2
    mean, spread = float(errors.mean()), float(errors.std(ddof=1)) / math.sqrt(num) if num > 1 else 0.0
    p_value = float(norm.sf((mean - allowed) / spread)) if spread > 0 else float(mean <= allowed)
    dropped = num >= bars.min_feedback and mean > allowed and p_value < bars.significance
    return Quality(metric="rmse", value=math.sqrt(mean), expected=expected_rmse, num=num, p_value=p_value, dropped=dropped)


def decide(columns: Sequence[ColumnDrift], num_rows: int, quality: Quality | None, bars: Bars) -> Verdict:
    """Drifted if what is predicted has drifted, or more of the inputs than allowed; quality is judged apart from it."""
    enough = num_rows >= bars.min_rows
    reasons = [] if enough else [f"{num_rows} of {bars.min_rows} rows that it takes to say something about drift"]
    inputs = [column for column in columns if column.role == "input"]
    moved = [column for column in inputs if column.drifted]
    drifted = False
    if enough:
        for column in columns:
            if column.role == "prediction" and column.drifted:
                drifted = True
                reasons.append(f"what is predicted ({column.name}): {column.reason}")
        if moved and len(moved) > bars.max_drifted_share * len(inputs):
            drifted = True
            reasons.append(f"{len(moved)} of {len(inputs)} input columns: " + ", ".join(column.name for column in moved[:10]))
    dropped = quality is not None and quality.dropped
    if quality is not None and dropped:
        reasons.append(f"{quality.metric} {quality.value:.4g} of {quality.num} true answers, {quality.expected:.4g} on the test split")
    return Verdict(drifted=drifted, quality_dropped=dropped, enough=enough, reasons=reasons)
