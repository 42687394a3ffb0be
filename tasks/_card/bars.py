"""Charts of bars: classes per split, stages, importance; and the small bar inside a table's cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from tasks._card import svg
from tasks._card.model import StageRow
from tasks._card.words import duration, plural

_WIDTH = 560.0
MOST_ROWS = 30  # beyond, classes become thin columns


def class_histogram(name: str, classes: Sequence[str], counts: Mapping[str, Mapping[str, int]]) -> Markup:
    """Samples of each class, stacked by split: a bar for each class, or thin columns sorted by size where there are many."""
    splits = [split for split in counts if any(counts[split].values())]
    totals = {c: sum(counts[s].get(c, 0) for s in splits) for c in classes}
    if not totals or not any(totals.values()):
        return Markup("")
    least, largest = min(totals, key=lambda c: totals[c]), max(totals, key=lambda c: totals[c])
    desc = f"{plural(len(classes), 'class', 'classes')}; largest {largest} with {totals[largest]:,} samples, smallest {least} with {totals[least]:,}."
    draw = _class_rows if len(classes) <= MOST_ROWS else _class_columns
    body, height = draw(classes, splits, counts, totals)
    x = 0.0
    for i, split in enumerate(splits):
        words = f"{split} {sum(counts[split].values()):,}"
        body += [svg.rect(x, 2, 11, 11, f"split{i}"), svg.text(x + 17, 12, words, "tick")]
        x += 17 + svg.text_width(words) + 22
    return svg.svg(name, "Samples of each class and split", desc, _WIDTH, height, body)


def _class_rows(
    classes: Sequence[str], splits: Sequence[str], counts: Mapping[str, Mapping[str, int]], totals: Mapping[str, int]
) -> tuple[list[str], float]:
    left = min(max(svg.text_width(svg.clip(c, 24), 14) for c in classes) + 12, 190)
    x = svg.linear(0, max(totals.values()), 0, _WIDTH - left - 60)
    body: list[str] = []
    for row, label in enumerate(classes):
        y, at = 28 + row * 20, left
        body.append(svg.text(left - 10, y + 11, svg.clip(label, 24), "label", "end", tip=label))
        for i, split in enumerate(splits):
            found = counts[split].get(label, 0)
            body.append(svg.rect(at, y, x(found) - 1, 14, f"split{i}", tip=f"{label}, {split}: {found:,}"))
            at += x(found)
        body.append(svg.text(at + 7, y + 11, f"{totals[label]:,}", "tick"))
    return body, 30 + len(classes) * 20


def _class_columns(
    classes: Sequence[str], splits: Sequence[str], counts: Mapping[str, Mapping[str, int]], totals: Mapping[str, int]
) -> tuple[list[str], float]:
    order = sorted(classes, key=lambda c: (-totals[c], c))
    top, bottom, left = 34.0, 200.0, 48.0
    y = svg.linear(0, totals[order[0]], bottom, top)
    width = (_WIDTH - left) / len(order)
    body: list[str] = []
    for value in svg.ticks(0, totals[order[0]], 4):
        body += [svg.line(left, y(value), _WIDTH, y(value)), svg.text(left - 8, y(value) + 4, svg.number(value), "tick", "end")]
    for column, label in enumerate(order):
        base = bottom
        for i, split in enumerate(splits):
            found = counts[split].get(label, 0)
            tall = bottom - y(found)
            body.append(
                svg.rect(
                    left + column * width,
                    base - tall,
                    max(width - (1 if width > 3 else 0.2), 0.5),
                    tall,
                    f"split{i}",
                    tip=f"{label}, {split}: {found:,}",
                )
            )
            base -= tall
    body += [svg.text(left, bottom + 17, f"{svg.clip(order[0], 30)} ({totals[order[0]]:,})", "tick", tip=order[0])]
    body += [svg.text(_WIDTH, bottom + 17, f"{svg.clip(order[-1], 30)} ({totals[order[-1]]:,})", "tick", "end", tip=order[-1])]
    return body, bottom + 24


def split_bar(name: str, num_rows: Mapping[str, int]) -> Markup:
    """The shares of the splits in one bar, for data without classes."""
    total = sum(num_rows.values())
    if not total:
        return Markup("")
    body, at, x = [], 0.0, 0.0
    for i, (split, found) in enumerate(num_rows.items()):
        words = f"{split} {found:,} ({found / total:.0%})"
        body += [svg.rect(x, 2, 11, 11, f"split{i}"), svg.text(x + 17, 12, words, "tick")]
        x += 17 + svg.text_width(words) + 22
        body.append(svg.rect(at, 26, _WIDTH * found / total - 1, 16, f"split{i}", tip=f"{split}: {found:,}"))
        at += _WIDTH * found / total
    desc = "; ".join(f"{split} {found:,}" for split, found in num_rows.items())
    return svg.svg(name, "Rows of each split", desc, _WIDTH, 46, body)


def stage_waterfall(name: str, stages: Sequence[StageRow]) -> Markup:
    """What took how long, one after the other; a stage that was taken from an earlier run is an outline."""
    total = sum(stage.seconds for stage in stages)
    left, row = min(max((svg.text_width(svg.clip(s.name, 24), 14) for s in stages), default=0) + 14, 190), 24
    x = svg.linear(0, total or 1.0, left, _WIDTH - 120)
    bottom = 8 + len(stages) * row
    body: list[str] = []
    for value in svg.ticks(0, total, 5) if total else []:
        body += [svg.line(x(value), 4, x(value), bottom), svg.text(x(value), bottom + 15, duration(value), "tick", "middle")]
    now = 0.0
    for i, stage in enumerate(stages):
        y, cached = 8 + i * row, stage.state != "completed"
        words = stage.state if cached else duration(stage.seconds)
        width = max(x(now + stage.seconds) - x(now), 2)
        body.append(svg.text(left - 12, y + 12, svg.clip(stage.name, 24), "label", "end", tip=stage.name))
        body.append(
            svg.rect(x(now), y, width, 15, "bar hollow" if cached else "bar", tip=f"{stage.name}: {stage.state}, {duration(stage.seconds)}")
        )
        body.append(svg.text(x(now) + width + 7, y + 12, words, "tick"))
        now += stage.seconds
    desc = "; ".join(f"{s.name} {s.state} {duration(s.seconds)}" for s in stages) + f". Together {duration(total)}."
    return svg.svg(name, "Time of each stage", desc, _WIDTH, bottom + 22, body)


def importance_bars(name: str, importance: Sequence[tuple[str, float]], most: int = 20) -> Markup:
    """The columns that the model leans on, largest first."""
    shown = sorted(importance, key=lambda pair: -abs(pair[1]))[:most]
    if not shown:
        return Markup("")
    left = min(max(svg.text_width(svg.clip(c, 28), 14) for c, _ in shown) + 12, 210)
    x = svg.linear(0, max(abs(v) for _, v in shown) or 1.0, 0, _WIDTH - left - 70)
    body: list[str] = []
    for i, (column, value) in enumerate(shown):
        y = 4 + i * 20
        body.append(svg.text(left - 10, y + 11, svg.clip(column, 28), "label", "end", tip=column))
        body += [svg.rect(left, y, max(x(abs(value)), 1), 14, "bar", tip=f"{column}: {svg.number(value)}")]
        body.append(svg.text(left + x(abs(value)) + 7, y + 11, svg.number(value, 3), "tick"))
    desc = "; ".join(f"{column} {svg.number(value, 3)}" for column, value in shown[:5]) + "."
    return svg.svg(name, f"Importance of the columns, the first {len(shown)} of {len(importance)}", desc, _WIDTH, 8 + len(shown) * 20, body)


def cell_bar(name: str, value: float, what: str) -> Markup:
    """A bar of a share (0 to 1) for a table's cell."""
    width = 90.0
    body = [svg.rect(0, 3, width, 6, "track", round_=1), svg.rect(0, 3, width * min(max(value, 0.0), 1.0), 6, "bar", round_=1)]
    return svg.svg(name, what, f"{value:.1%}", width, 12, body, "cell")
