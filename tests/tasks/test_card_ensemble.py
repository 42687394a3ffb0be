"""The card's section on ensembles: from ``ensemble.json`` alone."""

from __future__ import annotations

from typing import Any

import pytest

from tasks._card.ensemble import ensemble_section, finding
from tests.tasks.test_card import Page

EVIL = "<script>alert(1)</script>"


def content(metric: str = "accuracy", **more: Any) -> dict[str, Any]:
    members = [
        {
            "name": name,
            "kind": "linear",
            "weight": weight,
            "seconds": 0.5,
            "num_models": 5,
            "num_parameters": 1200,
            "loss": 0.21,
            metric: 0.93,
        }
        for name, weight in (("linear 1", 0.0), (EVIL, 0.75), ("kernel 1", 0.25))
    ]
    board = {"members": members, "left_out": {"loss": 0.2, metric: 0.94}, "seconds": 31.0, "time_limit_s": 60.0, **more}
    return {"num_classes": 3, "members": [], "board": board}


@pytest.mark.parametrize("metric", ["accuracy", "rmse"])
def test_the_section_shows_weights_and_everything_that_was_tried(metric: str) -> None:
    html = str(ensemble_section(content(metric)))
    page = Page(html)
    assert page.open == []
    assert page.num_charts == 1
    assert html.count("<tr") == 1 + 3 + 1
    assert "75%" in html
    assert "<script" not in html
    assert finding(content(metric)) == "2 of 3 members tried have a weight; it took 31 s of 1 min allowed."


def test_a_student_is_told_with_how_it_compares() -> None:
    told = {
        "kind": "lightgbm",
        "num_made": 500,
        "num_held": 20,
        "num_parameters": 900,
        "ensemble_parameters": 120_000,
        "student": {"accuracy": 0.95, "log_loss": 0.2},
        "ensemble": {"accuracy": 0.96, "log_loss": 0.18},
    }
    html = str(ensemble_section(content(distilled=told)))
    assert "900 learned numbers instead of 120,000" in html
    assert "On 20 rows held out from it: accuracy 0.9500, log loss 0.2000; the ensemble: accuracy 0.9600" in html
    assert finding(content(distilled=told)).endswith("Distilled into one model (lightgbm).")
