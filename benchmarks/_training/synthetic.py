"""A rank like ``python -m algorithms``, whose pictures are numbers in memory: what the loop reaches when reading costs nothing."""

from __future__ import annotations

import sys

import numpy as np

from algorithms.__main__ import main
from algorithms.images.samples import PictureSamples

_made: dict[int, np.ndarray] = {}


def read(self: PictureSamples, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Always the same pictures."""
    count = len(indices)
    if count not in _made:
        _made[count] = np.random.default_rng(0).integers(0, 256, (count, *self.shape), dtype=np.uint8)
    return _made[count], self.labels[indices]


if __name__ == "__main__":
    PictureSamples.read = read  # type: ignore[method-assign]
    sys.exit(main())
