"""The page of a monitoring run: the verdict, and each column's distribution in training and as served. One file, no script."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks._drift import Bars, ColumnDrift
from tasks._reference import INPUT, PICTURE_COLUMNS

if TYPE_CHECKING:
    import pyarrow as pa

    from tasks.monitor import Watched

BINS, BARS_SHOWN = 20, 20
WIDTH, HEIGHT = 240, 48

_TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ found.model }}/{{ found.version }}: monitoring</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #1c2430; }
table { border-collapse: collapse; width: 100%; } td, th { text-align: left; padding: .35rem .6rem; border-bottom: 1px solid #e3e6ea; }
.bad { color: #b3261e; font-weight: 600; } .good { color: #1b6e3c; font-weight: 600; } small, .note { color: #5c6672; }
.key { display: inline-block; width: .8em; height: .8em; }
</style></head><body>
<h1>{{ found.model }}/{{ found.version }}</h1>
<p class="{{ 'bad' if found.verdict.drifted or found.verdict.quality_dropped else 'good' }}">{{ headline }}</p>
<p>{{ "{:,}".format(found.num_rows) }} served rows, {{ found.since[:16] }} to {{ found.until[:16] }} (UTC).</p>
{% if found.verdict.reasons %}<ul>{% for reason in found.verdict.reasons %}<li>{{ reason }}</li>{% endfor %}</ul>{% endif %}
{% if found.quality %}<h2>Quality</h2><p>{{ found.quality.metric }} {{ "%.4g"|format(found.quality.value) }} of
{{ found.quality.num }} true answers; {{ "%.4g"|format(found.quality.expected) }} on the test split
(p = {{ "%.2g"|format(found.quality.p_value) }}).</p>{% endif %}
{% if rows %}<h2>Columns</h2>
<p class="note"><span class="key" style="background:#9fb3c8"></span> learned from (predictions: the test split)
<span class="key" style="background:#d9822b"></span> served</p>
<table><tr><th>column</th><th>distance</th><th>p</th><th>missing</th><th>distribution</th><th></th></tr>
{% for column, picture in rows %}<tr><td>{{ column.name }}<br><small>{{ column.role }}</small></td><td>{{ "%.3g"|format(column.distance) }}</td>
<td>{{ "%.2g"|format(column.p_value) }}</td><td>{{ "%.1f"|format(100 * column.missing) }} %
<small>({{ "%.1f"|format(100 * column.missing_reference) }} %)</small></td><td>{{ picture|safe }}</td>
<td class="{{ 'bad' if column.drifted else '' }}">{{ column.reason }}</td></tr>{% endfor %}</table>
{% if found.verdict.enough %}<p><a href="evidently.html">Evidently's report</a> of the columns that are furthest away.</p>{% endif %}{% endif %}
{% if found.candidates %}<h2>For labelling</h2><p>{{ found.num_candidates }} rows in <code>{{ found.candidates.key }}</code>.</p>{% endif %}
<p class="note">Bars: {% for name, value in bars.items() %}{{ name }} {{ value }}{{ ", " if not loop.last }}{% endfor %}.</p>
</body></html>
"""


def page(found: Watched, bars: Bars, served: pa.Table | None, learned: pa.Table | None) -> str:
    """The whole page; every name and value in it is escaped."""
    from jinja2 import Environment

    if found.verdict.drifted or found.verdict.quality_dropped:
        headline = " and ".join(["drifted"] * found.verdict.drifted + ["quality dropped"] * found.verdict.quality_dropped)
    else:
        headline = "No drift." if found.verdict.enough else "Not enough was served to say anything."
    rows = [(column, _picture(column, served, learned)) for column in found.columns if served is not None and learned is not None]
    template = Environment(autoescape=True).from_string(_TEMPLATE)
    return template.render(found=found, bars=bars.model_dump(), headline=headline[0].upper() + headline[1:], rows=rows)


def _picture(column: ColumnDrift, served: pa.Table, learned: pa.Table) -> str:
    import pyarrow.compute as pc

    split = "test" if column.role == "prediction" else "train"
    learned = learned.filter(pc.equal(learned.column("split"), split))
    key = (
        column.name
        if column.role == "prediction" or (column.name in PICTURE_COLUMNS and column.name in served.column_names)
        else INPUT + column.name
    )
    now, then = ([value for value in table.column(key).to_pylist() if value is not None] for table in (served, learned))
    return bars_of(*(shares(column.kind, now, then)))


def shares(kind: str, now: Sequence[Any], then: Sequence[Any]) -> tuple[list[float], list[float]]:
    """Shares of both in the same bins, or of the same classes (the most frequent 20)."""
    if kind == "class":
        counts, counts_then = Counter(map(str, now)), Counter(map(str, then))
        names = [name for name, _ in (counts_then + counts).most_common(BARS_SHOWN)]
        return [counts[name] / max(1, len(now)) for name in names], [counts_then[name] / max(1, len(then)) for name in names]
    numbers = [np.array([value for value in map(float, values) if math.isfinite(value)]) for values in (now, then)]
    both = np.concatenate(numbers)
    if not len(both):
        return [], []
    low, high = np.quantile(both, [0.005, 0.995])
    edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
    found = [np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0] / max(1, len(values)) for values in numbers]
    return found[0].tolist(), found[1].tolist()


def bars_of(now: Sequence[float], then: Sequence[float]) -> str:
    """Two rows of bars over each other as SVG: numbers only, so nothing in it needs escaping."""
    top = max([*now, *then, 1e-9])
    step = WIDTH / max(1, len(now))
    bars = []
    for index, (one, other) in enumerate(zip(now, then, strict=True)):
        for value, colour, left, width in ((other, "#9fb3c8", 0.1, 0.8), (one, "#d9822b", 0.3, 0.4)):
            height = HEIGHT * value / top
            bars.append(
                f'<rect x="{(index + left) * step:.1f}" y="{HEIGHT - height:.1f}" width="{width * step:.1f}" height="{height:.1f}" fill="{colour}"/>'
            )
    return f'<svg width="{WIDTH}" height="{HEIGHT}" role="img">{"".join(bars)}</svg>'
