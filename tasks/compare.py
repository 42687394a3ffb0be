"""Compare: two versions of models side by side, from what their runs left in the store; and the same as one HTML page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from algorithms.metrics import primary_metric
from infra.artifacts import MANIFEST, Artifact, find
from infra.registry import ModelVersion
from infra.store import Store
from tasks import _compare_stats as stats
from tasks._card import words
from tasks._card.comparison import Agree, Comparison, Fact, MetricRow, Side
from tasks._card.gather import ArtifactFiles

MOST_NAMES = 40
LOWER_IS_BETTER = frozenset({"rmse", "mae", "median_absolute_error", "max_error", "log_loss", "ece", "brier"})


def compare(first: ModelVersion, second: ModelVersion, *, store: Store) -> Comparison:
    """Gather what both left: run cards, packages, and the predictions on the test split.

    Versions without a run card (imported ones) are compared by what the registry and their package tell.

    Raises:
        CorruptArtifactError: something of theirs is damaged.
    """
    versions = (first, second)
    cards = [_run_card(version, store) for version in versions]
    packages = [ArtifactFiles(store, version.package) for version in versions]
    descriptions = [files.json("package.json") for files in packages]
    sides = tuple(_side(*parts) for parts in zip(versions, cards, packages, descriptions, strict=True))
    same = first.dataset == second.dataset
    answers = [_answers(card, store) for card in cards]
    of_packages = [_answers(card, store, of_package=True) for card in cards]
    if all(of_packages):
        answers = of_packages  # one kind for both: the trained models' are those before compression
    paired = _paired(answers[0], answers[1]) if same and answers[0] and answers[1] else None
    columns = [list((description.get("inputs") or {}).get("properties") or {}) for description in descriptions]
    options = _options(cards[0], cards[1])
    differing = [fact for fact in options if fact.differs]
    return Comparison(
        sides=(sides[0], sides[1]),
        same_test_split=same,
        num_paired=len(paired[0]) if paired else 0,
        of_packages=all(of_packages),
        metrics=_metric_rows(first, second, [found[1] if found else None for found in answers], paired),
        agreement=_agreement(paired),
        data=_data_facts(versions, cards),
        only_first_columns=[name for name in columns[0] if name not in columns[1]][:MOST_NAMES],
        only_second_columns=[name for name in columns[1] if name not in columns[0]][:MOST_NAMES],
        options=differing,
        num_same_options=len(options) - len(differing),
        package=_package_facts(sides[0], sides[1], descriptions),
        compression=_compression_facts(descriptions),
    )


def write_page(comparison: Comparison, file: Path) -> None:
    """Write the page to ``file``, whole or not at all; folders on the way are made."""
    from tasks._card.compare import render_comparison

    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.part")
    part.write_text(render_comparison(comparison), encoding="utf-8")
    part.replace(file)


def _run_card(version: ModelVersion, store: Store) -> dict[str, Any] | None:
    artifact = find(store, version.run_card) if version.run_card else None
    return None if artifact is None else ArtifactFiles(store, artifact).json_if_there("run.json", None)


def _side(version: ModelVersion, card: Mapping[str, Any] | None, package: ArtifactFiles, description: Mapping[str, Any]) -> Side:
    training = (card or {}).get("training") or {}
    return Side(
        ref=version.ref,
        aliases=version.aliases,
        algorithm=version.algorithm,
        created=version.created,
        has_card=card is not None,
        metric=training.get("metric") or primary_metric(version.algorithm.split("/")[0])[0],
        epochs=training.get("epochs") or [],
        best_epoch=training.get("best_epoch"),
        num_parameters=training.get("num_parameters"),
        training_seconds=training.get("seconds"),
        num_bytes=sum(entry.size for entry in package.manifest.files.values()),
        compression=description.get("compression"),
    )


Found = tuple[list[str], stats.Answers]


def _answers(card: Mapping[str, Any] | None, store: Store, *, of_package: bool = False) -> Found | None:
    """Ids of the test split's rows, sorted, and what the trained model said about them, or the shipped package; None if the run left no predictions."""
    if card and of_package:
        artifact = find(store, card["explanation_key"]) if card.get("explanation_key") else None
    else:
        artifact = _evaluation(card, store) if card else None
    if artifact is None:
        return None
    files = ArtifactFiles(store, artifact)
    if "predictions.parquet" not in files:
        return None
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(pa.BufferReader(files.read("predictions.parquet")))
    order = np.argsort(np.asarray(table["id"].to_pylist()), kind="stable")
    table = table.take(pa.array(order))
    ids = table["id"].to_pylist()
    if not pa.types.is_string(table["label"].type):
        numbers = [np.asarray(table[name].to_pylist(), np.float64) for name in ("label", "prediction")]
        return ids, stats.Answers(numbers[0], numbers[1], None, 0)
    figures = files.json("explain.json" if of_package else "metrics.json")
    names = list(figures.get("classes") or sorted(set(table["label"].to_pylist()) | set(table["prediction"].to_pylist())))
    places = {name: place for place, name in enumerate(names)}
    codes = [np.asarray([places[value] for value in table[name].to_pylist()], np.int64) for name in ("label", "prediction")]
    scores = None
    if "scores" in table.column_names:
        scores = np.asarray(table["scores"].to_pylist(), np.float64)[np.arange(len(ids)), codes[0]]
    return ids, stats.Answers(codes[0], codes[1], scores, len(names))


