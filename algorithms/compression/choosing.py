"""Which candidate is shipped: a function of the measured table and the budget."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Status = Literal["chosen", "fits", "slower", "over budget", "failed", "baseline"]
TIE = 0.10


class Speed(BaseModel):
    """Latency of one package at one batch size on one host."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    p50_ms: float
    p95_ms: float
    speedup: float = Field(description="How many times faster than fp32: the median over paired rounds.")
    samples_per_s: float


class Row(BaseModel):
    """What is known of one candidate; what could not be made has only a name and a reason."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    done: str = Field(default="", description="What was done to the model, in words.")
    failure: str = ""
    metric: float | None = Field(default=None, description="The primary metric on the validation split.")
    loss: float | None = Field(default=None, description="Accuracy lost against fp32, or by how much the error grew (0.01 is 1 %).")
    size_bytes: int | None = Field(default=None, description="Of model.onnx.")
    num_parameters: int | None = None
    macs: int | None = Field(default=None, description="Multiply-accumulate operations for one sample.")
    agreement: float | None = Field(default=None, description="Share of validation samples with fp32's label (classes).")
    uncertainty: float = Field(default=0.0, description="Standard error of the loss: the validation split is only a sample.")
    speed: dict[str, Speed] = Field(default_factory=dict, description="By batch size.")
    status: Status = "fits"
    why: str = Field(default="", description="Why it was chosen or not.")


class Budget(BaseModel):
    """What a shipped model may cost; None: no limit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_accuracy_loss: float = 0.01
    max_latency_ms: float | None = None
    max_size_mb: float | None = None


class Choice(BaseModel):
    """What is shipped and why; ``met`` tells whether a compressed model within the budget was found."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    reason: str
    met: bool
    rows: tuple[Row, ...]


def uncertainty(agreement: float | None, num_samples: int) -> float:
    """Standard error of the difference of two accuracies on the same samples, from the share of samples on which the labels differ (McNemar)."""
    return 0.0 if agreement is None else float(((1 - agreement) / num_samples) ** 0.5)


def worst_loss(row: Row) -> float | None:
    """The loss and one standard error: what is held against the budget."""
    return None if row.loss is None else row.loss + row.uncertainty


def choose(rows: list[Row], budget: Budget) -> Choice:
    """The fastest candidate within the budget that is faster than fp32, else fp32.

    A loss of accuracy counts with one standard error on top, because a small validation split says little about small losses.

    Speed is that of batch size 1. Candidates within a tenth of the fastest count as equally fast, because a second measurement might swap
    them: the smallest of them wins, then the most accurate, then the first. Where fp32 itself breaks the budget, a slower one may win.

    Args:
        rows: fp32 first.
    """
    base, others = rows[0], rows[1:]
    faults = {row.name: _faults(row, budget) for row in rows}
    fitting = [row for row in others if not row.failure and not faults[row.name]]
    faster = [row for row in fitting if _speedup(row) > 1.0]
    eligible = fitting if faults[base.name] else faster
    kept = _best(eligible) if eligible else base
    reason = _reason(base, kept, fitting, others, faults)
    judged = [_judged(row, base, kept, faults[row.name], eligible) for row in rows]
    return Choice(name=kept.name, reason=reason, met=bool(fitting), rows=tuple(judged))


def _speedup(row: Row) -> float:
    return row.speed["1"].speedup if "1" in row.speed else 0.0


def _best(rows: list[Row]) -> Row:
    fastest = max(_speedup(row) for row in rows)
    tied = [row for row in rows if _speedup(row) >= fastest * (1 - TIE)]
    return min(tied, key=lambda row: (row.size_bytes or 0, row.loss or 0.0))


def _faults(row: Row, budget: Budget) -> list[str]:
    """In what it breaks the budget, in words."""
    found = []
    loss = worst_loss(row)
    if loss is not None and loss > budget.max_accuracy_loss + 1e-9:
        error = f" (standard error {row.uncertainty:.4f})" if row.uncertainty else ""
        found.append(f"loses {row.loss:.4f}{error}, allowed is {budget.max_accuracy_loss:g}")
    latency = row.speed["1"].p50_ms if "1" in row.speed else None
    if budget.max_latency_ms is not None and latency is not None and latency > budget.max_latency_ms:
        found.append(f"takes {latency:.3g} ms, allowed is {budget.max_latency_ms:g} ms")
    size = row.size_bytes / 1e6 if row.size_bytes is not None else None
    if budget.max_size_mb is not None and size is not None and size > budget.max_size_mb:
        found.append(f"weighs {size:.3g} MB, allowed is {budget.max_size_mb:g} MB")
    return found


def _judged(row: Row, base: Row, kept: Row, faults: list[str], eligible: list[Row]) -> Row:
    if row.failure:
        return row.model_copy(update={"status": "failed", "why": row.failure})
    if row is kept:
        return row.model_copy(update={"status": "chosen", "why": "shipped" + (f", though it {'; '.join(faults)}" if faults else "")})
    if faults:
        return row.model_copy(update={"status": "over budget", "why": "; ".join(faults)})
    if row is base:
        return row.model_copy(update={"status": "baseline", "why": "what the others are compared with"})
    if row not in eligible:
        return row.model_copy(update={"status": "slower", "why": f"no faster than fp32 on this host ({_speedup(row):.2f} times its speed)"})
    why = "not the fastest" if _speedup(row) <= _speedup(kept) else "as fast within the error of measurement, and larger or less accurate"
    return row.model_copy(update={"status": "fits", "why": why})


def _reason(base: Row, kept: Row, fitting: list[Row], others: list[Row], faults: dict[str, list[str]]) -> str:
    if kept is not base:
        smaller = (base.size_bytes or 1) / max(kept.size_bytes or 1, 1)
        loss = kept.loss or 0.0
        change = f"loses {loss:.4f}" if loss > 0 else f"gains {-loss:.4f}" if loss < 0 else "loses nothing"
        if _speedup(kept) <= 1.0:  # only where fp32 itself breaks the budget
            return (
                f"{kept.name}: {smaller:.2f} times smaller than fp32 at {_speedup(kept):.2f} times its speed, {change} on the validation "
                f"split; fp32 itself {'; '.join(faults[base.name])}"
            )
        return f"{kept.name}: {_speedup(kept):.2f} times faster and {smaller:.2f} times smaller than fp32, {change} on the validation split"
    if not others:
        return "fp32: there is nothing to try on this kind of model"
    broken = f"; fp32 itself {'; '.join(faults[base.name])}" if faults[base.name] else ""
    if fitting:
        best = max(fitting, key=_speedup)
        return (
            f"fp32: nothing was faster on this host; the fastest within the budget, {best.name}, has {_speedup(best):.2f} times its speed"
        )
    if all(row.failure for row in others):
        return f"fp32: no candidate could be made ({others[0].name}: {others[0].failure}){broken}"
    told = "; ".join(f"{row.name} {', '.join(faults[row.name])}" for row in others if faults[row.name])
    return f"fp32: no candidate is within the budget: {told}{broken}"
