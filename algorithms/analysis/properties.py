"""What can be measured on a picture, to see which pictures a model finds hard."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_EDGE = 256  # larger pictures are averaged down to about this before they are measured
_GREY = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R 601


def measure(pixels: NDArray[np.uint8]) -> dict[str, float]:
    """Properties of one picture, uint8 [H, W, 3].

    Returns:
        ``brightness`` and ``contrast``: mean and standard deviation of the grey values, 0 to 255; ``sharpness``: variance of the Laplacian
        (Pech-Pacheco et al. 2000), of the picture at 256 pixels at most, so that size does not decide it; ``size``: the geometric mean of
        height and width, pixels; ``aspect``: width over height.
    """
    height, width = pixels.shape[:2]
    step = max(1, -(-max(height, width) // _EDGE))
    grey = pixels.astype(np.float32) @ _GREY
    grey = grey[: height - height % step or None, : width - width % step or None]
    if step > 1 and min(grey.shape) >= step:
        grey = grey.reshape(grey.shape[0] // step, step, grey.shape[1] // step, step).mean(axis=(1, 3))
    padded = np.pad(grey, 1, mode="edge")
    laplacian = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:] - 4 * grey
    return {
        "brightness": float(grey.mean()),
        "contrast": float(grey.std()),
        "sharpness": float(laplacian.var()),
        "size": float(np.sqrt(height * width)),
        "aspect": width / height,
    }


def stack_properties(measured: list[dict[str, float]]) -> dict[str, NDArray[Any]]:
    """One column float64 [N] a property."""
    return {name: np.array([one[name] for one in measured]) for name in measured[0]} if measured else {}
