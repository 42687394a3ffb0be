"""The confusion matrix as a picture, and the pairs that are confused most."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from tasks._card import svg

MOST_CLASSES = 50
_SIZE = 720.0


def confused_pairs(classes: Sequence[str], matrix: Sequence[Sequence[int]], most: int = 10) -> list[tuple[str, str, int, float]]:
    """The largest off-diagonal cells: (true, predicted, count, share of the true class)."""
    sums = [sum(row) for row in matrix]
    cells = [(count, i, j) for i, row in enumerate(matrix) for j, count in enumerate(row) if i != j and count]
    cells.sort(key=lambda cell: (-cell[0], cell[1], cell[2]))
    return [(classes[i], classes[j], count, count / sums[i]) for count, i, j in cells[:most]]


def confusion_matrix(name: str, classes: Sequence[str], matrix: Sequence[Sequence[int]]) -> Markup:
    """Rows are the true classes, columns what was said. Blue: right; orange: wrong; the stronger, the larger its share of the row.

    Up to 16 classes cells carry count and share, up to 30 the count; beyond, colour and the pointer's tip. Above 50 classes there is none:
    the pairs that are confused most tell more.
    """
    n = len(classes)
    if not n or n > MOST_CLASSES:
        return Markup("")
    size = 13.0 if n <= 16 else 11.0 if n <= 30 else 9.0
    letters = 22 if n <= 30 else 16
    left = min(max(svg.text_width(svg.clip(c, letters), size) for c in classes), 150) + 34
    flat = n <= 16 and max(svg.text_width(svg.clip(c, letters), size) for c in classes) < (_SIZE - left) / n - 4
    cell = min((_SIZE - left - 10) / n, 62.0)
    height_of_labels = 16.0 if flat else min(max(svg.text_width(svg.clip(c, letters), size) for c in classes), 130) + 4
    top = height_of_labels + 20
    body = [
        svg.text(left + cell * n / 2, 11, "predicted", "axis-name", "middle"),
        svg.text(11, top + cell * n / 2, "true", "axis-name", "middle", turn=-90),
    ]
    for i, label in enumerate(classes):
        middle = (i + 0.5) * cell
        words = svg.clip(label, letters)
        css = "label" if n <= 30 else "label tiny"
        body.append(svg.text(left - 8, top + middle + 4, words, css, "end", tip=label))
        if flat:
            body.append(svg.text(left + middle, top - 7, words, css, "middle", tip=label))
        else:
            body.append(svg.text(left + middle + 4, top - 7, words, css, "start", tip=label, turn=-90))
    for i, row in enumerate(matrix):
        body += _row(classes, i, row, left, top + i * cell, cell)
    right = sum(matrix[i][i] for i in range(n))
    total = sum(map(sum, matrix))
    pairs = confused_pairs(classes, matrix, 3)
    desc = f"{right:,} of {total:,} right. " + (
        "Most confused: " + "; ".join(f"{t} taken for {p} {k} times" for t, p, k, _ in pairs) + "." if pairs else "No mistake."
    )
    return svg.svg(name, "Confusion matrix", desc, left + cell * n + 2, top + cell * n + 2, body, "matrix")


def _row(classes: Sequence[str], i: int, row: Sequence[int], left: float, y: float, cell: float) -> list[str]:
    total = sum(row)
    n = len(row)
    body = []
    for j, count in enumerate(row):
        x, share = left + j * cell, count / total if total else 0.0
        # The square root makes a mistake in a hundred visible beside 99 that were right.
        opacity = (0.12 + 0.8 * share if i == j else 0.16 + 0.84 * math.sqrt(share)) if count else 1.0
        tip = (
            f"{classes[i]} taken for {classes[j]}: {count:,} ({share:.1%} of {total:,})"
            if i != j
            else f"{classes[i]} right: {count:,} of {total:,} ({share:.1%})"
        )
        css = ("right" if i == j else "wrong") if count else "none"
        body.append(svg.rect(x + 0.5, y + 0.5, cell - 1, cell - 1, css, tip=tip, opacity=opacity, round_=1 if n <= 30 else 0))
        if not count or n > 30:
            continue
        strong = "strong" if opacity > 0.6 else ""
        if n <= 16 and cell > 38:
            body.append(svg.text(x + cell / 2, y + cell / 2 + 1, f"{count:,}", f"count {strong}", "middle"))
            body.append(
                svg.text(
                    x + cell / 2, y + cell / 2 + 14, f"{share:.1%}" if 0 < share < 0.0995 else f"{share:.0%}", f"share {strong}", "middle"
                )
            )
        elif svg.text_width(f"{count:,}", 10) < cell:
            body.append(svg.text(x + cell / 2, y + cell / 2 + 4, f"{count:,}", f"share {strong}", "middle"))
    return body
