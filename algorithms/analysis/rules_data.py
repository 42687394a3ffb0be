"""Rules about the data that was learned from and judged by; see ``algorithms.analysis.advice``."""

from __future__ import annotations

from collections.abc import Mapping

from algorithms.analysis.advice_value import Advice, Figures, list_words
from algorithms.analysis.rules_model import no_better_than_guessing

FEW_SAMPLES = 20
WIDE_INTERVAL = 0.1
UNEVEN = 10.0
TOO_GOOD = 0.995
DOMINANT = 0.9


def few_samples_in_a_class(figures: Figures) -> Advice | None:
    """Classes with fewer than ``FEW_SAMPLES`` training samples."""
    counts: dict[str, int] = figures.get("data", {}).get("train_counts", {})
    few = {name: count for name, count in counts.items() if count < FEW_SAMPLES}
    if not few:
        return None
    told = list_words([f"{name} ({count})" for name, count in sorted(few.items(), key=lambda pair: (pair[1], pair[0]))])
    return Advice(
        rule="few-samples-in-a-class",
        severity="warning",
        text=f"Too few training samples: {told}. Collect at least {FEW_SAMPLES} of each, better some hundred, or merge or drop these classes.",
    )


def uneven_classes(figures: Figures) -> Advice | None:
    """The largest class has more than ``UNEVEN`` times the samples of the smallest, and recall suffers from it."""
    counts: dict[str, int] = figures.get("data", {}).get("train_counts", {})
    scores = figures.get("metrics", {}).get("package", {})
    if len(counts) < 2 or "balanced_accuracy" not in scores or min(counts.values()) == 0:
        return None
    largest, smallest = max(counts, key=lambda name: counts[name]), min(counts, key=lambda name: counts[name])
    ratio = counts[largest] / counts[smallest]
    if ratio <= UNEVEN or scores["accuracy"] - scores["balanced_accuracy"] < 0.03:
        return None
    return Advice(
        rule="uneven-classes",
        severity="warning",
        text=f"{largest} has {ratio:.0f} times the training samples of {smallest}, and rare classes are found less often (accuracy "
        f"{scores['accuracy']:.3f}, balanced {scores['balanced_accuracy']:.3f}). Weight the classes, resample, or collect more of the rare.",
    )


def leakage_suspected(figures: Figures) -> Advice | None:
    """Too good to be true: a column that alone tells the target, or one that has nearly all importance."""
    found = figures.get("leaks", {})
    reasons = []
    if found.get("columns"):
        reasons.append(f"{list_words([repr(name) for name in found['columns'][:3]])} determines the target by itself")
    entries = figures.get("importance", {}).get("permutation", [])
    whole = sum(max(entry["mean"], 0.0) for entry in entries)
    score = _goodness(figures)
    if len(entries) > 2 and whole > 0 and entries[0]["mean"] / whole >= DOMINANT and score >= TOO_GOOD:
        reasons.append(
            f"{entries[0]['column']!r} carries {entries[0]['mean'] / whole:.0%} of the importance and the model makes almost no mistake"
        )
    if not reasons:
        return None
    return Advice(
        rule="leakage-suspected",
        severity="warning",
        text=f"Leakage suspected: {'; '.join(reasons)}. Check that this is known when the model is asked, and that no test sample was learned from.",
    )


def _goodness(figures: Figures) -> float:
    """Accuracy, or the share of variance explained, on the test split."""
    scores = figures.get("metrics", {}).get("package", {})
    return float(scores.get("accuracy", scores.get("r2", 0.0)))


def too_few_test_samples(figures: Figures) -> Advice | None:
    """The interval of the main figure is wider than ``WIDE_INTERVAL`` (of a share), or than that part of the value itself (of an error)."""
    name = figures.get("metric", {}).get("name", "")
    interval = figures.get("intervals", {}).get(name)
    if interval is None:
        return None
    width = interval["high"] - interval["low"]
    scale = 1.0 if name == "accuracy" else 4 * abs(interval["value"])
    if width <= WIDE_INTERVAL * scale:
        return None
    used = figures.get("samples", {}).get("test", {})
    if used.get("used", 0) < used.get("total", 0):
        return None  # the split is larger than what was looked at here
    need = _needed(interval, used.get("used", 0), width / (WIDE_INTERVAL * scale))
    return Advice(
        rule="test-split-too-small",
        severity="warning",
        text=f"The test split is too small to tell: {name} {interval['value']:.4g} may be anything from {interval['low']:.4g} to "
        f"{interval['high']:.4g} (95 %, {used.get('used', 0)} samples). Models that differ by less cannot be told apart; about {need:,} test samples would do.",
    )


def _needed(interval: Mapping[str, float], used: int, times: float) -> int:
    """Samples for an interval of the width aimed at: the width falls with the square root of the samples."""
    return max(used + 1, 10 * round(used * times**2 / 10))


def labels_look_wrong(figures: Figures) -> Advice | None:
    """At least three labels, and one in a hundred, are suspected, by a model that knows more than how frequent the classes are."""
    found = figures.get("label_errors", {})
    count, looked_at = found.get("count", 0), found.get("looked_at", 0)
    if count < 3 or count < 0.01 * looked_at or no_better_than_guessing(figures):
        return None
    first = list_words([str(sample["id"]) for sample in found.get("samples", [])[:3]])
    return Advice(
        rule="labels-look-wrong",
        severity="warning",
        text=f"{count} of {looked_at} labels of the valid and test splits look wrong, first of all {first}. "
        "Look through the list; wrong test labels hide how good the model is, wrong training labels make it worse.",
    )


def useless_columns(figures: Figures) -> Advice | None:
    """Columns that may be shuffled without a loss."""
    importance = figures.get("importance", {})
    entries = importance.get("permutation", [])
    useless = [
        entry["column"] for entry in entries if entry["mean"] <= entry["std"] and entry["mean"] <= 1e-4 * max(entries[0]["mean"], 0.0)
    ]
    if len(entries) < 3 or figures.get("samples", {}).get("test", {}).get("used", 0) < 100 or not useless or entries[0]["mean"] <= 0:
        return None
    return Advice(
        rule="useless-columns",
        severity="info",
        text=f"{len(useless)} of {len(entries)} columns make no difference to the model: {list_words(useless[:8])}"
        f"{' and others' if len(useless) > 8 else ''}. Leaving them out (drop) makes it simpler, and what it needs easier to deliver.",
    )
