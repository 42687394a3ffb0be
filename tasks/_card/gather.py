"""From what the stages left in the store to the parts of the card."""

from __future__ import annotations

import json
import math
import posixpath
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from infra.artifacts import Artifact, Manifest, find, read_file, read_manifest
from tasks._card import model as m
from tasks._card import pictures, words
from tasks._card.svg import number

if TYPE_CHECKING:
    from algorithms.spec import Algorithm
    from infra.datasets.card import Card, DatasetRef
    from infra.datasets.dataset import Dataset
    from infra.store import Store

MOST_POINTS = 1500
MOST_QUARANTINED = 50
_NO_METRICS = {"num_samples"}


class ArtifactFiles:
    """The files of one artifact, verified as they are read."""

    def __init__(self, store: Store, artifact: Artifact) -> None:
        self._store, self._artifact = store, artifact
        self.manifest: Manifest = read_manifest(store, artifact)

    def __contains__(self, name: str) -> bool:
        return name in self.manifest.files

    def read(self, name: str) -> bytes:
        return read_file(self._store, self._artifact, name)

    def json(self, name: str) -> Any:
        return json.loads(self.read(name))

    def json_if_there(self, name: str, default: Any) -> Any:
        """The file's value, or ``default`` if the artifact has no such file; a damaged file is an error."""
        return self.json(name) if name in self else default


def data_part(store: Store, data: Dataset, source: DatasetRef, validation: ArtifactFiles | None) -> m.DataPart:
    card = data.card
    broken = validation.json_if_there("quarantined.json", []) if validation else []
    columns = [feature.name for feature in card.features if feature.name != "_row"]
    return m.DataPart(
        name=card.name,
        digest=card.digest,
        kind=card.kind,
        source=card.source.uri,
        source_format=card.source.format,
        imported_at=card.source.imported_at,
        source_digest=source.digest if source.digest != card.digest else "",
        target=card.target or "",
        num_columns=len(columns) if card.kind == "table" else 0,
        num_rows=card.num_rows,
        num_bytes=card.num_bytes,
        classes=card.classes,
        counts=card.counts if card.classes else {},
        split_rule=_split_rule(card.split_rule),
        num_ignored=card.source.num_ignored,
        num_quarantined=len(broken),
        quarantined=[m.Quarantined(id=one["id"], reasons=one["reasons"]) for one in broken[:MOST_QUARANTINED]],
        lineage=_lineage(store, card),
    )


def _split_rule(rule: Mapping[str, Any]) -> str:
    if rule.get("given"):
        return "as the source gives them"
    parts = []
    if rule.get("ratios"):
        ratios = rule["ratios"].values() if isinstance(rule["ratios"], Mapping) else rule["ratios"]
        parts.append(" / ".join(f"{ratio * 100:g}" for ratio in ratios) + " %")
    if rule.get("stratified_by"):
        parts.append(f"stratified by {rule['stratified_by']}")
    if rule.get("seed") is not None:
        parts.append(f"seed {rule['seed']}")
    return ", ".join(parts)


def _lineage(store: Store, card: Card) -> list[str]:
    """How the version was made, oldest first; an ancestor that was deleted since is named by its digest alone."""
    from infra.datasets.dataset import read_card

    steps: list[str] = []
    seen: set[str] = set()
    while card.digest not in seen:
        seen.add(card.digest)
        parents = card.lineage.parents
        if not parents:
            steps.append(f"{card.lineage.operation} of {card.source.uri}: {words.short(card.digest)}")
            break
        count = card.lineage.details.get("num_samples")
        aside = f", {words.plural(count, 'sample')} set aside" if isinstance(count, int) else ""
        steps.append(f"{card.lineage.operation} of {', '.join(map(words.short, parents))}{aside}: {words.short(card.digest)}")
        artifact = find(store, f"datasets/{parents[0]}")
        if artifact is None:
            break
        card = read_card(store, artifact)
    return [step[0].upper() + step[1:] for step in reversed(steps)]


