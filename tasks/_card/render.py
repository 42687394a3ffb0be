"""From ``CardData`` to the page, and to the short markdown that Prefect shows. Pure: the same data gives the same bytes."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from tasks._card import bars, curves, findings, matrix, words
from tasks._card.model import CardData, EvaluationPart, PackagePart, TrainingPart
from tasks._card.svg import number
from tasks._card.usage import usage_code

MOST_CLASS_ROWS = 24


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        number=number,
        size=words.size,
        duration=words.duration,
        short=words.short,
        metric_name=words.metric_name,
        moment=words.moment,
        figure=words.figure,
        value=_value,
    )
    environment.globals.update(plural=words.plural, cell_bar=bars.cell_bar, findings=findings)
    return environment


def render_card(data: CardData) -> str:
    """The run card: one HTML page that needs nothing else."""
    template = _environment().get_template("template.html.j2")
    return template.render(
        card=data,
        headline=_headline(data),
        facts=_facts(data),
        data_chart=_data_chart(data),
        training_charts=_training_charts(data.training) if data.training else [],
        training_facts=_training_facts(data.training) if data.training else [],
        evaluation=_evaluation(data.evaluation),
        metric_rows=metric_rows(data.evaluation),
        stages_chart=bars.stage_waterfall("stages", data.stages) if data.stages else "",
        usage=usage_code(data.package, data.evaluation.classes) if data.package and data.package.inputs else "",
        predict_command=_predict_command(data),
    )


def metric_rows(evaluation: EvaluationPart) -> list[tuple[str, float | None, float | None]]:
    """(metric, package, baseline): the usual ones in their usual order, then others by name."""
    usual = list(words.METRIC_NAMES)
    names = sorted({*evaluation.package, *evaluation.baseline}, key=lambda name: (usual.index(name) if name in usual else len(usual), name))
    return [(name, evaluation.package.get(name), evaluation.baseline.get(name)) for name in names]


def summary_markdown(data: CardData) -> str:
    """A short account for Prefect's artifacts: headline, metrics, stages."""
    title = f"{data.model} version {data.version}" if data.version is not None else data.model
    lines = [f"# {_plain(title)}", "", f"**{_plain(data.decision or 'not registered')}** · `{_plain(data.algorithm)}`"]
    if data.reason:
        lines += ["", _plain(data.reason)]
    rows = metric_rows(data.evaluation)
    if rows:
        lines += ["", "| metric | package | trained model |", "| --- | ---: | ---: |"]
        lines += [f"| {_plain(words.metric_name(name))} | {_figure(package)} | {_figure(baseline)} |" for name, package, baseline in rows]
    if data.stages:
        lines += ["", "| stage | state | time |", "| --- | --- | ---: |"]
        lines += [f"| {_plain(s.name)} | {_plain(s.state)} | {words.duration(s.seconds)} |" for s in data.stages]
    return "\n".join(lines) + "\n"


def _plain(text: str) -> str:
    """Text that cannot become markup or break a table's row."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("`", "'").replace("\n", " ")


def _figure(value: float | None) -> str:
    return "–" if value is None else words.figure(value)


def _value(value: Any) -> str:
    """An option's value as one would write it."""
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)


def _headline(data: CardData) -> dict[str, Any]:
    """The main metric of what ships, how sure it is, and how it compares with the trained model."""
    evaluation = data.evaluation
    package, baseline = evaluation.package.get(data.metric), evaluation.baseline.get(data.metric)
    main = package if package is not None else baseline
    n = evaluation.num_samples
    interval = words.wilson(main, n) if main is not None and n and data.metric == "accuracy" else None
    difference = package - baseline if package is not None and baseline is not None else None
    return {
        "value": main,
        "name": words.metric_name(data.metric),
        "samples": n,
        "interval": interval,
        "package": package,
        "baseline": baseline,
        "difference": difference,
    }


def _facts(data: CardData) -> list[tuple[str, str]]:
    """What to look at first: (name, value)."""
    facts = [("Data set", data.data.name or words.short(data.data.digest)), ("Samples", f"{data.data.num_samples:,}")]
    if data.data.classes:
        facts.append(("Classes", f"{len(data.data.classes):,}"))
    elif data.data.target:
        facts.append(("Target", data.data.target))
    training = data.training
    if training is not None:
        if training.seconds is not None:
            facts.append(("Training", words.duration(training.seconds)))
        if training.world_size:
            facts.append(("Ranks", str(training.world_size)))
        if training.num_parameters:
            facts.append(("Parameters", _short_count(training.num_parameters)))
    if data.package and data.package.files:
        facts.append(("Package", words.size(data.package.num_bytes)))
    return facts


