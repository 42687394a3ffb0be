"""The run card's section about tuning: how the best metric was found, which options mattered, where the good trials lie, and the front."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from markupsafe import Markup

from tasks._card import svg
from tasks._card.words import bounds, duration, plural

_WIDTH, _HEIGHT = 460.0, 262.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 54.0, 48.0, 36.0, 30.0
_AXIS_GAP = 120.0
_MOST_AXES = 7
_MOST_ROWS = 8

Study = Mapping[str, Any]


def body(study: Study) -> Markup:
    """The section's body from ``study.json`` (``tasks._tuning.summary.study_document``): HTML and SVG that need nothing from outside."""
    charts = [history_chart(study), importance_chart(study), front_chart(study)]
    figures = "".join(f"<figure>{chart}</figure>" for chart in charts if chart)
    wide = parallel_chart(study)
    return Markup(
        f'<p class="note">{escape(study["reason"][:1].upper() + study["reason"][1:])}.</p>'
        f'<div class="charts">{figures}</div>'
        + (f'<h3>Trials by option</h3><figure class="wide scroll">{wide}</figure>' if wide else "")
        + f"<h3>Best trials</h3>{table(study)}"
    )


def finding(study: Study) -> str:
    """What the section says, in a sentence or two."""
    metric = study["objectives"][0]
    states = [trial["state"] for trial in study["trials"]]
    first = next((trial for trial in study["trials"][:1] if study["num_first"] and trial["values"] and trial["state"] == "complete"), None)
    best = _trial(study, study["best"])
    lead = "Best" if len(study["objectives"]) == 1 else "Chosen:"
    words = f"{plural(states.count('complete'), 'complete trial')}, {states.count('pruned')} pruned, {states.count('failed')} failed; "
    words += f"sampler {study['sampler']}, pruner {study['pruner']}. {lead} {metric['label']} {svg.number(best['values'][0])}"
    return words + (f"; the options it began with reach {svg.number(first['values'][0])}." if first else ".")


def history_chart(study: Study) -> Markup:
    """Each trial's metric by number, and the best so far."""
    metric = study["objectives"][0]
    complete = [(trial["number"], trial["values"][0]) for trial in study["trials"] if trial["state"] == "complete"]
    pruned = [(trial["number"], trial["values"][0]) for trial in study["trials"] if trial["state"] == "pruned"]
    if not complete:
        return Markup("")
    better = max if metric["higher"] else min
    best = [(number, better(value for other, value in complete if other <= number)) for number, _ in complete]
    values = [value for _, value in (*complete, *pruned)]
    x = svg.linear(0, max(len(study["trials"]) - 1, 1), _LEFT, _WIDTH - _RIGHT)
    y, body = _y_axis(values, f"{metric['label']}, by trial", metric)
    body += _whole_ticks(x, len(study["trials"]) - 1, "trial")
    steps = [point for a, b in itertools.pairwise(best) for point in ((a[0], a[1]), (b[0], a[1]))] + [best[-1]]
    body.append(svg.polyline([(x(a), y(b)) for a, b in steps], "line s1"))
    body += [svg.dot(x(a), y(b), 3, "hollow", tip=f"trial {a}, pruned: {svg.number(b)}") for a, b in pruned]
    body += [svg.dot(x(a), y(b), 3, "cloud", tip=f"trial {a}: {svg.number(b)}") for a, b in complete]
    top = _trial(study, study["best"])
    body.append(svg.dot(x(top["number"]), y(top["values"][0]), 5, "point s2", tip=f"trial {top['number']}, chosen"))
    desc = f"{plural(len(study['trials']), 'trial')}; the best goes from {svg.number(best[0][1])} to {svg.number(best[-1][1])}. Hollow: pruned."
    return svg.svg("tuning-history", "History of the tuning", desc, _WIDTH, _HEIGHT, body)


