"""The matrix for members that want no gaps and equal scales: the same steps in numpy and in ONNX, learned once for all of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from algorithms.tables.graph import GraphBuilder

CLIP = 10.0
FILE = "dense.npz"


@dataclass(frozen=True)
class Dense:
    """From the trees' matrix [N, F], which keeps NaN, to one without: medians, indicators of what was missing, mean 0 and deviation 1.

    Attributes:
        fill: float32 [F], the training median.
        missing: int64 [I], features that miss values in training; each gets an indicator.
        offset, scale: float32 [F + I]; features that are only 0 and 1 stay as they are.
    """

    fill: NDArray[np.float32]
    missing: NDArray[np.int64]
    offset: NDArray[np.float32]
    scale: NDArray[np.float32]

    @property
    def num_features(self) -> int:
        return len(self.offset)

    def transform(self, matrix: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32 [N, F] -> [N, F + I], clipped to ten standard deviations."""
        absent = np.isnan(matrix)
        whole = np.concatenate([np.where(absent, self.fill, matrix), absent[:, self.missing].astype(np.float32)], axis=1)
        scaled: NDArray[np.float32] = np.clip((whole - self.offset) * self.scale, np.float32(-CLIP), np.float32(CLIP))
        return scaled

    def add(self, builder: GraphBuilder, matrix: str) -> str:
        """The operators of ``transform``; returns the name of the matrix [N, F + I]."""
        from onnx import TensorProto

        absent = builder.add("IsNaN", matrix)
        whole = builder.add("Where", absent, builder.constant(self.fill[None]), matrix)
        if len(self.missing):
            flags = builder.add("Gather", absent, builder.constant(self.missing, np.int64), axis=1)
            whole = builder.add("Concat", whole, builder.add("Cast", flags, to=TensorProto.FLOAT), axis=1)
        moved = builder.add("Sub", whole, builder.constant(self.offset[None]))
        scaled = builder.add("Mul", moved, builder.constant(self.scale[None]))
        return builder.add("Clip", scaled, builder.constant(-CLIP), builder.constant(CLIP))

    def fold_back(self, importance: NDArray[np.float64], num_features: int) -> NDArray[np.float64]:
        """Importance of [F + I] features as that of the [F] of the trees' matrix."""
        found = np.array(importance[:num_features], np.float64)
        np.add.at(found, self.missing, importance[num_features:])
        return found

    def save(self, folder: Path) -> None:
        np.savez(folder / FILE, fill=self.fill, missing=self.missing, offset=self.offset, scale=self.scale)


def load_dense(folder: Path) -> Dense:
    with np.load(folder / FILE, allow_pickle=False) as arrays:
        return Dense(arrays["fill"], arrays["missing"], arrays["offset"], arrays["scale"])


def fit_dense(matrix: NDArray[np.float32]) -> Dense:
    """Learn from the training matrix [N, F]."""
    absent = np.isnan(matrix)
    fill = np.zeros(matrix.shape[1], np.float32)
    known = ~absent.all(axis=0)
    fill[known] = np.nanmedian(matrix[:, known], axis=0)
    missing = np.flatnonzero(absent.any(axis=0))
    whole = np.concatenate([np.where(absent, fill, matrix), absent[:, missing]], axis=1, dtype=np.float64)
    is_flag = ((whole == 0) | (whole == 1)).all(axis=0)
    deviation = whole.std(axis=0)
    free = ~is_flag & (deviation > 0)
    scale = np.where(free, 1 / np.where(deviation > 0, deviation, 1), 1.0)
    return Dense(fill, missing, np.where(free, whole.mean(axis=0), 0.0).astype(np.float32), scale.astype(np.float32))
