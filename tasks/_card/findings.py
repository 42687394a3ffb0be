"""One sentence for each section of the card: what its figures say. Pure functions of the card's parts."""

from __future__ import annotations

from tasks._card.matrix import confused_pairs
from tasks._card.model import DataPart, EvaluationPart, PackagePart, StageRow, TrainingPart, ValidationPart
from tasks._card.svg import number
from tasks._card.words import duration, metric_name, plural, size


def data_finding(data: DataPart) -> str:
    what = "picture" if data.kind == "image" else "row"
    sentence = plural(data.num_samples, what)
    totals = {c: sum(counts.get(c, 0) for counts in data.counts.values()) for c in data.classes}
    if totals:
        largest, smallest = max(totals.values()), min(totals.values())
        even = (
            "evenly filled"
            if smallest and largest <= 1.5 * smallest
            else f"the largest has {largest / max(smallest, 1):.1f} times the samples of the smallest"
        )
        sentence += f" in {plural(len(totals), 'class', 'classes')}, {even}"
    sentence += "."
    if data.num_quarantined:
        sentence += f" {plural(data.num_quarantined, 'sample')} set aside by validation, each with its reason."
    return sentence


def validation_finding(validation: ValidationPart) -> str:
    by = {status: sum(e.status == status for e in validation.expectations) for status in ("passed", "warned", "failed")}
    total = len(validation.expectations)
    if by["passed"] == total:
        sentence = f"All {plural(total, 'expectation')} hold" if total > 1 else "The one expectation holds"
    else:
        parts = [f"{count} {status}" for status, count in by.items() if count]
        sentence = f"Of {plural(total, 'expectation')}: {', '.join(parts)}"
    return f"{sentence}, on {plural(validation.num_samples, 'sample')}."


def training_finding(training: TrainingPart) -> str:
    """The best epoch and what was reached there; then how many ranks learned."""
    parts = []
    best = next((e for e in training.epochs if e["epoch"] == training.best_epoch), None)
    value = best.get(f"valid_{training.metric}") if best and training.metric else None
    if best is not None and value is not None:
        parts.append(f"Best {metric_name(training.metric).lower()} on the validation split: {number(value)}")
        if len(training.epochs) > 1:
            last = max(entry["epoch"] or 0 for entry in training.epochs)  # a long history is thinned out
            parts[-1] += f", in epoch {training.best_epoch} of {last:g}"
    if training.world_size:
        parts.append(f"{plural(training.world_size, 'rank')}{', ' + training.precision if training.precision else ''}")
    return ". ".join(parts) + "." if parts else ""


def evaluation_finding(evaluation: EvaluationPart) -> str:
    parts = []
    if evaluation.confusion:
        total = sum(map(sum, evaluation.confusion))
        wrong = total - sum(evaluation.confusion[i][i] for i in range(len(evaluation.confusion)))
        parts.append(f"{wrong:,} of {total:,} wrong")
    scored = [c for c in evaluation.per_class if c.support]
    if len(scored) > 1:
        weakest = min(scored, key=lambda c: c.f1)
        if weakest.f1 < 1:
            parts.append(f"Weakest class: {weakest.name} (F1 {weakest.f1:.3f})")
    pairs = confused_pairs(evaluation.classes, evaluation.confusion, 1) if evaluation.confusion else []
    if pairs:
        true, predicted, count, _ = pairs[0]
        parts.append(f"Most confused: {true} taken for {predicted}, {'once' if count == 1 else f'{count:,} times'}")
    if evaluation.points:
        errors = sorted(abs(p - t) for t, p in evaluation.points)
        parts.append(
            f"Half of the predictions are within {number(errors[len(errors) // 2], 3)}, nine in ten within {number(errors[len(errors) * 9 // 10], 3)}"
        )
    return ". ".join(parts) + "." if parts else ""


def package_finding(package: PackagePart) -> str:
    parts = [f"{plural(len(package.files), 'file')}, {size(package.num_bytes)}"] if package.files else []
    if package.parity is not None:
        same = (
            "Gives exactly what the trained model gives"
            if package.parity == 0
            else f"Differs from the trained model by at most {number(package.parity, 2)}"
        )
        parts.append(same + (f" (allowed: {number(package.tolerance, 2)})" if package.tolerance is not None else ""))
    return ". ".join(parts) + "." if parts else ""


def stages_finding(stages: list[StageRow]) -> str:
    total = sum(s.seconds for s in stages)
    longest = max(stages, key=lambda s: s.seconds)
    cached = sum(s.state == "cached" for s in stages)
    sentence = f"Together {duration(total)}; the longest: {longest.name}, {duration(longest.seconds)}."
    return sentence + (f" {plural(cached, 'stage')} taken from an earlier run." if cached else "")
