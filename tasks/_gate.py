"""What to do with data after it was judged: a pure decision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tasks._gx import Outcome

NUM_SHOWN = 5


@dataclass(frozen=True)
class Decision:
    """``pass``: train on the data as it is. ``quarantine``: on what is left without the broken samples. ``fail``: not at all, for ``failures``."""

    action: Literal["pass", "quarantine", "fail"]
    failures: tuple[str, ...] = ()


def decide(
    *,
    num_rows: Mapping[str, int],
    remaining: Mapping[str, int],
    num_invalid: int,
    examples: Sequence[tuple[Any, str]],
    failures: Sequence[str],
    on_invalid: str,
    max_invalid_share: float,
) -> Decision:
    """Decide about a data set.

    Args:
        num_rows, remaining: samples of each split, before and after the broken ones are set aside.
        num_invalid: broken samples.
        examples: the first of them: id and reason.
        failures: what is wrong with the data as a whole.
        on_invalid: ``quarantine`` or ``fail``.
        max_invalid_share: share of broken samples up to which they are set aside.
    """
    total = sum(num_rows.values())
    found = []
    if num_invalid and (on_invalid == "fail" or num_invalid > max_invalid_share * total):
        allowed = "none may be" if on_invalid == "fail" else f"at most {max_invalid_share:.1%} may be"
        shown = "; ".join(f"{sample}: {reason}" for sample, reason in examples[:NUM_SHOWN])
        more = f"; and {num_invalid - NUM_SHOWN} more" if num_invalid > NUM_SHOWN else ""
        found.append(f"{num_invalid} of {total} samples ({num_invalid / max(total, 1):.1%}) are broken, {allowed}: {shown}{more}")
    for split, rows in num_rows.items():
        if rows and not remaining[split]:
            found.append(f"no sample is left in the {split} split: all {rows} are broken")
        elif not rows and split in ("train", "test"):
            found.append(f"the {split} split is empty")
    found += failures
    if found:
        return Decision("fail", tuple(found))
    return Decision("quarantine" if num_invalid else "pass")


def messages(outcome: Outcome) -> list[str]:
    """What is told about an expectation that was not met."""
    expectation = outcome.expectation
    if outcome.error:
        return [f"{expectation.type} {dict(expectation.kwargs)} could not be judged: {outcome.error}"]
    if expectation.table != "samples" and outcome.reasons:
        return outcome.reasons
    if outcome.ids:
        first = "; ".join(f"{sample}: {reason}" for sample, reason in zip(outcome.ids[:3], outcome.reasons, strict=False))
        return [f"{outcome.num_unexpected} of {outcome.num_elements} samples: {first}"]
    observed = f" (observed: {outcome.observed})" if outcome.observed is not None else ""
    count = f" ({outcome.num_unexpected} of {outcome.num_elements} samples)" if outcome.num_unexpected else ""
    return [(expectation.reason or f"{expectation.type} {dict(expectation.kwargs)} is not met") + observed + count]
