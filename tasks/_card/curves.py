"""Charts over numbers: learning curves, predicted against true, residuals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from tasks._card import svg

_WIDTH, _HEIGHT = 460.0, 262.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 50.0, 66.0, 36.0, 30.0


@dataclass(frozen=True)
class Series:
    """A line: its label, (x, y) points and its look (a class of the style sheet: s1, s2, s3)."""

    label: str
    points: Sequence[tuple[float, float]]
    css: str


@dataclass(frozen=True)
class _Frame:
    """The plotting area, its two scales and the axes already drawn."""

    x: svg.Scale
    y: svg.Scale
    body: list[str]
    right: float
    bottom: float


def _frame(
    xs: tuple[float, float],
    ys: tuple[float, float],
    x_label: str,
    y_label: str,
    *,
    log: bool = False,
    whole_x: bool = False,
    right: float = _RIGHT,
) -> _Frame:
    end, bottom = _WIDTH - right, _HEIGHT - _BOTTOM
    x = svg.linear(*xs, _LEFT, end)
    y = svg.logarithmic(*ys, bottom, _TOP) if log else svg.linear(*ys, bottom, _TOP)
    body = [svg.text(0, 13, y_label, "head-text")]
    for value in svg.log_ticks(*ys) if log else svg.ticks(*ys):
        body += [svg.line(_LEFT, y(value), end, y(value)), svg.text(_LEFT - 8, y(value) + 4, svg.number(value), "tick", "end")]
    for value in svg.ticks(*xs, 6):
        if not whole_x or float(value).is_integer():
            body += [
                svg.line(x(value), bottom, x(value), bottom + 4, "axis"),
                svg.text(x(value), bottom + 17, svg.number(value), "tick", "middle"),
            ]
    body += [svg.line(_LEFT, bottom, end, bottom, "axis"), svg.text(_WIDTH, bottom + 17, x_label, "tick", "end")]
    return _Frame(x, y, body, end, bottom)


def line_chart(
    name: str,
    title: str,
    series: Sequence[Series],
    *,
    mark: tuple[float, str] | None = None,
    log: bool | None = None,
    within: tuple[float, float] = (-math.inf, math.inf),
) -> Markup:
    """Lines over epochs, each labelled at its end; ``mark`` is a vertical line at an x with a word.

    ``log`` None: a logarithmic y axis if all values are positive and the largest is more than 30 times the smallest.
    ``within``: what the values can be (``words.bounds``); a linear axis does not go beyond it.
    """
    series = [s for s in series if s.points]
    values = [y for s in series for _, y in s.points]
    epochs = [x for s in series for x, _ in s.points]
    if not values:
        return Markup("")
    if log is None:
        log = min(values) > 0 and max(values) > 30 * min(values)
    low, high = (min(values) / 1.15, max(values) * 1.15) if log else svg.padded(values, within=within)
    if not log and min(values) >= 0:
        low = max(low, 0.0)
    xs = (min(epochs), max(epochs)) if max(epochs) > min(epochs) else (min(epochs) - 1, max(epochs) + 1)
    frame = _frame(xs, (low, high), "epoch", title, log=log, whole_x=True)
    body = frame.body
    if mark is not None:
        at = frame.x(mark[0])
        left_of = at > frame.right - 80
        body += [
            svg.line(at, _TOP, at, frame.bottom, "mark"),
            svg.text(at + (-5 if left_of else 5), _TOP - 5, mark[1], "note", "end" if left_of else "start"),
        ]
    ends = svg.spread([frame.y(s.points[-1][1]) for s in series], 15, _TOP, frame.bottom - 4)
    for one, label_y in zip(series, ends, strict=True):
        places = [(frame.x(a), frame.y(b)) for a, b in one.points]
        body.append(svg.polyline(places, f"line {one.css}"))
        body.append(svg.dot(*places[-1], 3, f"point {one.css}"))
        if len(places) <= 40:
            body += [
                svg.dot(px, py, 6, "hit", tip=f"epoch {svg.number(a)}: {one.label} {svg.number(b)}")
                for (px, py), (a, b) in zip(places, one.points, strict=True)
            ]
        body.append(svg.text(frame.right + 7, label_y + 4, one.label, f"label {one.css}"))
    parts = [f"{s.label} goes from {svg.number(s.points[0][1])} to {svg.number(s.points[-1][1])}" for s in series]
    return svg.svg(
        name, title, f"{len(set(epochs))} epochs: {'; '.join(parts)}." + (" Logarithmic axis." if log else ""), _WIDTH, _HEIGHT, body
    )


def predicted_vs_true(name: str, points: Sequence[tuple[float, float]]) -> Markup:
    """Predicted values over true ones, with the line on which a perfect model would lie."""
    if not points:
        return Markup("")
    low, high = svg.padded([v for point in points for v in point], 0.04)
    frame = _frame((low, high), (low, high), "true", "Predicted, over true", right=44)
    body = [*frame.body, svg.line(frame.x(low), frame.y(low), frame.x(high), frame.y(high), "ideal")]
    body += [svg.dot(frame.x(t), frame.y(p), 2.6, "cloud") for t, p in points]
    low_true, high_true = svg.number(min(t for t, _ in points)), svg.number(max(t for t, _ in points))
    desc = f"{len(points)} samples; true values from {low_true} to {high_true}. The dashed line is a perfect prediction."
    return svg.svg(name, "Predicted against true values", desc, _WIDTH, _HEIGHT, body)


def residuals(name: str, points: Sequence[tuple[float, float]]) -> Markup:
    """Residual (predicted minus true) over the predicted value: a shape here is something the model did not learn."""
    if not points:
        return Markup("")
    errors = [p - t for t, p in points]
    reach = max(abs(e) for e in errors) * 1.05 or 1.0
    frame = _frame(
        svg.padded([p for _, p in points], 0.04), (-reach, reach), "predicted", "Residual (predicted − true), over predicted", right=76
    )
    body = [*frame.body, svg.line(_LEFT, frame.y(0), frame.right, frame.y(0), "ideal")]
    body += [svg.dot(frame.x(p), frame.y(e), 2.6, "cloud") for (_, p), e in zip(points, errors, strict=True)]
    desc = (
        f"{len(points)} samples; mean residual {svg.number(sum(errors) / len(errors), 3)}, largest {svg.number(max(errors, key=abs), 3)}."
    )
    return svg.svg(name, "Residuals over the predicted value", desc, _WIDTH, _HEIGHT, body)


def residual_histogram(name: str, points: Sequence[tuple[float, float]]) -> Markup:
    """How often which residual: best is narrow, with its middle at 0."""
    if not points:
        return Markup("")
    errors = sorted(p - t for t, p in points)
    reach = max(abs(errors[0]), abs(errors[-1])) or 1.0
    num_bins = max(9, min(41, 2 * round(math.sqrt(len(errors)) / 2) + 1))
    counts = [0] * num_bins
    for error in errors:
        counts[min(int((error + reach) / (2 * reach) * num_bins), num_bins - 1)] += 1
    frame = _frame((-reach, reach), (0, max(counts) * 1.08), "residual", "Samples, by residual", right=76)
    body = list(frame.body)
    width = 2 * reach / num_bins
    for i, found in enumerate(counts):
        start = frame.x(-reach + i * width)
        tip = f"{svg.number(-reach + i * width, 3)} to {svg.number(-reach + (i + 1) * width, 3)}: {found}"
        body.append(
            svg.rect(
                start + 0.5, frame.y(found), frame.x(-reach + (i + 1) * width) - start - 1, frame.bottom - frame.y(found), "bar", tip=tip
            )
        )
    body.append(svg.line(frame.x(0), _TOP, frame.x(0), frame.bottom, "ideal"))
    middle = errors[len(errors) // 2]
    return svg.svg(name, "Distribution of the residuals", f"{len(errors)} samples, median {svg.number(middle, 3)}.", _WIDTH, _HEIGHT, body)