def _evaluation(card: Mapping[str, Any], store: Store) -> Artifact | None:
    """What the run's evaluation left. Cards of earlier versions do not name it: then the run's only one, if there is no other."""
    if card.get("evaluation_key"):
        return find(store, card["evaluation_key"])
    found = {key.rpartition("/")[0] for key in store.list(f"runs/{card['run_key']}/evaluation") if key.endswith(f"/{MANIFEST}")}
    return find(store, found.pop()) if len(found) == 1 else None


def _paired(first: Found, second: Found) -> tuple[stats.Answers, stats.Answers] | None:
    """Both about the same rows, or None."""
    is_same = first[0] == second[0] and first[1].num_classes == second[1].num_classes
    return (first[1], second[1]) if is_same and np.array_equal(first[1].labels, second[1].labels) else None


def _metric_rows(
    first: ModelVersion,
    second: ModelVersion,
    answers: list[stats.Answers | None],
    paired: tuple[stats.Answers, stats.Answers] | None,
) -> list[MetricRow]:
    usual = list(words.METRIC_NAMES)
    names = sorted(
        first.metrics.keys() | second.metrics.keys(), key=lambda name: (usual.index(name) if name in usual else len(usual), name)
    )
    ranges = [stats.intervals(found) if found else {} for found in answers]
    differences = stats.paired_intervals(*paired) if paired else {}
    rows = []
    for name in names:
        left, right = first.metrics.get(name), second.metrics.get(name)
        rows.append(
            MetricRow(
                name=name,
                first=left,
                second=right,
                first_interval=ranges[0].get(name),
                second_interval=ranges[1].get(name),
                difference=right - left if left is not None and right is not None else None,
                difference_interval=differences.get(name),
                higher_is_better=name not in LOWER_IS_BETTER,
            )
        )
    return [row for row in rows if row.name != "num_samples"]


def _agreement(paired: tuple[stats.Answers, stats.Answers] | None) -> Agree | None:
    if paired is None or not paired[0].num_classes:
        return None
    found = stats.agreement(*paired)
    return Agree(both=found.both, only_first=found.only_first, only_second=found.only_second, none=found.none, p_value=found.p_value)


def _data_facts(versions: tuple[ModelVersion, ModelVersion], cards: list[dict[str, Any] | None]) -> list[Fact]:
    parts = [(card or {}).get("data") or {} for card in cards]
    rows: list[tuple[str, list[str]]] = [
        ("Digest", [words.short(version.dataset) for version in versions]),
        ("Name", [str(part.get("name", "")) for part in parts]),
        ("Source", [str(part.get("source", "")) for part in parts]),
        ("Target", [str(part.get("target", "")) for part in parts]),
        ("Columns", [str(part.get("num_columns") or "") for part in parts]),
        ("Splits", [str(part.get("split_rule", "")) for part in parts]),
        ("Set aside", [str(part["num_quarantined"]) if "num_quarantined" in part else "" for part in parts]),
    ]
    splits = dict.fromkeys(split for part in parts for split in part.get("num_rows") or {})
    rows += [(f"Rows, {split}", [_count((part.get("num_rows") or {}).get(split)) for part in parts]) for split in splits]
    classes = dict.fromkeys(name for part in parts for name in part.get("classes") or [])
    for name in list(classes)[:MOST_NAMES]:
        rows.append((f"Class {name}", [_count(_of_class(part, name)) for part in parts]))
    return [Fact(name=name, first=pair[0], second=pair[1]) for name, pair in rows if any(pair)]


def _of_class(part: Mapping[str, Any], name: str) -> int | None:
    if name not in (part.get("classes") or []):
        return None
    return sum(counts.get(name, 0) for counts in (part.get("counts") or {}).values())


def _count(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _options(first: Mapping[str, Any] | None, second: Mapping[str, Any] | None) -> list[Fact]:
    """Every option of either; one that an algorithm does not have is empty there."""
    given = [
        {one["name"]: _shown(one["value"]) for one in ((card or {}).get("training") or {}).get("options") or []} for card in (first, second)
    ]
    if not given[0] or not given[1]:
        return []
    names = dict.fromkeys([*given[0], *given[1]])
    return [Fact(name=name, first=given[0].get(name, ""), second=given[1].get(name, "")) for name in names]


def _package_facts(first: Side, second: Side, descriptions: list[Any]) -> list[Fact]:
    sides = (first, second)
    rows = [
        ("Algorithm", [side.algorithm for side in sides]),
        ("Made", [words.moment(side.created) for side in sides]),
        ("Learned numbers", [_count(side.num_parameters) for side in sides]),
        ("Size", [words.size(side.num_bytes) for side in sides]),
        ("Training", ["" if side.training_seconds is None else words.duration(side.training_seconds) for side in sides]),
        ("Inputs", [str(len((description.get("inputs") or {}).get("properties") or {})) for description in descriptions]),
        ("Classes", [str(len(description.get("labels") or []) or "") for description in descriptions]),
    ]
    return [Fact(name=name, first=pair[0], second=pair[1]) for name, pair in rows if any(pair)]


def _compression_facts(descriptions: list[Any]) -> list[Fact]:
    """The entries of ``compression`` in either ``package.json``, nested ones by dotted name."""
    flat = [_flat(description.get("compression") or {}) for description in descriptions]
    names = dict.fromkeys([*flat[0], *flat[1]])
    return [Fact(name=name, first=flat[0].get(name, ""), second=flat[1].get(name, "")) for name in list(names)[:MOST_NAMES]]


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for name, inner in value.items():
        if isinstance(inner, Mapping):
            found |= _flat(inner, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = _shown(inner)
    return found


def _shown(value: Any) -> str:
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
