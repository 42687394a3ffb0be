"""The card's section on compression: what was tried, as a table and as accuracy over latency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from markupsafe import Markup

from tasks._card import svg
from tasks._card.words import bounds, metric_name

_WIDTH, _HEIGHT = 560.0, 300.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 56.0, 20.0, 36.0, 34.0
_HEADS = ("", "{metric}", "size", "p50", "p95", "batch 32", "samples/s", "speed", "MACs", "parameters")


def compression_section(table: Mapping[str, Any]) -> Markup:
    """Plot and table of ``compression.json`` (``tasks.compress``), without the section's frame."""
    return accuracy_over_latency("compression", table) + compression_table(table)


def finding(table: Mapping[str, Any]) -> str:
    """One sentence: what was shipped, and why."""
    return f"Shipped {table['reason']}."


def accuracy_over_latency(name: str, table: Mapping[str, Any]) -> Markup:
    """A dot for each candidate: latency of one sample (logarithmic) and metric on the validation split; the shipped one is marked."""
    rows = [row for row in table["rows"] if row["metric"] is not None and "1" in row["speed"]]
    if not rows:
        return Markup("")
    metric = metric_name(table["metric"])
    xs, ys = [row["speed"]["1"]["p50_ms"] for row in rows], [row["metric"] for row in rows]
    low, high = min(xs) / 1.25, max(xs) * 1.25
    y_low, y_high = svg.padded(ys, 0.15, bounds(table["metric"]))
    x = svg.logarithmic(low, high, _LEFT, _WIDTH - _RIGHT)
    y = svg.linear(y_low, y_high, _HEIGHT - _BOTTOM, _TOP)
    body = _axes(x, y, (low, high), (y_low, y_high), metric)
    labels = svg.spread([y(value) for value in ys], 13, _TOP, _HEIGHT - _BOTTOM - 2)
    for row, latency, value, label_y in zip(rows, xs, ys, labels, strict=True):
        shipped = row["status"] == "chosen"
        tip = f"{row['name']}: {svg.number(value)} at {svg.number(latency, 3)} ms"
        body.append(svg.dot(x(latency), y(value), 6 if shipped else 4, f"point {_look(row)}", tip=tip))
        left_of = x(latency) > _WIDTH - 130
        words = f"{row['name']}, shipped" if shipped else row["name"]
        body.append(
            svg.text(x(latency) + (-10 if left_of else 10), label_y + 4, words, f"label {_look(row)}", "end" if left_of else "start")
        )
    chosen = next((row for row in rows if row["status"] == "chosen"), rows[0])
    told = f"{svg.number(chosen['metric'])} at {svg.number(chosen['speed']['1']['p50_ms'], 3)} ms"
    desc = f"{len(rows)} models on the validation split; shipped is {chosen['name']}: {told}. Logarithmic latency axis."
    return svg.svg(name, f"{metric} over latency of the candidates", desc, _WIDTH, _HEIGHT, body)


def _look(row: Mapping[str, Any]) -> str:
    return "s1" if row["status"] == "chosen" else "s2" if row["status"] == "over budget" else "s3"


def _axes(x: svg.Scale, y: svg.Scale, xs: tuple[float, float], ys: tuple[float, float], metric: str) -> list[str]:
    bottom, end = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    body = [svg.text(0, 13, f"{metric} (validation)", "head-text")]
    for value in svg.ticks(*ys):
        body += [svg.line(_LEFT, y(value), end, y(value)), svg.text(_LEFT - 8, y(value) + 4, svg.number(value), "tick", "end")]
    for value in svg.log_ticks(*xs):
        body += [
            svg.line(x(value), bottom, x(value), bottom + 4, "axis"),
            svg.text(x(value), bottom + 17, svg.number(value, 3), "tick", "middle"),
        ]
    body += [svg.line(_LEFT, bottom, end, bottom, "axis"), svg.text(end, bottom + 31, "latency of one sample, ms", "tick", "end")]
    return body


def compression_table(table: Mapping[str, Any]) -> Markup:
    """Every candidate with all its figures; the shipped one stands out. Latency is that of one sample, ms."""
    heads = "".join(f'<th scope="col">{escape(head.format(metric=metric_name(table["metric"])))}</th>' for head in _HEADS)
    rows = "".join(_table_row(row) for row in table["rows"])
    host, test = table["host"], table["test"]
    note = (
        f"Latency in ms on {escape(str(host['processor']))} with {host['threads']} threads, one sample unless told; speed is against fp32, "
        "the median over paired rounds. "
        f"{escape(metric_name(table['metric']))} on the validation split; on the test split fp32 has {_figure(test['fp32'])}, "
        f"the shipped model {_figure(test['shipped'])}."
    )
    return Markup(  # every text went through `escape`
        f'<div class="scroll"><table class="numbers dense"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'
        f'<p class="note">{note}</p>'
    )


def _table_row(row: Mapping[str, Any]) -> str:
    one, many = row["speed"].get("1", {}), row["speed"].get("32", {})
    cells = [
        _figure(row["metric"]),
        f"{row['size_bytes'] / 1e6:.3g} MB" if row["size_bytes"] is not None else "–",
        _figure(one.get("p50_ms"), 3),
        _figure(one.get("p95_ms"), 3),
        _figure(many.get("p50_ms"), 3),
        _figure(round(many["samples_per_s"]), 3) if many else "–",
        f"{one['speedup']:.2f}×" if one else "–",
        _short(row["macs"]),
        _short(row["num_parameters"]),
    ]
    shown: Sequence[str] = [f"<td>{cell}</td>" for cell in cells]
    head = f'<th scope="row" title="{escape(row["done"], quote=True)}">{escape(row["name"])}</th>'
    css = "main told" if row["status"] == "chosen" else "told"
    # The words get a line of their own: beside nine figures they would make the table wider than the page.
    words = f'<tr class="words"><td colspan="{len(_HEADS)}">{escape(_outcome(row))}</td></tr>'
    return f'<tr class="{css}">{head}{"".join(shown)}</tr>{words}'


def _outcome(row: Mapping[str, Any]) -> str:
    return str(row["why"]) if row["status"] in ("chosen", "baseline") else f"{row['status']}: {row['why']}"


def _figure(value: float | None, digits: int = 4) -> str:
    return "–" if value is None else svg.number(value, digits)


def _short(value: int | None) -> str:
    if value is None:
        return "–"
    return f"{value / 1e6:.3g} M" if value >= 1e6 else f"{value / 1e3:.3g} k" if value >= 1e3 else str(value)