def validation_part(files: ArtifactFiles, artifact: Artifact, card_key: str) -> m.ValidationPart:
    report = files.json("report.json")
    docs = "data_docs/index.html"
    return m.ValidationPart(
        expectations=[_expectation(entry) for entry in report["expectations"]],
        num_samples=report["num_samples"],
        num_invalid=report["num_invalid"],
        warnings=[] if any(entry.get("reason") for entry in report["expectations"]) else report["warnings"],
        docs=quote(posixpath.relpath(f"{artifact.key}/{docs}", card_key)) if docs in files else "",
    )


def _expectation(entry: Mapping[str, Any]) -> m.ExpectationRow:
    column, kwargs = str(entry.get("column") or ""), dict(entry.get("kwargs") or {})
    name = entry["type"].removeprefix("expect_").removeprefix("column_").replace("_", " ")
    table = str(entry.get("table") or "samples")
    name = name.replace("table row count", f"number of {table}")
    if column and table != "samples":  # a row of such a table is a class, or a column of the data
        column = f"{'class' if table == 'classes' else 'column'}: {column}"
    limits = [_shown(kwargs[key]) for key in ("min_value", "max_value") if key in kwargs]
    if {"min_value", "max_value"} <= kwargs.keys() and None not in (kwargs["min_value"], kwargs["max_value"]):
        name += f" {limits[0]} and {limits[1]}"
    elif kwargs.get("min_value") is not None or kwargs.get("max_value") is not None:
        low = kwargs.get("min_value") is not None
        name = (
            f"{name.replace(' to be between', '')} {'at least' if low else 'at most'} {_shown(kwargs['min_value' if low else 'max_value'])}"
        )
    rest = {key: value for key, value in kwargs.items() if key not in ("column", "min_value", "max_value") and value is not None}
    if rest:
        told = [f"{key.replace('_', ' ')} {_shown(value)}" for key, value in rest.items()]
        name += f" ({', '.join(told)})"
    observed, unexpected = entry.get("observed"), entry.get("num_unexpected")
    seen = _shown(observed) if observed is not None else f"{unexpected:,} unexpected" if unexpected else ""
    return m.ExpectationRow(
        status=entry["status"], expectation=name, subject=column, observed=seen, reason=entry.get("error") or entry.get("reason") or ""
    )


def _shown(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, int | float):
        return number(value)
    text = ", ".join(_shown(item) for item in value) if isinstance(value, list) else str(value)
    return text if len(text) <= 120 else text[:119] + "…"


def training_part(files: ArtifactFiles, algorithm: Algorithm, config: Mapping[str, Any], seconds: float | None) -> m.TrainingPart:
    history = files.json("history.json")
    epochs: list[dict[str, float | None]] = [
        {key: value for key, value in entry.items() if isinstance(value, int | float)} for entry in history.get("epochs", [])
    ]
    return m.TrainingPart(
        epochs=epochs,
        best_epoch=history.get("best_epoch") or None,
        metric=history.get("metric") or "",
        num_parameters=history.get("num_parameters"),
        world_size=history.get("world_size"),
        precision=history.get("precision") or "",
        seconds=training_seconds(epochs, seconds),
        options=_options(algorithm, config),
    )


def training_seconds(epochs: list[dict[str, float | None]], stage_seconds: float | None) -> float | None:
    """How long the training itself took: its epochs, also those of earlier attempts.

    A stage that only finds a finished model, or goes on from a checkpoint, is shorter than the training was, so its time is used only where
    the history does not have every epoch (boosting keeps some rounds of many); then the longer of the two is nearer to the truth.
    """
    spent = [value for entry in epochs if (value := entry.get("seconds")) is not None]
    if not spent:
        return stage_seconds
    whole = [entry["epoch"] for entry in epochs] == list(range(1, len(epochs) + 1)) and len(spent) == len(epochs)
    return sum(spent) if whole else max(sum(spent), stage_seconds or 0.0)


def _options(algorithm: Algorithm, config: Mapping[str, Any]) -> list[m.Option]:
    """Every option with its value and the preset's default, both as JSON values."""
    fields = algorithm.config_type.model_fields
    given = algorithm.config(config).model_dump(mode="json")
    required = {name: given[name] for name, field in fields.items() if field.is_required() and name not in algorithm.defaults}
    defaults = algorithm.config(required).model_dump(mode="json") | dict.fromkeys(required)
    return [
        m.Option(name=name, value=given[name], default=defaults[name], description=field.description or "")
        for name, field in fields.items()
    ]


