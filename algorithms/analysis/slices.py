"""How good the model is on parts of the samples: by the values of each column, or by properties of the pictures."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from algorithms.analysis.intervals import wilson

NUM_BINS = 4
MOST_VALUES = 8
MOST_COLUMNS = 60
LEAST_SAMPLES = 10
SURE = 0.95


@dataclass(frozen=True)
class Slice:
    """The samples of ``column`` whose value is ``value`` (in words); ``inside`` is bool [N]."""

    column: str
    value: str
    inside: NDArray[np.bool_]


def cut(columns: Mapping[str, NDArray[Any]]) -> Iterator[Slice]:
    """Slices by each column: numbers in ``NUM_BINS`` parts of about equal size, others by their most frequent values, and the missing.

    Columns with one value only, and texts that are nearly all different (names, identifiers), give none. Slices of fewer than ``LEAST_SAMPLES``
    samples are left out.

    Args:
        columns: numbers float [N] (missing: NaN) or texts object [N] (missing: ``""``).
    """
    for name, values in list(columns.items())[:MOST_COLUMNS]:
        parts = _cut_texts(values) if values.dtype == object else _cut_numbers(values)
        slices = [Slice(name, told, inside) for told, inside in parts if LEAST_SAMPLES <= inside.sum() < len(values)]
        yield from slices


def _cut_numbers(values: NDArray[Any]) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    numbers = np.asarray(values, np.float64)
    missing = np.isnan(numbers)
    if missing.any():
        yield "missing", missing
    distinct = np.unique(numbers[~missing])
    if len(distinct) <= NUM_BINS:
        yield from ((_words(value), numbers == value) for value in distinct)
        return
    edges = np.unique(np.quantile(numbers[~missing], np.linspace(0, 1, NUM_BINS + 1)))
    for low, high in itertools.pairwise(edges):
        last = high == edges[-1]
        inside = (numbers >= low) & ((numbers <= high) if last else (numbers < high))
        yield f"{_words(low)} to {_words(high)}", inside


def _words(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _cut_texts(values: NDArray[Any]) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    names, codes, counts = np.unique(values.astype(str), return_inverse=True, return_counts=True)
    if len(names) > max(len(values) // 2, MOST_VALUES):
        return
    frequent = sorted(np.argsort(-counts, kind="stable")[:MOST_VALUES].tolist())
    for code in frequent:
        yield (str(names[code]) or "missing"), codes == code


def judge_slices(slices: list[Slice], hits: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Accuracy of each slice with its 95 % interval, the weakest first.

    ``worse`` tells that the slice is below the accuracy of the samples outside of it by more than chance explains in as many slices as these
    (two proportions, Bonferroni).

    Args:
        hits: bool [N], whether the model was right.
    """
    found = []
    for one in slices:
        count, right = int(one.inside.sum()), int(hits[one.inside].sum())
        low, high = wilson(right / count, count)
        rest, rest_right = len(hits) - count, int(hits.sum()) - right
        p = p_lower(right, count, rest_right, rest)
        found.append(_entry(one, count, right / count, low, high, rest_right / rest, p, len(slices)))
    return sorted(found, key=lambda entry: (entry["figure"], entry["column"], entry["value"]))


def judge_slices_of_numbers(slices: list[Slice], errors: NDArray[np.float64]) -> list[dict[str, Any]]:
    """As ``judge_slices`` for regression: the root mean squared error, the largest first, from errors float64 [N]; ``worse`` by Welch's test."""
    found = []
    squares = errors**2
    for one in slices:
        inside, rest = squares[one.inside], squares[~one.inside]
        mean, spread = float(inside.mean()), float(inside.std(ddof=1)) / np.sqrt(len(inside))
        difference = np.sqrt(spread**2 + (rest.var(ddof=1) / len(rest) if len(rest) > 1 else 0.0))
        p = 1 - NormalDist().cdf((mean - float(rest.mean())) / difference) if difference > 0 else 1.0
        low, high = np.sqrt(max(mean - 1.96 * spread, 0.0)), np.sqrt(mean + 1.96 * spread)
        entry = _entry(one, len(inside), np.sqrt(mean), low, high, np.sqrt(rest.mean()), p, len(slices))
        found.append(entry)
    return sorted(found, key=lambda entry: (-entry["figure"], entry["column"], entry["value"]))


def p_lower(right: int, count: int, other_right: int, other_count: int) -> float:
    """The probability that chance puts so few of all hits into a part of ``count`` samples: Fisher's exact test, one-sided."""
    hits, total = right + other_right, count + other_count
    log_factorial = np.append(0.0, np.cumsum(np.log(np.arange(1, total + 1))))

    def log_choose(whole: int, part: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.asarray(log_factorial[whole] - log_factorial[part] - log_factorial[whole - part])

    inside = np.arange(max(0, hits - other_count), right + 1)
    ways = log_choose(count, inside) + log_choose(other_count, hits - inside) - log_choose(total, np.array([hits]))
    return float(min(np.exp(ways).sum(), 1.0))


def _entry(one: Slice, count: int, figure: float, low: float, high: float, rest: float, p: float, num_slices: int) -> dict[str, Any]:
    return {
        "column": one.column,
        "value": one.value,
        "count": count,
        "figure": float(figure),
        "low": float(low),
        "high": float(high),
        "rest": float(rest),
        "worse": bool(p * num_slices < 1 - SURE),
    }
