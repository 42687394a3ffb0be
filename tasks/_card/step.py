"""The card's section on a training step: where its time goes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from tasks._card import svg
from tasks._card.bars import cell_bar

_MEANING = {
    "data": "waiting for the next batch",
    "forward": "network and loss, with augmentation",
    "backward": "gradients; their reduction goes on meanwhile",
    "reduce": "waiting for the other ranks after the backward pass",
    "optimizer": "weights, their average, gradients set to zero",
    "other": "progress and checkpoints",
}


def step_shares(profile: Mapping[str, Any]) -> list[tuple[str, float, float]]:
    """(part, milliseconds, share of the step from 0 to 1) in the order in which they happen."""
    whole = float(profile["step_ms"]) or 1.0
    return [(part, float(spent), float(spent) / whole) for part, spent in profile["parts_ms"].items()]


def step_finding(profile: Mapping[str, Any]) -> str:
    """One sentence: how long a step takes, and the largest part."""
    part, _, share = max(step_shares(profile), key=lambda row: row[1])
    return f"A step takes {svg.number(profile['step_ms'], 3)} ms (mean of {profile['num_steps']:,} steps and all ranks), {share:.0%} of it {part}."


def step_section(profile: Mapping[str, Any]) -> Markup:
    """A row for each part, of ``profile`` in ``history.json``."""
    rows = [
        Markup('<tr><th scope="row">{}</th><td>{}</td><td>{}</td><td class="bar-cell">{}</td><td class="words soft">{}</td></tr>').format(
            part, f"{spent:.2f}", f"{share:.1%}", cell_bar(f"step-{part}", share, f"Share of {part}"), _MEANING.get(part, "")
        )
        for part, spent, share in step_shares(profile)
    ]
    head = Markup('<tr><th scope="col">Part</th><th scope="col">ms a step</th><th scope="col">Share</th><th></th><th></th></tr>')
    table = Markup('<div class="scroll"><table class="numbers"><thead>{}</thead><tbody>{}</tbody></table></div>')
    return table.format(head, Markup("").join(rows))