def _short_count(value: int) -> str:
    return f"{value / 1e6:.3g} M" if value >= 1e6 else f"{value / 1e3:.3g} k" if value >= 1e3 else str(value)


def _data_chart(data: CardData) -> str:
    part = data.data
    if part.classes and part.counts:
        return bars.class_histogram("classes", part.classes, part.counts)
    return bars.split_bar("splits", part.num_rows)


def _training_charts(training: TrainingPart) -> list[str]:
    """Loss, metric and learning rate, as far as they were recorded for two epochs or more."""

    def points(key: str) -> list[tuple[float, float]]:
        return [(float(e["epoch"] or 0), float(e[key])) for e in training.epochs if e.get(key) is not None]  # type: ignore[arg-type]

    mark = (float(training.best_epoch), "best") if training.best_epoch is not None and len(training.epochs) > 1 else None
    metric = training.metric
    plans: list[tuple[str, str, list[curves.Series], tuple[float, str] | None, bool | None]] = [
        (
            "loss",
            "Loss",
            [curves.Series("train", points("train_loss"), "s1"), curves.Series("valid", points("valid_loss"), "s2")],
            mark,
            None,
        ),
        (
            "metric",
            words.metric_name(metric) if metric else "",
            [curves.Series("train", points(f"train_{metric}"), "s1"), curves.Series("valid", points(f"valid_{metric}"), "s2")],
            mark,
            False,
        ),
        ("rate", "Learning rate", [curves.Series("rate", points("learning_rate"), "s3")], None, False),
    ]
    if metric == "loss":
        plans.pop(1)
    return [
        curves.line_chart(name, title, series, mark=at, log=log, within=words.bounds(metric if name == "metric" else ""))
        for name, title, series, at, log in plans
        if max((len(s.points) for s in series), default=0) > 1
    ]


def _training_facts(training: TrainingPart) -> list[tuple[str, str]]:
    """What the learning curves do not show."""
    facts = []
    if training.epochs:
        facts.append(
            (
                "Epochs",
                f"{number(training.epochs[-1]['epoch'] or 0)}" + (f", the best is {training.best_epoch}" if training.best_epoch else ""),
            )
        )
    for key, name, unit in (("seconds", "An epoch", " s"), ("samples_per_s", "Speed", " samples/s")):
        values = sorted(value for entry in training.epochs if (value := entry.get(key)) is not None)
        if values:
            facts.append((name, f"{number(values[len(values) // 2], 3)}{unit}"))
    if training.num_parameters:
        facts.append(("Parameters", f"{training.num_parameters:,}"))
    if training.world_size:
        facts.append(("Ranks", str(training.world_size)))
    if training.precision:
        facts.append(("Precision", training.precision))
    return facts


def _evaluation(evaluation: EvaluationPart) -> dict[str, Any]:
    weakest = sorted(evaluation.per_class, key=lambda c: (c.f1, c.name))
    many = len(evaluation.per_class) > MOST_CLASS_ROWS
    pairs = matrix.confused_pairs(evaluation.classes, evaluation.confusion) if evaluation.confusion else []
    return {
        "matrix": matrix.confusion_matrix("confusion", evaluation.classes, evaluation.confusion) if evaluation.confusion else "",
        "pairs": pairs if len(evaluation.classes) > 6 else [],
        "per_class": weakest[:12] if many else evaluation.per_class,
        "per_class_all": evaluation.per_class if many else [],
        "points": [
            curves.predicted_vs_true("fit", evaluation.points),
            curves.residuals("residuals", evaluation.points),
            curves.residual_histogram("spread", evaluation.points),
        ]
        if evaluation.points
        else [],
        "importance": bars.importance_bars("importance", evaluation.importance) if evaluation.importance else "",
    }


def _predict_command(data: CardData) -> str:
    package: PackagePart | None = data.package
    if package is None:
        return ""
    name = data.model if data.decision == "champion" or data.version is None else f"{data.model}@{data.decision or data.version}"
    return f"atelier predict {name} {'picture.png' if data.data.kind == 'image' else 'rows.csv'}"
