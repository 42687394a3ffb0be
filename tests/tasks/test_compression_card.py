"""The card's section on compression, made of a table."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

from tasks._card.compression import accuracy_over_latency, compression_section, finding


def row(name: str, status: str, metric: float | None = 0.99, **more: Any) -> dict[str, Any]:
    speed = {"p50_ms": 0.2, "p95_ms": 0.3, "speedup": 2.5, "samples_per_s": 5000.0}
    return {
        "name": name,
        "done": "int8 & calibrated",
        "failure": "",
        "metric": metric,
        "loss": 0.0,
        "size_bytes": 300_000 if metric is not None else None,
        "num_parameters": 18_500,
        "macs": 9_660_000,
        "agreement": 1.0,
        "uncertainty": 0.0,
        "speed": {"1": speed, "32": speed} if metric is not None else {},
        "status": status,
        "why": "because <it> is",
        **more,
    }


TABLE: dict[str, Any] = {
    "chosen": "int8",
    "reason": "int8: 2.50 times faster",
    "metric": "accuracy",
    "rows": [row("fp32", "baseline", 0.995), row("int8", "chosen"), row("prune-50", "over budget", 0.9), row("student", "failed", None)],
    "test": {"fp32": 0.993, "shipped": 0.991},
    "host": {"processor": "A <processor>", "threads": 2},
}


def test_the_plot_marks_what_is_shipped_and_is_well_formed() -> None:
    plot = accuracy_over_latency("plot", TABLE)
    tree = ElementTree.fromstring(plot)
    texts = [element.text for element in tree.iter() if element.tag.endswith("text")]
    assert "int8, shipped" in texts
    assert "prune-50" in texts
    assert "student" not in texts
    assert len([element for element in tree.iter() if element.tag.endswith("circle")]) == 3


def test_the_table_has_every_candidate_and_escapes_what_it_shows() -> None:
    section = str(compression_section(TABLE))
    assert section.count('<tr class="words">') == 4
    assert '<tr class="main told"><th scope="row" title="int8 &amp; calibrated">int8</th>' in section
    assert "failed: because &lt;it&gt; is" in section
    assert "A &lt;processor&gt; with 2 threads" in section
    assert "0.993" in section
    assert "0.991" in section
    assert "9.66 M" in section
    assert "18.5 k" in section
    assert "<it>" not in section


def test_no_axis_promises_more_than_a_share_can_be() -> None:
    rows = [row("fp32", "baseline", 1.0), row("int8", "chosen", 1.0)]
    for metric, beyond in (("accuracy", False), ("rmse", True)):
        tree = ElementTree.fromstring(accuracy_over_latency("plot", {**TABLE, "metric": metric, "rows": rows}))
        ticks = [
            float(one.text or 0)
            for one in tree.iter()
            if one.tag.endswith("text") and one.get("text-anchor") == "end" and one.get("x") == "48.0"
        ]
        assert len(ticks) >= 3
        assert (max(ticks) > 1) is beyond


def test_the_finding_is_one_sentence() -> None:
    assert finding(TABLE) == "Shipped int8: 2.50 times faster."


def test_trees_and_numbers_are_drawn_too() -> None:
    rows = [row("fp32", "baseline", 3.2, macs=None), row("trees-50", "chosen", 3.1, macs=None)]
    section = str(compression_section({**TABLE, "metric": "rmse", "rows": rows}))
    assert "Root mean squared error" in section
    ElementTree.fromstring(accuracy_over_latency("plot", {**TABLE, "metric": "rmse", "rows": rows}))
