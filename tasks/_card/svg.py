"""SVG in small pieces: shapes, text, axes. Colours are classes of the page's style sheet, so one chart serves light, dark and print."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from html import escape

from markupsafe import Markup

Scale = Callable[[float], float]
_WIDTH_PER_CHAR = 0.56  # of the font size; the mean of system sans-serif fonts


def number(value: float, digits: int = 4) -> str:
    """A number for people: ``digits`` significant ones, thousands separated, no trailing zeros."""
    if value == 0:
        return "0"
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    size = math.floor(math.log10(abs(value)))
    if size < -3 or size >= 9:
        return _power(value, max(digits - 2, 1))
    text = f"{value:,.{max(digits - 1 - size, 0)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _power(value: float, decimals: int) -> str:
    """``2.5e-4``"""
    mantissa, exponent = f"{value:.{decimals}e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def clip(text: str, length: int) -> str:
    """At most ``length`` characters, the middle left out if it must be."""
    if len(text) <= length:
        return text
    head = (length - 1) * 2 // 3
    return f"{text[:head]}…{text[len(text) - (length - 1 - head) :]}"


def text_width(text: str, size: float = 12) -> float:
    """About how wide a text is, in user units."""
    return len(text) * size * _WIDTH_PER_CHAR


def svg(name: str, title: str, desc: str, width: float, height: float, body: Iterable[str], css: str = "") -> Markup:
    """A whole picture that says what it is to those who cannot see it.

    Args:
        name: unique on the page, a word; ids are made of it.
        title: what it is.
        desc: what it shows, in words and figures.
        width: user units; one is a CSS pixel at full size, and the picture shrinks with the page.
        height: user units.
        body: shapes, already SVG.
        css: further classes.
    """
    return Markup(  # every text in the body went through `escape`
        f'<svg class="chart {css}" role="img" aria-labelledby="{name}-t {name}-d" viewBox="0 0 {width:g} {height:g}" '
        f'width="{width:g}" height="{height:g}"><title id="{name}-t">{escape(title)}</title><desc id="{name}-d">{escape(desc)}</desc>'
        + "".join(body)
        + "</svg>"
    )


def _tip(tip: str) -> str:
    return f"<title>{escape(tip)}</title>" if tip else ""


def text(x: float, y: float, content: str, css: str = "", anchor: str = "start", *, tip: str = "", turn: float = 0) -> str:
    """``anchor`` is start, middle or end; ``turn`` in degrees round (x, y)."""
    turned = f' transform="rotate({turn:g} {x:.1f} {y:.1f})"' if turn else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{css}" text-anchor="{anchor}"{turned}>{escape(content)}{_tip(tip)}</text>'


def rect(
    x: float, y: float, width: float, height: float, css: str = "", *, tip: str = "", opacity: float | None = None, round_: float = 0
) -> str:
    shade = f' fill-opacity="{opacity:.3g}"' if opacity is not None else ""
    corner = f' rx="{round_:g}"' if round_ else ""
    head = f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{max(height, 0):.1f}" class="{css}"{shade}{corner}'
    return f"{head}>{_tip(tip)}</rect>" if tip else f"{head}/>"


def line(x1: float, y1: float, x2: float, y2: float, css: str = "grid") -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{css}"/>'


def dot(x: float, y: float, radius: float, css: str = "", *, tip: str = "") -> str:
    head = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" class="{css}"'
    return f"{head}>{_tip(tip)}</circle>" if tip else f"{head}/>"


def polyline(points: Sequence[tuple[float, float]], css: str) -> str:
    return f'<path d="M{"L".join(f"{x:.1f} {y:.1f}" for x, y in points)}" class="{css}"/>' if points else ""


def linear(low: float, high: float, start: float, end: float) -> Scale:
    """Maps [low, high] to [start, end]."""
    span = (high - low) or 1.0
    return lambda value: start + (value - low) / span * (end - start)


def logarithmic(low: float, high: float, start: float, end: float) -> Scale:
    inner = linear(math.log10(low), math.log10(high), start, end)
    return lambda value: inner(math.log10(max(value, low)))


def padded(values: Sequence[float], share: float = 0.06, within: tuple[float, float] = (-math.inf, math.inf)) -> tuple[float, float]:
    """The ends of an axis for these values: a little beyond them, but not out of ``within``, where the values themselves are in it."""
    low, high = min(values), max(values)
    pad = (high - low) * share or abs(high) * 0.05 or 1.0
    least, most = within if within[0] <= low and high <= within[1] else (-math.inf, math.inf)
    return max(low - pad, least), min(high + pad, most)


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers between low and high: steps of 1, 2, 2.5 or 5 times a power of ten."""
    span = high - low
    if span <= 0:
        return [low]
    base = 10.0 ** math.floor(math.log10(span / most))
    step = next((base * m for m in (1, 2, 2.5, 5, 10) if span / (base * m) <= most), base * 10)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [k * step for k in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten between low and high, with 2s and 5s between them where there are few."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 3), (1, 2, 5)):
        found = [f * 10.0**e for e in exponents for f in factors if low * 0.999 <= f * 10.0**e <= high * 1.001]
        if len(found) >= 3:
            return found
    return found


def spread(positions: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """The positions moved apart by at least ``gap``, inside [low, high], in the same order from top to bottom: for labels of lines."""
    order = sorted(range(len(positions)), key=lambda i: positions[i])
    placed = [0.0] * len(positions)
    last = low - gap
    for i in order:
        last = placed[i] = max(positions[i], last + gap)
    over = max(last - high, 0.0)
    for i in reversed(order):
        placed[i] = min(placed[i], high if over else placed[i])
        high = placed[i] - gap if over else high
    return placed