def importance_chart(study: Study) -> Markup:
    """How much of the metric's variance each option explains."""
    shares = list(study["importance"].items())[:10]
    if not shares:
        return Markup("")
    body = [svg.text(0, 13, "Importance of each option", "head-text")]
    largest = max(share for _, share in shares) or 1.0
    for row, (name, share) in enumerate(shares):
        y = 34 + 23 * row
        body += [svg.text(0, y + 11, svg.clip(name, 22), "label"), svg.rect(150, y, 240, 14, "track")]
        body += [svg.rect(150, y, 240 * share / largest, 14, "bar"), svg.text(398, y + 11, f"{share:.0%}", "tick")]
    desc = ", ".join(f"{name} {share:.0%}" for name, share in shares) + " of the metric's variance (fANOVA)."
    return svg.svg("tuning-importance", "Importance of each option", desc, _WIDTH, 40 + 23 * len(shares), body)


def front_chart(study: Study) -> Markup:
    """The metric over latency or size, with the Pareto front."""
    if len(study["objectives"]) < 2:
        return Markup("")
    metric, cost = study["objectives"][:2]
    points = {trial["number"]: (trial["values"][1], trial["values"][0]) for trial in study["trials"] if trial["state"] == "complete"}
    x_low, x_high = svg.padded([a for a, _ in points.values()])
    x = svg.linear(x_low, x_high, _LEFT, _WIDTH - _RIGHT)
    unit = f", {cost['unit']}" if cost["unit"] else ""
    y, body = _y_axis([b for _, b in points.values()], f"{metric['label']}, over {cost['label']}{unit}", metric)
    for value in svg.ticks(x_low, x_high, 5):
        body += [svg.text(x(value), _HEIGHT - _BOTTOM + 17, svg.number(value), "tick", "middle")]
    for number, (a, b) in points.items():
        look = "point s2" if number == study["best"] else "point s1" if number in study["front"] else "hollow"
        words = "chosen" if number == study["best"] else "on the front" if number in study["front"] else "beaten"
        tip = f"trial {number}, {words}: {metric['label']} {svg.number(b)}, {cost['label']} {svg.number(a, 3)}{unit}"
        body.append(svg.dot(x(a), y(b), 5 if number == study["best"] else 3.5, look, tip=tip))
    line = sorted(points[number] for number in study["front"])
    body.insert(0, svg.polyline([(x(a), y(b)) for a, b in line], "line s3"))
    a, b = points[study["best"]]
    desc = f"{plural(len(study['front']), 'trial')} on the front of {len(points)}; chosen: {metric['label']} {svg.number(b)} at {cost['label']} "
    return svg.svg("tuning-front", "Pareto front", f"{desc}{svg.number(a, 3)}{unit}.", _WIDTH, _HEIGHT, body)


def parallel_chart(study: Study) -> Markup:
    """Parallel coordinates: a line for each complete trial through its options, the better the darker; the chosen one stands out."""
    trials = [trial for trial in study["trials"] if trial["state"] == "complete"]
    names = sorted(study["space"], key=lambda name: -study["importance"].get(name, 0.0))[:_MOST_AXES]
    if len(trials) < 2 or not names:
        return Markup("")
    metric = study["objectives"][0]
    values = [trial["values"][0] for trial in trials]
    shade = svg.linear(min(values), max(values), 0.08, 0.7) if metric["higher"] else svg.linear(max(values), min(values), 0.08, 0.7)
    top, bottom, left = 44.0, 236.0, max(40.0, svg.text_width(svg.clip(names[0], 17)) / 2 + 6)
    scales = [_option_scale(study["space"][name], bottom, top) for name in names]
    scales.append(svg.linear(*svg.padded(values, within=bounds(metric["label"])), bottom, top))
    body: list[str] = []
    for place, (name, scale) in enumerate(zip([*names, metric["label"]], scales, strict=True)):
        x = left + place * _AXIS_GAP
        body += [svg.line(x, top, x, bottom, "axis"), svg.text(x, 24, svg.clip(name, 17), "label", "middle", tip=name)]
        for value, words in (
            _axis_words(study["space"][name]) if place < len(names) else [(v, svg.number(v)) for v in (min(values), max(values))]
        ):
            body.append(svg.text(x + 5, scale(value) + 4, words, "tick"))
    for trial in sorted(trials, key=lambda trial: (trial["number"] == study["best"], shade(trial["values"][0]))):
        places = [scale(_as_number(study["space"][name], trial["params"][name])) for name, scale in zip(names, scales, strict=False)]
        places.append(scales[-1](trial["values"][0]))
        points = [(left + place * _AXIS_GAP, y) for place, y in enumerate(places)]
        chosen = trial["number"] == study["best"]
        opacity = 1.0 if chosen else shade(trial["values"][0])
        body.append(f'<g stroke-opacity="{opacity:.2f}">{svg.polyline(points, "line s2" if chosen else "line s1")}</g>')
    width = left + len(names) * _AXIS_GAP + 70
    desc = f"{len(trials)} complete trials through {plural(len(names), 'option')}; the chosen one is dashed."
    return svg.svg("tuning-parallel", "Parallel coordinates of the trials", desc, width, 252, body)


