"""A package judged on the split of any data set that it fits: how a champion is compared with a challenger that was measured elsewhere."""

from __future__ import annotations

from typing import Any

import numpy as np

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


def judge(package: Package, data: Dataset, split: str = "test") -> dict[str, Any]:
    """Metrics of the package on a split, by onnxruntime (``algorithms.metrics``)."""
    return _judge_pictures(package, data, split) if package.is_image else _judge_rows(package, data, split)


def _judge_pictures(package: Package, data: Dataset, split: str) -> dict[str, Any]:
    from algorithms.metrics import classification_metrics

    place = np.asarray([package.labels.index(name) for name in data.card.classes])
    labels: list[np.ndarray] = []
    scores: list[np.ndarray] = []
    for table in data.iter_tables(split, ["label", "image"]):
        pictures = table["image"].to_pylist()
        for start in range(0, len(pictures), 64):  # decoded pictures are large
            scores.append(package.predict_arrays([decode_picture(encoded) for encoded in pictures[start : start + 64]]))
        labels.append(place[table["label"].to_numpy()])
    return classification_metrics(np.concatenate(labels), np.concatenate(scores), package.labels)


def _judge_rows(package: Package, data: Dataset, split: str) -> dict[str, Any]:
    from algorithms.tables.columns import ColumnPlan
    from algorithms.tables.judging import predict_split
    from algorithms.tables.target import Target

    plan = ColumnPlan.model_validate(package.description["preprocessing"]["columns"])
    target = Target.model_validate(package.description["preprocessing"]["target"])
    return predict_split(data, split, plan, target, lambda table: package.predict_arrays(plan.raw(table), batch_size=4096)).metrics()
