"""From a ``Comparison`` to its page. Pure: the same values give the same bytes."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from tasks._card import curves, svg, words
from tasks._card.comparison import Comparison, MetricRow, Range, Side

_WIDTH, _ROW, _LEFT, _RIGHT = 760.0, 34.0, 190.0, 90.0


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(metric_name=words.metric_name, figure=words.figure, range=_range, signed=_signed)
    environment.globals.update(plural=words.plural)
    return environment


def render_comparison(comparison: Comparison) -> str:
    """One HTML page that needs nothing else."""
    first, second = comparison.sides
    return (
        _environment()
        .get_template("compare.html.j2")
        .render(
            comparison=comparison,
            first=first,
            second=second,
            verdict=verdict(comparison),
            metrics_finding=_metrics_finding(comparison),
            has_intervals=any(row.first_interval or row.second_interval for row in comparison.metrics),
            chart=difference_chart("differences", comparison),
            curves=learning_curves(first, second),
            models_finding=_models_finding(first, second),
        )
    )


def verdict(comparison: Comparison) -> str:
    """One sentence: which is better in the main metric, and whether the test rows can tell."""
    first, second = comparison.sides
    row = next((row for row in comparison.metrics if row.name == first.metric), None)
    if row is None or row.difference is None:
        return "They have no metric in common."
    name = words.metric_name(row.name)
    if not comparison.same_test_split:
        return f"{name} is {words.figure(row.first or 0)} and {words.figure(row.second or 0)}, measured on different data."
    if row.difference == 0:
        return f"Both have the same {name.lower() if name[1:].islower() else name}."
    ahead = second if (row.difference > 0) == row.higher_is_better else first
    said = f"{name} of {ahead.ref} is better by {words.figure(abs(row.difference))}"
    if row.difference_interval is None:
        return f"{said}; how sure that is cannot be told without both models' predictions."
    if row.better == 0:
        return f"{said}, but the {words.plural(comparison.num_paired, 'test row')} cannot tell them apart."
    return f"{said}, more than chance explains (95 % interval of the difference {_range(row.difference_interval)})."


def _metrics_finding(comparison: Comparison) -> str:
    rows = [row for row in comparison.metrics if row.difference_interval is not None]
    if not rows:
        return ""
    clear = [row for row in rows if row.better]
    return f"{len(clear)} of {words.plural(len(rows), 'difference')} {'is' if len(clear) == 1 else 'are'} more than chance."


def _models_finding(first: Side, second: Side) -> str:
    if not first.num_bytes or not second.num_bytes or first.num_bytes == second.num_bytes:
        return ""
    small, large = sorted((first, second), key=lambda side: side.num_bytes)
    return f"The package of {small.ref} is {svg.number(large.num_bytes / small.num_bytes, 2)} times smaller."


def difference_chart(name: str, comparison: Comparison) -> Markup:
    """Each metric's difference with its interval, as multiples of half the interval's width: clear ones do not touch the middle line."""
    rows = [row for row in comparison.metrics if row.difference_interval is not None and row.difference is not None]
    if not rows:
        return Markup("")
    first, second = comparison.sides
    reach = max(max(abs(end) for end in _scaled(row)) for row in rows) * 1.08
    x = svg.linear(-reach, reach, _LEFT, _WIDTH - _RIGHT)
    bottom = 26 + len(rows) * _ROW
    body = [svg.line(x(0), 18, x(0), bottom, "ideal")]
    body += [svg.text(_LEFT, 10, f"← {svg.clip(first.ref, 24)} is better", "tick")]
    body += [svg.text(_WIDTH - _RIGHT, 10, f"{svg.clip(second.ref, 24)} is better →", "tick", "end")]
    for place, row in enumerate(rows):
        y = 40 + place * _ROW
        low, middle, high = _scaled(row)
        look = {0: "s3", 1: "s1", 2: "s2"}[row.better]
        said = f"{words.metric_name(row.name)}: {_signed(row.difference or 0)}, 95 % interval {_range(row.difference_interval or (0, 0))}"
        body.append(svg.text(_LEFT - 12, y + 4, svg.clip(words.metric_name(row.name), 28), "label", "end"))
        body.append(svg.polyline([(x(low), y), (x(high), y)], f"line {look}"))
        body.append(svg.dot(x(middle), y, 5, f"point {look}", tip=said))
        body.append(svg.text(_WIDTH - _RIGHT + 10, y + 4, _signed(row.difference or 0), f"tick {look}"))
    desc = "; ".join(f"{words.metric_name(row.name)} {_signed(row.difference or 0)}" for row in rows) + "."
    return svg.svg(name, f"Differences between {first.ref} and {second.ref} with 95 % intervals", desc, _WIDTH, bottom + 4, body)


def _scaled(row: MetricRow) -> tuple[float, float, float]:
    """Low end, difference and high end, to the right where the second is better; in units that make metrics comparable."""
    assert row.difference_interval is not None
    low, high = row.difference_interval
    unit = (high - low) / 2 or abs(row.difference or 0) or 1.0
    sign = 1 if row.higher_is_better else -1
    ends = sorted((sign * low / unit, sign * high / unit))
    return ends[0], sign * (row.difference or 0) / unit, ends[1]


def learning_curves(first: Side, second: Side) -> list[Markup]:
    """Loss and main metric of both on the validation split, in one plot each, over the share of the training."""
    charts = []
    for key, title in (("loss", "Validation loss"), (first.metric, words.metric_name(first.metric))):
        series = [
            curves.Series(label, points, css)
            for side, label, css in ((first, "first", "s1"), (second, "second", "s2"))
            if len(points := _points(side, f"valid_{key}")) > 1
        ]
        if series:
            charts.append(curves.line_chart(f"curve-{key}", title, series, log=None if key == "loss" else False, within=words.bounds(key)))
    return charts


def _points(side: Side, key: str) -> list[tuple[float, float]]:
    return [(float(entry["epoch"] or 0), float(value)) for entry in side.epochs if (value := entry.get(key)) is not None]


def _signed(value: float) -> str:
    """``+0.0120``; ``0`` for none."""
    return "0" if value == 0 else f"{'+' if value > 0 else '−'}{words.figure(abs(value))}"


def _range(ends: Range) -> str:
    return f"{_plain(ends[0])} to {_plain(ends[1])}"


def _plain(value: float) -> str:
    return f"{'−' if value < 0 else ''}{words.figure(abs(value))}"
