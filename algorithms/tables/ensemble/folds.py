"""Cross-validation folds: pure, seeded, and without a class that is missing where a member learns."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

ALWAYS_LEARNED = -1


def assign_folds(labels: NDArray[Any], num_folds: int, seed: int, *, is_class: bool) -> NDArray[np.int64]:
    """The fold of each row [N], 0 to at most ``num_folds`` - 1; classes (numbers: tenths of the range of ranks) are spread evenly.

    A class with one row is ``ALWAYS_LEARNED``: held out, it would be unknown. There are fewer folds if there are fewer rows.
    """
    random = np.random.default_rng(seed)
    strata = labels if is_class else _tenths(np.asarray(labels, np.float64))
    folds = np.full(len(labels), ALWAYS_LEARNED)
    num_folds = max(2, min(num_folds, len(labels)))
    start = 0
    for stratum in np.unique(strata):
        rows = random.permutation(np.flatnonzero(strata == stratum))
        if len(rows) == 1 and is_class:
            continue
        # Each stratum begins where the last one ended, so that the folds are of one size.
        folds[rows] = (np.arange(len(rows)) + start) % num_folds
        start += len(rows)
    return folds


def _tenths(values: NDArray[np.float64]) -> NDArray[np.int64]:
    ranks = np.empty(len(values), np.int64)
    ranks[np.argsort(values, kind="stable")] = np.arange(len(values))
    found: NDArray[np.int64] = ranks * 10 // len(values)
    return found