def table(study: Study) -> Markup:
    """The best trials with their options."""
    metric = study["objectives"][0]
    complete = [trial for trial in study["trials"] if trial["state"] == "complete"]
    ranked = sorted(complete, key=lambda trial: (trial["number"] != study["best"], (-1 if metric["higher"] else 1) * trial["values"][0]))
    heads = ["trial", *(f"{o['label']}{', ' + o['unit'] if o['unit'] else ''}" for o in study["objectives"]), *study["space"], "time"]
    rows = []
    for trial in ranked[:_MOST_ROWS]:
        cells = [str(trial["number"]), *(svg.number(value) for value in trial["values"])]
        cells += [_words(trial["params"].get(name)) for name in study["space"]]
        cells.append(duration(trial["seconds"]) if trial["seconds"] is not None else "–")
        css = ' class="main"' if trial["number"] == study["best"] else ""
        rows.append(f"<tr{css}>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>")
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    return Markup(
        f'<div class="scroll"><table class="numbers dense"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    )


def _trial(study: Study, number: int) -> Mapping[str, Any]:
    return next(trial for trial in study["trials"] if trial["number"] == number)


def _words(value: Any) -> str:
    return svg.number(value) if isinstance(value, int | float) and not isinstance(value, bool) else "–" if value is None else str(value)


def _y_axis(values: Sequence[float], label: str, metric: Study) -> tuple[svg.Scale, list[str]]:
    low, high = svg.padded(values, within=bounds(metric["label"]))
    y = svg.linear(low, high, _HEIGHT - _BOTTOM, _TOP)
    body = [svg.text(0, 13, label, "head-text")]
    for value in svg.ticks(low, high):
        body += [svg.line(_LEFT, y(value), _WIDTH - _RIGHT, y(value)), svg.text(_LEFT - 8, y(value) + 4, svg.number(value), "tick", "end")]
    return y, body


def _whole_ticks(x: svg.Scale, last: int, label: str) -> list[str]:
    bottom = _HEIGHT - _BOTTOM
    marks = [value for value in svg.ticks(0, max(last, 1), 6) if float(value).is_integer()]
    return [
        svg.line(_LEFT, bottom, _WIDTH - _RIGHT, bottom, "axis"),
        *(svg.text(x(value), bottom + 17, svg.number(value), "tick", "middle") for value in marks),
        svg.text(_WIDTH, bottom + 17, label, "tick", "end"),
    ]


def _as_number(found: Mapping[str, Any], value: Any) -> float:
    return float(found["values"].index(value)) if found["kind"] == "choice" else float(value)


def _option_scale(found: Mapping[str, Any], bottom: float, top: float) -> Callable[[float], float]:
    if found["kind"] == "choice":
        return svg.linear(-0.5, len(found["values"]) - 0.5, bottom, top)
    if found["log"]:
        inner = svg.linear(math.log(found["low"]), math.log(found["high"]), bottom, top)
        return lambda value: inner(math.log(value))
    return svg.linear(found["low"], found["high"], bottom, top)


def _axis_words(found: Mapping[str, Any]) -> list[tuple[float, str]]:
    if found["kind"] == "choice":
        return [(float(place), svg.clip(_words(value), 14)) for place, value in enumerate(found["values"])]
    return [(value, svg.number(value, 3)) for value in (found["low"], found["high"])]
