"""Real samples of a split as a package takes them, chosen by the seed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from algorithms._package_images import decode_picture, group_by_size
from algorithms.compression.recipes import CALIBRATION_BATCH
from algorithms.package import Package
from infra.datasets.dataset import Dataset
from infra.errors import CompressionError

Feeds = dict[str, NDArray[Any]]
NUM_SAMPLES = 256
BATCH = CALIBRATION_BATCH


def calibration_feeds(package: Package, data: Dataset, seed: int) -> list[Feeds]:
    """Up to 256 training samples in batches of up to 32 (pictures of one size share a batch).

    Raises:
        CompressionError: the training split has fewer samples than one batch: their ranges would not be those of the data.
    """
    available = data.num_rows("train")
    if available < BATCH:
        raise CompressionError("calibrate", f"the training split has {available} samples, and activation ranges want at least {BATCH}")
    return list(feeds(package, data, "train", NUM_SAMPLES, seed))


def feeds(package: Package, data: Dataset, split: str, most: int, seed: int) -> Iterator[Feeds]:
    """Batches of up to ``most`` samples, drawn from as many row groups as there are, with no more than one of them in memory."""
    random = np.random.default_rng(seed)
    groups = data.row_groups(split)
    chosen = random.permutation(len(groups))[:most]
    each = -(-most // max(len(chosen), 1))
    pictures: list[NDArray[np.uint8]] = []
    left = most
    for index in chosen:
        table = data.read(groups[index])
        rows = np.sort(random.permutation(table.num_rows)[: min(each, left)])
        left -= len(rows)
        if package.is_image:
            pictures += [decode_picture(encoded) for encoded in table["image"].take(rows).to_pylist()]
            continue
        plan = _column_plan(package)
        columns = plan.raw(table.take(rows))
        for start in range(0, len(rows), BATCH):
            yield {name: package.as_column(name, columns[name][start : start + BATCH]) for name, _ in package.columns}
    for batch in group_by_size(pictures, BATCH):
        yield {"image": np.stack([pictures[place] for place in batch])}


def _column_plan(package: Package) -> Any:
    from algorithms.tables.columns import ColumnPlan

    return ColumnPlan.model_validate(package.description["preprocessing"]["columns"])
