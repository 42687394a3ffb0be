"""Random forests and extra trees whose bootstrap leaves out a third of the rows for each tree: those are the left-out predictions.

L. Breiman, "Random Forests", Machine Learning 45, 2001; P. Geurts, D. Ernst, L. Wehenkel, "Extremely randomized trees", 2006.
"""

from __future__ import annotations

import time
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from algorithms.tables.family import Learning
from algorithms.tables.random_forest import Forest

TREES_A_STEP = 25


def fit_forest(
    learning: Learning, config: Any, *, extra: bool, deadline: float, left_out: bool
) -> tuple[Forest, NDArray[np.float64] | None]:
    """Grow at least ``TREES_A_STEP`` trees and at most ``config.num_trees``, until ``deadline`` (of ``time.monotonic``).

    Args:
        config: num_trees, min_samples_leaf, feature_share, seed.
        extra: random thresholds instead of the best.
        left_out: with predictions; not for weighted rows, of which the bootstrap would leave out only the light ones.

    Returns:
        The forest, and each row's prediction by the trees that did not learn from it: scores [N, C], or numbers [N]; None if not asked for.
    """
    from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor, RandomForestClassifier, RandomForestRegressor

    kinds = (ExtraTreesClassifier, ExtraTreesRegressor) if extra else (RandomForestClassifier, RandomForestRegressor)
    estimator = kinds[0 if learning.num_classes else 1](
        n_estimators=0,
        min_samples_leaf=config.min_samples_leaf,
        max_leaf_nodes=config.max_leaves if len(learning.train) > config.max_leaves else None,
        max_features=config.feature_share or ("sqrt" if learning.num_classes else 1 / 3),
        bootstrap=True,
        n_jobs=learning.threads,
        random_state=config.seed,
        warm_start=True,
    )
    begin = time.monotonic()
    while True:
        num_trees = min(estimator.n_estimators + TREES_A_STEP, config.num_trees)
        step_s = (time.monotonic() - begin) * TREES_A_STEP / max(estimator.n_estimators, 1)
        is_last = num_trees == config.num_trees or time.monotonic() + 2 * step_s > deadline
        estimator.set_params(n_estimators=num_trees, oob_score=is_last and left_out)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Some inputs do not have OOB scores")  # they get the scores of no knowledge below
            estimator.fit(learning.train, learning.train_labels, sample_weight=learning.weights)
        if is_last:
            break
    forest = Forest(estimator, learning.num_classes)
    if not left_out:
        return forest, None
    if not learning.num_classes:
        return forest, np.asarray(estimator.oob_prediction_, np.float64)
    scores = np.zeros((len(learning.train), learning.num_classes))
    scores[:, forest.classes] = estimator.oob_decision_function_
    scores[scores.sum(axis=1) == 0] = 1 / learning.num_classes
    return forest, scores
