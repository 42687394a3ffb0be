"""Charts of a model looked at in depth: reliability, ROC, precision and recall, and figures with their intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from tasks._card import svg

_WIDTH, _HEIGHT = 380.0, 330.0
_LEFT, _TOP, _SIDE = 44.0, 36.0, 250.0
_ROWS_WIDTH = 620.0
_LABELLED = 3


def _square(x_label: str, y_label: str) -> tuple[svg.Scale, svg.Scale, list[str]]:
    """Two scales from 0 to 1 and the axes of a square chart."""
    x, y = svg.linear(0, 1, _LEFT, _LEFT + _SIDE), svg.linear(0, 1, _TOP + _SIDE, _TOP)
    body = [svg.text(0, 13, y_label, "head-text")]
    for value in (0, 0.25, 0.5, 0.75, 1):
        body += [svg.line(_LEFT, y(value), _LEFT + _SIDE, y(value)), svg.text(_LEFT - 8, y(value) + 4, f"{value:g}", "tick", "end")]
        body.append(svg.text(x(value), _TOP + _SIDE + 17, f"{value:g}", "tick", "middle"))
    body += [svg.line(_LEFT, y(0), _LEFT + _SIDE, y(0), "axis"), svg.text(_LEFT + _SIDE, _TOP + _SIDE + 33, x_label, "tick", "end")]
    return x, y, body


def reliability_diagram(name: str, calibration: Mapping[str, Any]) -> Markup:
    """How often the model is right where it gives its answer a score; the dashed line is where scores are probabilities."""
    bins = calibration["bins"]
    if not bins:
        return Markup("")
    x, y, body = _square("score of the answer", "Right, by score")
    most = max(entry["count"] for entry in bins)
    for entry in bins:
        tip = f"scores {entry['low']:.2f} to {entry['high']:.2f}: {entry['count']} samples, {entry['accuracy']:.1%} right"
        tall = 26 * entry["count"] / most
        body.append(svg.rect(x(entry["low"]) + 1, y(0) - tall, x(entry["high"]) - x(entry["low"]) - 2, tall, "split2", tip=tip))
    body.append(svg.line(x(0), y(0), x(1), y(1), "ideal"))
    series = [("s1", bins, "shipped")]
    if calibration.get("fitted", {}).get("kept"):
        series.append(("s3", calibration["bins_without"], "without temperature"))
    for css, entries, _ in series:
        places = [(x(entry["confidence"]), y(entry["accuracy"])) for entry in entries]
        body += [svg.polyline(places, f"line {css}"), *(svg.dot(px, py, 3, f"point {css}") for px, py in places)]
    for number, (css, _, told) in enumerate(series):
        body.append(svg.text(_LEFT + 10, _TOP + 14 + 17 * number, told, f"label {css}"))
    desc = f"Expected calibration error {calibration['ece']:.3f} on the test split; bars show how many samples have such a score."
    return svg.svg(name, "Calibration curve", desc, _WIDTH, _HEIGHT, body)


def class_curves(name: str, curves: Sequence[Mapping[str, Any]], kind: str) -> Markup:
    """``roc`` or ``pr`` curves, one a class; the weakest are labelled where there are many."""
    if not curves:
        return Markup("")
    roc = kind == "roc"
    figure = "auc" if roc else "average_precision"
    x, y, body = _square("false positive rate" if roc else "recall", "True positive rate" if roc else "Precision")
    if roc:
        body.append(svg.line(x(0), y(0), x(1), y(1), "ideal"))
    ordered = sorted(curves, key=lambda one: (one[figure], one["class"]))
    for place, one in reversed(list(enumerate(ordered))):
        css = f"line s{place + 1}" if place < _LABELLED else "line thin"
        body.append(svg.polyline([(x(a), y(b)) for a, b in one[kind]], css))
    for place, one in enumerate(ordered[:_LABELLED]):
        words = f"{svg.clip(one['class'], 16)} {one[figure]:.3f}"
        body.append(svg.text(_LEFT + _SIDE - 8, _TOP + _SIDE - 44 + 16 * place, words, f"label s{place + 1}", "end", tip=one["class"]))
    title = "ROC curves" if roc else "Precision and recall"
    told = "area under the curve" if roc else "average precision"
    desc = f"{title} on the test split; lowest {told}: {ordered[0]['class']} with {ordered[0][figure]:.3f}, of {len(curves)} shown."
    return svg.svg(name, title, desc, _WIDTH, _HEIGHT, body)


@dataclass(frozen=True)
class Row:
    """A figure with its interval; ``marked`` stands out."""

    label: str
    note: str
    figure: float
    low: float
    high: float
    marked: bool = False


def interval_rows(
    name: str,
    title: str,
    rows: Sequence[Row],
    *,
    mark: tuple[float, str] | None = None,
    within: tuple[float, float] = (-math.inf, math.inf),
) -> Markup:
    """A dot and a line from low to high for each row; ``mark`` is a figure to compare with, and its name.

    ``within``: what the figures can be (``words.bounds``); the axis does not go beyond it.
    """
    if not rows:
        return Markup("")
    left = min(max(svg.text_width(svg.clip(row.label, 38), 13) for row in rows) + 12, 270)
    right = max(svg.text_width(row.note, 12) for row in rows) + 60
    values = [value for row in rows for value in (row.low, row.high)] + ([mark[0]] if mark else [])
    low, high = svg.padded(values, 0.05, within)
    x = svg.linear(low, high, left, _ROWS_WIDTH - right)
    top, bottom = 24.0, 24.0 + 22 * len(rows)
    body: list[str] = []
    for value in svg.ticks(low, high, 5):
        body += [svg.line(x(value), top - 4, x(value), bottom), svg.text(x(value), bottom + 15, svg.number(value, 3), "tick", "middle")]
    if mark is not None:
        body += [svg.line(x(mark[0]), top - 6, x(mark[0]), bottom, "ideal"), svg.text(x(mark[0]), top - 10, mark[1], "note", "middle")]
    for place, row in enumerate(rows):
        y = top + 11 + 22 * place
        css = "s2" if row.marked else "s1"
        tip = f"{row.label}: {svg.number(row.figure)} ({svg.number(row.low)} to {svg.number(row.high)})"
        body.append(svg.text(left - 12, y + 4, svg.clip(row.label, 38), "label", "end", tip=row.label))
        body += [
            svg.polyline([(x(row.low), y), (x(row.high), y)], f"line whisker {css}"),
            svg.dot(x(row.figure), y, 4, f"point {css}", tip=tip),
        ]
        body.append(svg.text(_ROWS_WIDTH - right + 12, y + 4, f"{svg.number(row.figure, 3)}  {row.note}", "tick"))
    desc = "; ".join(f"{row.label} {svg.number(row.figure, 3)}" for row in rows[:6]) + "."
    return svg.svg(name, title, desc, _ROWS_WIDTH, bottom + 22, body)
