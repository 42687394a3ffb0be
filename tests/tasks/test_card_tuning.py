"""The run card's section about tuning: whole, readable SVG, and true figures."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from typing import Any

from tasks._card.tuning import body, finding, front_chart, history_chart, importance_chart, parallel_chart, table

SPACE = {
    "learning_rate": {"kind": "float", "low": 1e-4, "high": 1e-1, "log": True},
    "batch_size": {"kind": "choice", "values": [16, 32]},
    "hidden": {"kind": "choice", "values": ["128", "<b>"]},
    "max_depth": {"kind": "int", "low": 1, "high": 9, "log": False, "step": 1},
}


def _trial(number: int, state: str, values: list[float]) -> dict[str, Any]:
    params = {"learning_rate": 10 ** -(1 + number % 3), "batch_size": 16, "hidden": "<b>", "max_depth": 1 + number}
    return {"number": number, "state": state, "params": params, "values": values, "steps": {"1": 0.5}, "seconds": 2.5, "error": ""}


def _study(**changes: Any) -> dict[str, Any]:
    trials = [_trial(0, "complete", [0.8]), _trial(1, "complete", [0.95]), _trial(2, "pruned", [0.5]), _trial(3, "failed", [])]
    study: dict[str, Any] = {"sampler": "tpe", "pruner": "median", "space": SPACE, "trials": trials, "num_first": 1, "best": 1}
    study |= {"reason": "best accuracy", "front": [], "importance": {"learning_rate": 0.7, "hidden": 0.3}}
    study["objectives"] = [{"name": "metric", "label": "accuracy", "unit": "", "higher": True}]
    return study | changes


def _two() -> dict[str, Any]:
    objectives = [*_study()["objectives"], {"name": "latency", "label": "latency", "unit": "ms", "higher": False}]
    trials = [_trial(0, "complete", [0.8, 2.0]), _trial(1, "complete", [0.95, 4.0]), _trial(2, "complete", [0.9, 5.0])]
    return _study(objectives=objectives, trials=trials, front=[0, 1])


def _whole(html: str) -> None:
    """It can be parsed, needs nothing from outside, and each picture says what it is."""
    tree = ElementTree.fromstring(f"<div>{html}</div>")
    pictures = [node for node in tree.iter() if node.tag.endswith("svg")]
    assert all(picture[0].tag.endswith("title") and picture[1].tag.endswith("desc") for picture in pictures)
    ids = re.findall(r'id="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    assert not re.search(r"https?://|<script|nan", html)


def test_the_section_is_whole_with_one_objective_and_with_two() -> None:
    one, two = str(body(_study())), str(body(_two()))
    _whole(one)
    _whole(two)
    assert one.count("<svg") == 3
    assert two.count("<svg") == 4
    assert "&lt;b&gt;" in one


def test_the_finding_counts_and_compares() -> None:
    words = finding(_study())
    assert "2 complete trials, 1 pruned, 1 failed" in words
    assert "Best accuracy 0.95; the options it began with reach 0.8." in words

    assert "Chosen: accuracy 0.95" in finding(_two())


def test_the_history_shows_each_trial_and_the_best_so_far() -> None:
    chart = str(history_chart(_study()))
    assert "the best goes from 0.8 to 0.95" in chart
    assert "trial 2, pruned: 0.5" in chart
    assert "trial 1, chosen" in chart


def test_the_front_marks_what_is_on_it() -> None:
    chart = str(front_chart(_two()))
    assert "trial 0, on the front: accuracy 0.8, latency 2, ms" in chart
    assert "trial 1, chosen" in chart
    assert "trial 2, beaten" in chart
    assert front_chart(_study()) == ""


def test_importance_and_parallel_coordinates_leave_out_what_is_not_known() -> None:
    assert importance_chart(_study(importance={})) == ""
    assert "learning_rate 70%" in str(importance_chart(_study()))
    assert "2 complete trials through 4 options" in str(parallel_chart(_study()))
    assert parallel_chart(_study(trials=_study()["trials"][1:])) == ""


def test_the_table_begins_with_the_chosen_trial() -> None:
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", str(table(_study())))
    assert len(rows) == 3
    assert rows[1].startswith("<td>1</td><td>0.95</td>")