def evaluation_part(evaluation: ArtifactFiles, package: Mapping[str, Any], data: Dataset) -> tuple[m.EvaluationPart, list[m.Picture]]:
    """The evaluation, and the strip of sample pictures (for image data)."""
    baseline, shipped = evaluation.json("metrics.json"), package.get("metrics") or {}
    judged = shipped if shipped.get("confusion_matrix") else baseline
    strip: list[m.Picture] = []
    more: dict[str, Any] = {}
    if "predictions.parquet" in evaluation:
        if judged.get("confusion_matrix"):
            if data.card.kind == "image":
                strip, more["mistakes"], more["num_mistakes"] = _pictures(evaluation, data)
        else:
            more["points"] = _points(evaluation)
    importance = evaluation.json_if_there("importance.json", [])
    part = m.EvaluationPart(
        package=_scalars(shipped),
        baseline=_scalars(baseline),
        num_samples=int(judged.get("num_samples") or data.num_rows("test")),
        classes=judged.get("classes") or [],
        confusion=judged.get("confusion_matrix") or [],
        per_class=[
            m.ClassScore(name=name, **{key: scores[key] for key in ("precision", "recall", "f1", "support")})
            for name, scores in (judged.get("per_class") or {}).items()
        ],
        importance=[(entry["feature"], entry["importance"]) for entry in importance],
        **more,
    )
    return part, strip


def _scalars(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {
        key: value
        for key, value in metrics.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and key not in _NO_METRICS
    }


def _table(evaluation: ArtifactFiles, columns: list[str]) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    return pq.read_table(pa.BufferReader(evaluation.read("predictions.parquet")), columns=columns)


def _pictures(evaluation: ArtifactFiles, data: Dataset) -> tuple[list[m.Picture], list[m.Picture], int]:
    table = _table(evaluation, ["id", "label", "prediction", "scores"])
    best = [max(scores) for scores in table["scores"].to_pylist()]
    columns = (table[name].to_pylist() for name in ("id", "label", "prediction"))
    predictions = [pictures.Prediction(*row) for row in zip(*columns, best, strict=True)]
    strip, mistakes = pictures.embed_pictures(data, pictures.choose_strip(predictions), pictures.choose_mistakes(predictions))
    return strip, mistakes, sum(one.label != one.prediction for one in predictions)


def _points(evaluation: ArtifactFiles) -> list[tuple[float, float]]:
    """(true, predicted): all, or every n-th of those sorted by the true value, so that both ends stay."""
    table = _table(evaluation, ["label", "prediction"])
    pairs = zip(table["label"].to_pylist(), table["prediction"].to_pylist(), strict=True)
    points = sorted((t, p) for t, p in pairs if math.isfinite(t) and math.isfinite(p))
    if len(points) <= MOST_POINTS:
        return points
    return [points[round(i * (len(points) - 1) / (MOST_POINTS - 1))] for i in range(MOST_POINTS)]


def package_part(files: ArtifactFiles, artifact: Artifact, description: Mapping[str, Any]) -> m.PackagePart:
    onnx, schema = description.get("onnx") or {}, description.get("inputs") or {}
    properties = schema.get("properties") or {}
    parity = description.get("parity") or {}
    opset = onnx.get("opset")
    return m.PackagePart(
        files=[m.FileRow(name=name, num_bytes=entry.size, sha256=entry.sha256) for name, entry in files.manifest.files.items()],
        inputs=[_port(node, properties.get(node["name"], {})) for node in onnx.get("inputs", [])],
        outputs=[_port(node, {}) for node in onnx.get("outputs", [])],
        parity=parity.get("largest_difference"),
        tolerance=parity.get("tolerance"),
        opset=opset.get("ai.onnx") if isinstance(opset, Mapping) else opset,
        location=artifact.key,
    )


def _port(node: Mapping[str, Any], definition: Mapping[str, Any]) -> m.Port:
    shape = " × ".join(str(axis) if isinstance(axis, int) else str(axis or "N") for axis in node.get("shape") or [])
    return m.Port(name=node["name"], type=node["type"], shape=shape, description=str(definition.get("description", "")))
