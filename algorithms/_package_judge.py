"""A package judged on the split of any data set that it fits: how a champion is compared with a challenger that was measured elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from algorithms.metrics import classification_metrics, regression_metrics
from algorithms.package import Package, decode_picture
from infra.datasets.dataset import Dataset


def misfit(package: Package, data: Dataset) -> str:
    """Why the package cannot be judged on this data, in words; empty if it can."""
    if package.is_image:
        if data.card.kind != "image":
            return "it takes pictures and this data is a table"
        missing = sorted(set(data.card.classes) ^ set(package.labels))
        return f"the classes differ ({', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''})" if missing else ""
    if data.card.kind != "table":
        return "it takes rows of a table and this data is pictures"
    known = {feature.name for feature in data.card.features}
    target = str(package.description["config"].get("target", ""))
    absent = [name for name in [*(name for name, _ in package.columns), target] if name not in known]
    return f"this data has no column {', '.join(map(repr, absent[:5]))}" if absent else ""


@dataclass(frozen=True)
class Judged:
    """What a package said about a split.

    Attributes:
        ids: ``path`` of pictures, ``_row`` of table rows, as text [N].
        labels: int64 class indices into ``classes``, or float64 numbers [N].
        outputs: scores float [N, C], or numbers [N].
        classes: empty for numbers.
    """

    ids: list[str]
    labels: NDArray[Any]
    outputs: NDArray[Any]
    classes: list[str]

    def metrics(self) -> dict[str, Any]:
        if self.classes:
            return classification_metrics(self.labels, self.outputs, self.classes)
        return regression_metrics(self.labels, self.outputs)


def judge(package: Package, data: Dataset, split: str = "test") -> dict[str, Any]:
    """Metrics of the package on a split, by onnxruntime (``algorithms.metrics``)."""
    return answers(package, data, split).metrics()


def answers(package: Package, data: Dataset, split: str = "test") -> Judged:
    """What the package says about each row of a split that has a target, by onnxruntime."""
    return _judge_pictures(package, data, split) if package.is_image else _judge_rows(package, data, split)


def _judge_pictures(package: Package, data: Dataset, split: str) -> Judged:
    place = np.asarray([package.labels.index(name) for name in data.card.classes])
    ids: list[str] = []
    labels: list[NDArray[Any]] = []
    scores: list[NDArray[Any]] = []
    for table in data.iter_tables(split, ["path", "label", "image"]):
        pictures = table["image"].to_pylist()
        for start in range(0, len(pictures), 64):  # decoded pictures are large
            scores.append(package.predict_arrays([decode_picture(encoded) for encoded in pictures[start : start + 64]]))
        labels.append(place[table["label"].to_numpy()])
        ids += table["path"].to_pylist()
    return Judged(ids, np.concatenate(labels), np.concatenate(scores), list(package.labels))


def _judge_rows(package: Package, data: Dataset, split: str) -> Judged:
    from algorithms.tables.columns import ColumnPlan
    from algorithms.tables.judging import predict_split
    from algorithms.tables.target import Target

    plan = ColumnPlan.model_validate(package.description["preprocessing"]["columns"])
    target = Target.model_validate(package.description["preprocessing"]["target"])
    found = predict_split(data, split, plan, target, lambda table: package.predict_arrays(plan.raw(table), batch_size=4096))
    return Judged(found.rows.astype(str).tolist(), found.labels, found.outputs, list(target.classes) if target.is_class else [])
