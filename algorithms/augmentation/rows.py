"""Augmentation of tables: what is done to the matrix of training rows before, or to its batches while, a model learns. Never to other splits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from algorithms.user_code import guarded_with_traceback, is_dotted, load_dotted
from infra.errors import InvalidOptionError, UserCodeError

if TYPE_CHECKING:
    import torch

    from algorithms.tables.columns import ColumnPlan
    from algorithms.tables.config import TableConfig

Floats = NDArray[np.float32]
_NEIGHBOURS = 5


def number_features(plan: ColumnPlan) -> NDArray[np.bool_]:
    """Which features are numbers that may vary a little, bool [F]: not indicators, parts of dates, or one feature per value."""
    found = np.zeros(plan.num_features, bool)
    found[: len(plan.numeric)] = [column.type in ("integer", "float") for column in plan.numeric]
    return found


def whole_features(plan: ColumnPlan) -> Iterator[slice]:
    """The features with two values: each boolean and indicator, and the features of each text column, of which exactly one is 1."""
    for place, column in enumerate(plan.numeric):
        if column.type == "boolean":
            yield slice(place, place + 1)
    place = len(plan.numeric)
    for _ in plan.indicators:
        yield slice(place, place + 1)
        place += 1
    place += 4 * len(plan.dates)
    for category in plan.categories:
        width = len(category.values) + 1 if category.means is None else len(category.default)
        if category.means is None:
            yield slice(place, place + width)
        place += width


def augment_rows(config: TableConfig, plan: ColumnPlan, features: Floats, labels: NDArray[Any]) -> tuple[Floats, NDArray[Any]]:
    """The training rows and what the ``augment`` option adds to them: float32 [N, F] and targets [N] -> [M, F] and [M].

    ``noise`` adds a noisy copy of every row, ``smote`` rows between neighbours of the rarer classes; a function of the user's own gives what it likes.

    Raises:
        InvalidOptionError: too few rows to interpolate between.
        UserCodeError: the user's own function failed.
    """
    if config.augment == "noise":
        copy = add_noise(features, number_features(plan), config.noise_sigma, config.seed)
        return np.concatenate([features, copy]), np.concatenate([labels, labels])
    if config.augment == "smote":
        return _smote(plan, features, labels, config.seed)
    if is_dotted(config.augment):
        return _own(config.augment, features, labels)
    return features, labels


def add_noise(features: Floats, numbers: NDArray[np.bool_], sigma: float, seed: int) -> Floats:
    """Gaussian noise of ``sigma`` standard deviations of each feature that is a number; missing values stay missing."""
    noisy = features.copy()
    spread = np.nanstd(features[:, numbers], axis=0)
    drawn = np.random.default_rng(seed).standard_normal((len(features), int(numbers.sum())), dtype=np.float32)
    noisy[:, numbers] += drawn * spread * np.float32(sigma)
    return noisy


def _smote(plan: ColumnPlan, features: Floats, labels: NDArray[Any], seed: int) -> tuple[Floats, NDArray[Any]]:
    """SMOTE (Chawla et al., arXiv 1106.1813) up to the size of the largest class; indicators and text columns take the nearer row's value."""
    found, counts = np.unique(labels, return_counts=True)
    wanted = {int(label): int(counts.max()) for label, count in zip(found, counts, strict=True) if 1 < count < counts.max()}
    if not wanted:
        if (counts == counts.max()).all():
            return features, labels
        raise InvalidOptionError(
            "training", ["augment: smote needs two rows of a class to make one between them; the rarer classes have one each"]
        )
    from imblearn.over_sampling import SMOTE  # type: ignore[import-untyped]

    least = min(int(count) for label, count in zip(found, counts, strict=True) if int(label) in wanted)
    filled = np.where(np.isnan(features), _medians(features), features)
    sampler = SMOTE(sampling_strategy=wanted, random_state=seed, k_neighbors=min(_NEIGHBOURS, least - 1))
    grown, grown_labels = sampler.fit_resample(filled, labels)
    new = np.asarray(grown[len(features) :], np.float32)
    for part in whole_features(plan):
        block = new[:, part]
        if block.shape[1] > 1:
            new[:, part] = np.eye(block.shape[1], dtype=np.float32)[block.argmax(axis=1)]
        else:
            values = np.unique(filled[:, part])  # 0 and 1, before they were scaled
            new[:, part] = values[np.abs(block - values).argmin(axis=1)][:, None]
    return np.concatenate([features, new]), np.asarray(grown_labels, labels.dtype)


def _medians(features: Floats) -> Floats:
    """Median of each feature's values that are there, 0 if none is: float32 [F]."""
    empty = np.isnan(features).all(axis=0)
    found: Floats = np.nanmedian(np.where(empty, np.float32(0), features), axis=0).astype(np.float32)
    return found


def _own(name: str, features: Floats, labels: NDArray[Any]) -> tuple[Floats, NDArray[Any]]:
    given = guarded_with_traceback(name, load_dotted(name), features.copy(), labels.copy())
    if not (isinstance(given, tuple) and len(given) == 2):
        raise UserCodeError(name, f"it has to give a pair, rows and their targets; it gave {type(given).__name__}")
    rows, targets = np.asarray(given[0], np.float32), np.asarray(given[1])
    if rows.ndim != 2 or rows.shape[1] != features.shape[1] or targets.shape != (len(rows),) or not len(rows):
        raise UserCodeError(
            name,
            f"it has to give rows [N, {features.shape[1]}] and as many targets [N]; it gave {list(rows.shape)} and {list(targets.shape)}",
        )
    unknown = set(np.unique(targets)) - set(np.unique(labels)) if labels.dtype.kind == "i" else set()
    if unknown:
        raise UserCodeError(name, f"it gave targets that no training row has: {sorted(map(int, unknown))[:5]}")
    return rows, targets.astype(labels.dtype)


class NoiseOnRows:
    """Noise of its own for every batch; see ``algorithms.engines.augmenting.BatchAugment``."""

    def __init__(self, numbers: NDArray[np.bool_], sigma: float) -> None:
        self._numbers, self._sigma = numbers, sigma

    def change(self, rows: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Scaled rows float32 [N, F] -> the same with noise on the features that are numbers."""
        import torch

        # Numbers were scaled to a standard deviation of 1.
        strength = torch.from_numpy(self._numbers.astype(np.float32) * self._sigma).to(rows.device)
        return rows + torch.randn(rows.shape).to(rows.device) * strength

    def mix(self, rows: torch.Tensor) -> tuple[torch.Tensor, None]:
        return rows, None
