"""How much the model suffers when its input is disturbed: pictures by noise, blur and rotation, rows by noise and missing values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

PICTURE_LEVELS: dict[str, tuple[float, ...]] = {"noise": (0.05, 0.1, 0.2), "blur": (0.02, 0.05, 0.1), "rotation": (5.0, 10.0, 20.0)}
PICTURE_UNITS = {"noise": "of the brightness range", "blur": "of the side", "rotation": "degrees"}
ROW_LEVELS: dict[str, tuple[float, ...]] = {"noise": (0.1, 0.25, 0.5), "missing": (0.05, 0.1, 0.25)}
ROW_UNITS = {"noise": "of a column's standard deviation", "missing": "of the values"}

Pixels = NDArray[np.uint8]
Columns = dict[str, NDArray[Any]]


def disturb_picture(kind: str, level: float, pixels: Pixels, seed: Sequence[int]) -> Pixels:
    """One picture, uint8 [H, W, 3], disturbed; the same seed gives the same picture.

    ``noise``: normal, of the brightness, with a standard deviation of ``level`` times 255. ``blur``: Gaussian, with a radius of ``level`` times
    the shorter side. ``rotation``: by ``level`` degrees, to either side; corners get the colour of the border.
    """
    from PIL import Image, ImageFilter

    rng = np.random.default_rng(list(seed))
    if kind == "noise":
        noisy = pixels + rng.normal(0, level * 255, (*pixels.shape[:2], 1))
        return np.asarray(noisy.round().clip(0, 255), np.uint8)
    picture = Image.fromarray(pixels)
    if kind == "blur":
        return np.asarray(picture.filter(ImageFilter.GaussianBlur(level * min(pixels.shape[:2]))), np.uint8)
    assert kind == "rotation", kind
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    fill = tuple(int(value) for value in np.median(border, axis=0))
    angle = level if rng.integers(2) else -level
    return np.asarray(picture.rotate(angle, Image.Resampling.BILINEAR, fillcolor=fill), np.uint8)


def disturb_rows(kind: str, level: float, columns: Mapping[str, NDArray[Any]], noisy: Sequence[str], seed: int) -> Columns:
    """Columns as a package takes them, [N] each, disturbed; the same seed gives the same rows.

    ``noise``: normal, with a standard deviation of ``level`` times the column's, on the columns ``noisy``. ``missing``: each value is missing with
    probability ``level``.
    """
    rng = np.random.default_rng(seed)
    found: Columns = {}
    for name, values in columns.items():
        if kind == "missing":
            gone = rng.random(len(values)) < level
            found[name] = np.where(gone, "" if values.dtype == object else np.float32(np.nan), values).astype(values.dtype)
        elif name in noisy:
            there = values[np.isfinite(values)].astype(np.float64)
            spread = float(there.std()) if len(there) else 0.0
            found[name] = (values + rng.normal(0, level * spread, len(values))).astype(values.dtype)
        else:
            found[name] = values
    return found


def every_level(levels: Mapping[str, Sequence[float]]) -> Iterator[tuple[str, float]]:
    yield from ((kind, level) for kind, some in levels.items() for level in some)


def judge_levels(
    levels: Mapping[str, Sequence[float]],
    units: Mapping[str, str],
    judge: Callable[[str, float], tuple[float, float, float]],
    undisturbed: float,
) -> list[dict[str, Any]]:
    """For each kind and level ``figure``, ``low``, ``high`` (as ``judge`` gives them), and ``undisturbed``, the figure of the same samples as they are."""
    found = []
    for kind, level in every_level(levels):
        figure, low, high = judge(kind, level)
        found.append(
            {"kind": kind, "level": level, "unit": units[kind], "figure": figure, "low": low, "high": high, "undisturbed": undisturbed}
        )
    return found
