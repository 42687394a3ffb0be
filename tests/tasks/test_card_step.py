"""The card's section on a training step, and what ``--profile`` prints."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from deployments.run_command import show_profile
from tasks._card.step import step_finding, step_section, step_shares
from tests.tasks.test_card import Page

PROFILE: dict[str, Any] = {
    "num_steps": 1200,
    "step_ms": 200.0,
    "parts_ms": {"data": 1.0, "forward": 60.0, "backward": 120.0, "reduce": 9.0, "optimizer": 9.5, "other": 0.5},
}


def test_every_part_has_a_row_with_its_share() -> None:
    html = str(step_section(PROFILE))
    assert Page(html).open == []
    assert html.count("<tr") == 1 + 6
    assert "120.00" in html
    assert "60.0%" in html
    assert sum(share for _, _, share in step_shares(PROFILE)) == 1.0
    assert step_finding(PROFILE) == "A step takes 200 ms (mean of 1,200 steps and all ranks), 60% of it backward."


def test_the_command_prints_a_line_for_each_part() -> None:
    text = io.StringIO()
    show_profile(Console(file=text, width=200), PROFILE)
    lines = text.getvalue().splitlines()
    assert lines[0] == "a step    200.0 ms, mean of 1,200 steps and all ranks"
    assert lines[3].split() == ["backward", "120.00", "ms", "60.0%"]
    assert len(lines) == 7
