"""Which sample goes to which split: pure functions of content, strata, ratios and seed.

Samples with equal content (the same 64-bit content hash) always share a split. Within a stratum (a class, or a bin of a number) groups are put
in an order that depends only on their content and the seed, and cut at the ratios; so neither names nor the order of listing matter.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from infra.datasets.card import SPLITS
from infra.errors import InvalidOptionError

Ratios = tuple[float, float, float]
TRAIN, VALID, TEST = range(3)
_CHUNK = 1 << 20
_GIVE_FIRST = (TRAIN, TEST, VALID)  # who gets a sample when there are fewer than splits


def check_ratios(ratios: tuple[float, ...]) -> Ratios:
    """Ratios of train, valid and test that sum to 1; percentages are accepted.

    Raises:
        InvalidOptionError: not three, negative, no train, or a sum that is neither 1 nor 100.
    """
    total = sum(ratios)
    problems = []
    if len(ratios) != 3:
        problems.append(f"{len(ratios)} numbers were given; three are needed: train, valid and test")
    elif min(ratios) < 0 or not ratios[0] > 0:
        problems.append("each must be at least 0, and train above 0")
    if not (abs(total - 1) < 1e-6 or abs(total - 100) < 1e-4):
        problems.append(f"they sum to {total:g}; allowed are 1 (0.7, 0.15, 0.15) and 100 (70, 15, 15)")
    if problems:
        raise InvalidOptionError(f"the splits {'/'.join(f'{r:g}' for r in ratios)}", problems)
    return ratios[0] / total, ratios[1] / total, ratios[2] / total


def assign_splits(hashes: NDArray[np.uint64], strata: NDArray[np.int32], ratios: Ratios, seed: int) -> NDArray[np.int8]:
    """The split of every sample, 0 train, 1 valid, 2 test.

    A stratum with at least as many different contents as there are splits with a ratio above 0 has one in each of them; with fewer,
    train is served first, then test, then valid. Beside its arguments it needs about 30 bytes a sample.

    Args:
        hashes: content hash of every sample, [N], N below 2**32.
        strata: class or bin of every sample, [N]; any int32. Samples of equal content count for the lowest stratum among them.
        ratios: of train, valid, test; they sum to 1.
        seed: any integer; another seed, another assignment.
    """
    splits = np.zeros(len(hashes), np.int8)
    if len(hashes) == 0:
        return splits
    order, starts = _sorted_groups(hashes, seed)
    first = np.flatnonzero(starts)
    group_strata = np.minimum.reduceat(strata[order], first)
    sizes = np.empty(len(first), np.uint32)
    np.subtract(first[1:], first[:-1], out=sizes[:-1], casting="unsafe")
    sizes[-1] = len(order) - first[-1]
    del first
    by_stratum = np.argsort(group_strata, kind="stable")
    group_splits = np.zeros(len(sizes), np.int8)
    for start, stop in _runs(group_strata[by_stratum]):
        groups = by_stratum[start:stop]
        group_splits[groups] = _cut(sizes[groups], ratios)
    del by_stratum, group_strata
    splits[order] = np.repeat(group_splits, sizes)
    return splits


def _sorted_groups(hashes: NDArray[np.uint64], seed: int) -> tuple[NDArray[np.uint32], NDArray[np.bool_]]:
    """An order of the samples that depends on content and seed, [N], and where in it a new content begins, [N]."""
    mixed = hashes ^ np.uint64(_seed_word(seed))
    for start in range(0, len(mixed), _CHUNK):
        mix(mixed[start : start + _CHUNK])
    order = np.argsort(mixed).astype(np.uint32)
    starts = np.ones(len(order), bool)
    for start in range(1, len(order), _CHUNK):
        stop = min(start + _CHUNK, len(order))
        values = mixed[order[start - 1 : stop]]
        starts[start:stop] = values[1:] != values[:-1]
    return order, starts


def _runs(values: NDArray[np.int32]) -> Iterator[tuple[int, int]]:
    """Begin and end of each run of equal values."""
    bounds = [0, *(np.flatnonzero(values[1:] != values[:-1]) + 1).tolist(), len(values)]
    yield from pairwise(bounds)


def _cut(sizes: NDArray[np.uint32], ratios: Ratios) -> NDArray[np.int8]:
    """Split of each of a stratum's groups, in their order: cut where the middle of a group passes the ratios."""
    wanted = [split for split in _GIVE_FIRST if ratios[split] > 0]
    if len(sizes) < len(wanted):
        return np.array(wanted[: len(sizes)], np.int8)
    doubled = np.cumsum(sizes, dtype=np.int64)  # twice the middles, so that they are whole
    edges = 2 * np.cumsum(ratios[:2]) * doubled[-1]
    doubled *= 2
    doubled -= sizes
    valid, test = np.searchsorted(doubled, edges, side="left")
    splits = np.zeros(len(sizes), np.int8)
    splits[valid:test], splits[test:] = VALID, TEST
    counts = np.bincount(splits, minlength=3)
    for split in range(3):  # rounding may land in a split that nobody asked for
        if ratios[split] == 0 and counts[split]:
            splits[splits == split] = TRAIN
    for split in wanted:
        counts = np.bincount(splits, minlength=3)
        if counts[split] == 0:
            richest = int(counts.argmax())
            splits[np.flatnonzero(splits == richest)[-1]] = split
    return splits


def complete_splits(
    given: NDArray[np.int8], hashes: NDArray[np.uint64], strata: NDArray[np.int32], ratios: Ratios, seed: int
) -> tuple[NDArray[np.int8], list[str]]:
    """Keep given splits, and take those that are missing (and have a ratio above 0) out of train; with the names of those made."""
    missing = [split for split in (VALID, TEST) if ratios[split] > 0 and not (given == split).any()]
    if not missing:
        return given, []
    parts = [ratios[split] if split == TRAIN or split in missing else 0.0 for split in range(3)]
    scaled = (parts[0] / sum(parts), parts[1] / sum(parts), parts[2] / sum(parts))
    train = np.flatnonzero(given == TRAIN)
    splits = given.copy()
    splits[train] = assign_splits(hashes[train], strata[train], scaled, seed)
    return splits, [SPLITS[split] for split in missing]


def quantile_bins(values: NDArray[np.float64], num_bins: int = 10) -> NDArray[np.int32]:
    """Strata of a number to predict: bins of equal counts; what is not finite is -1. Few values make few bins."""
    finite = np.isfinite(values)
    num_bins = max(1, min(num_bins, int(finite.sum()) // 10))
    edges = np.quantile(values[finite], np.linspace(0, 1, num_bins + 1)[1:-1]) if finite.any() else np.empty(0)
    bins = np.searchsorted(edges, values, side="right").astype(np.int32)
    bins[~finite] = -1
    return bins


def mix(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A bijection of 64-bit words that looks random (the finalizer of SplitMix64, Steele et al. 2014). Works in place on its argument."""
    words ^= words >> np.uint64(30)
    words *= np.uint64(0xBF58476D1CE4E5B9)
    words ^= words >> np.uint64(27)
    words *= np.uint64(0x94D049BB133111EB)
    words ^= words >> np.uint64(31)
    return words


def _seed_word(seed: int) -> int:
    return int(mix(np.array([(seed + 1) * 0x9E3779B97F4A7C15 & (2**64 - 1)], np.uint64))[0])
