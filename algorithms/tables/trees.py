"""Decision trees as arrays, and as one ONNX operator: all tree presets export through here.

Features are float32, while LightGBM and scikit-learn compare with float64 thresholds. For a float32 x, ``x <= t`` is the same as ``x <= t'``
with t' the largest float32 that is not above t; so the exported trees take the same branches, always.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from algorithms.tables.graph import GraphBuilder


@dataclass(frozen=True)
class Tree:
    """One tree; node 0 is the root, ``left`` and ``right`` are node numbers and -1 at leaves.

    Attributes:
        feature: int [n].
        threshold: float32 [n].
        missing_left: bool [n]: where NaN goes.
        values: float [n, T]; what a leaf adds to each of T outputs.
        first_output: to which of the ensemble's outputs the first value goes.
    """

    feature: NDArray[np.int64]
    threshold: NDArray[np.float32]
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    missing_left: NDArray[np.bool_]
    values: NDArray[np.float64]
    first_output: int = 0


def floor_float32(thresholds: NDArray[np.float64]) -> NDArray[np.float32]:
    """The largest float32 that is not above each threshold."""
    wide = np.asarray(thresholds, np.float64)
    with np.errstate(over="ignore"):
        narrow = wide.astype(np.float32)
    return np.where(narrow.astype(np.float64) > wide, np.nextafter(narrow, np.float32(-np.inf)), narrow)


def add_trees(
    builder: GraphBuilder,
    matrix: str,
    trees: Sequence[Tree],
    *,
    num_outputs: int,
    base: Sequence[float],
    mode: Literal["BRANCH_LEQ", "BRANCH_LT"],
) -> str:
    """The sum of all trees and ``base`` as one ``TreeEnsembleRegressor``; returns the name of float32 [N, num_outputs].

    Args:
        mode: which comparison with the threshold leads to the left.
    """
    sizes = [len(tree.feature) for tree in trees]
    is_leaf = np.concatenate([tree.left < 0 for tree in trees])
    leaves = [np.flatnonzero(tree.left < 0) for tree in trees]
    widths = [tree.values.shape[1] for tree in trees]

    def node_values(name: str) -> NDArray[Any]:
        return np.concatenate([getattr(tree, name) for tree in trees])

    def at_leaves(parts: list[NDArray[Any]]) -> list[Any]:
        joined: list[Any] = np.concatenate(parts).tolist()
        return joined

    return builder.add(
        "TreeEnsembleRegressor",
        matrix,
        domain="ai.onnx.ml",
        n_targets=num_outputs,
        aggregate_function="SUM",
        post_transform="NONE",
        base_values=[float(value) for value in base],
        nodes_treeids=np.repeat(np.arange(len(trees)), sizes).tolist(),
        nodes_nodeids=np.concatenate([np.arange(size) for size in sizes]).tolist(),
        nodes_featureids=np.where(is_leaf, 0, node_values("feature")).tolist(),
        nodes_values=np.where(is_leaf, np.float32(0), node_values("threshold")).astype(np.float32).tolist(),
        nodes_modes=np.where(is_leaf, "LEAF", mode).tolist(),
        nodes_truenodeids=np.where(is_leaf, 0, node_values("left")).tolist(),
        nodes_falsenodeids=np.where(is_leaf, 0, node_values("right")).tolist(),
        nodes_missing_value_tracks_true=(node_values("missing_left") & ~is_leaf).astype(np.int64).tolist(),
        target_treeids=at_leaves(
            [np.full(len(found) * width, index) for index, (found, width) in enumerate(zip(leaves, widths, strict=True))]
        ),
        target_nodeids=at_leaves([np.repeat(found, width) for found, width in zip(leaves, widths, strict=True)]),
        target_ids=at_leaves(
            [np.tile(np.arange(width) + tree.first_output, len(found)) for tree, found, width in zip(trees, leaves, widths, strict=True)]
        ),
        target_weights=at_leaves([tree.values[found].astype(np.float32).ravel() for tree, found in zip(trees, leaves, strict=True)]),
    )
