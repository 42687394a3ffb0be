"""Numbers and facts as words: durations, sizes, shares, and the interval in which a measured share may really lie."""

from __future__ import annotations

import math
from datetime import datetime

from algorithms.analysis.intervals import wilson as wilson  # among the words of a card
from tasks._card.svg import number


def plural(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def duration(seconds: float) -> str:
    """``0.4 s``, ``12 s``, ``2 min 5 s``, ``1 h 2 min``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s".replace("0.0 s", "0 s") if seconds >= 0.05 else "0 s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min" + (f" {whole % 60} s" if whole % 60 else "")
    minutes = round(whole / 60)
    return f"{minutes // 60} h" + (f" {minutes % 60} min" if minutes % 60 else "")


def size(num_bytes: float) -> str:
    """``812 B``, ``4.1 kB``, ``1.32 MB``: powers of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 999.5 or unit == "GB":
            return f"{num_bytes:.0f} {unit}" if unit == "B" or num_bytes >= 100 else f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    raise AssertionError("unreachable")


def moment(iso: str) -> str:
    """An ISO time for people, to the minute: ``2026-11-20 16:40 UTC``; other text as it is."""
    try:
        when = datetime.fromisoformat(iso)
    except ValueError:
        return iso
    return f"{when:%Y-%m-%d %H:%M}" + (f" {when.tzname()}" if when.tzinfo else "")


def short(digest: str) -> str:
    """The first 12 characters of a digest: enough for people."""
    return digest[:12]


METRIC_NAMES = {
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "precision_macro": "Precision, macro",
    "precision_weighted": "Precision, weighted",
    "recall_macro": "Recall, macro",
    "recall_weighted": "Recall, weighted",
    "f1_macro": "F1, macro",
    "f1_weighted": "F1, weighted",
    "auc": "Area under the ROC curve",
    "log_loss": "Log loss",
    "rmse": "Root mean squared error",
    "mae": "Mean absolute error",
    "median_absolute_error": "Median absolute error",
    "max_error": "Largest error",
    "r2": "R² (share of variance explained)",
}


_SHARES = {"accuracy", "balanced_accuracy", "auc", "average_precision"}
_FAMILIES_OF_SHARES = ("precision", "recall", "f1")


def bounds(metric: str) -> tuple[float, float]:
    """Between which values a metric can be, so that no axis promises more: a share is 0 to 1, R² at most 1, an error at least 0."""
    if metric in _SHARES or metric.startswith(_FAMILIES_OF_SHARES):
        return 0.0, 1.0
    return (-math.inf, 1.0) if metric == "r2" else (0.0, math.inf) if metric in METRIC_NAMES else (-math.inf, math.inf)


def figure(value: float) -> str:
    """A metric: four decimals below 10, four significant digits above, so that a column of them can be compared."""
    return f"{value:.4f}" if value == 0 or 0.001 <= abs(value) < 10 else number(value)


def metric_name(key: str) -> str:
    """A metric's name for people."""
    return METRIC_NAMES.get(key) or key[:1].upper() + key[1:].replace("_", " ")
