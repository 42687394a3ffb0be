"""Random forests of scikit-learn, kept as the arrays of their trees."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from algorithms.metrics import classification_metrics, regression_metrics
from algorithms.tables.config import RandomForestConfig
from algorithms.tables.family import Family, Learning
from algorithms.tables.graph import GraphBuilder, Head
from algorithms.tables.progress import Progress
from algorithms.tables.trees import Tree, add_trees, floor_float32

TREES_A_STEP = 25
# What a saved forest may hold besides numbers, arrays and scikit-learn's own estimators; the file's digest is verified before it is read.
TRUSTED = ["sklearn.tree._tree.Tree"]


@dataclass(frozen=True)
class Forest:
    """``classes`` are the indices that occur in training; the estimator knows only those."""

    estimator: Any
    num_classes: int

    @property
    def classes(self) -> NDArray[np.int64]:
        return np.asarray(self.estimator.classes_, np.int64)


def fit(config: RandomForestConfig, learning: Learning, progress: Progress) -> Forest:
    """Grow the trees in steps, so that progress shows."""
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

    kind = RandomForestClassifier if learning.num_classes else RandomForestRegressor
    estimator = kind(
        n_estimators=min(TREES_A_STEP, config.num_trees),
        max_depth=config.max_depth,
        # Best-first growing, which a number of leaves asks for, is slower; it is needed only where the limit can bind.
        max_leaf_nodes=config.max_leaves if len(learning.train) > config.max_leaves else None,
        min_samples_leaf=config.min_samples_leaf,
        max_features=config.feature_share or ("sqrt" if learning.num_classes else 1 / 3),
        n_jobs=learning.threads,
        random_state=config.seed,
        warm_start=True,
    )
    while True:
        estimator.fit(learning.train, learning.train_labels, sample_weight=learning.weights)
        forest = Forest(estimator, learning.num_classes)
        num_steps = -(-config.num_trees // TREES_A_STEP)
        progress.add(num_steps, num_trees=len(estimator.estimators_), **_valid_losses(forest, learning))
        if estimator.n_estimators >= config.num_trees:
            # All trees are kept: an average over more of them is not worse, whatever the valid split says.
            progress.best_round = len(progress.rounds)
            return forest
        estimator.set_params(n_estimators=min(estimator.n_estimators + TREES_A_STEP, config.num_trees))


def _valid_losses(forest: Forest, learning: Learning) -> dict[str, float]:
    if not len(learning.valid):
        return {}
    predicted = predict(forest, learning.valid)
    if not learning.num_classes:
        rmse = regression_metrics(learning.valid_labels, predicted)["rmse"]
        return {"valid_loss": rmse**2, "valid_rmse": rmse}
    metrics = classification_metrics(learning.valid_labels, predicted, [str(index) for index in range(learning.num_classes)])
    return {"valid_loss": metrics["log_loss"], "valid_accuracy": metrics["accuracy"]}


def predict(forest: Forest, features: NDArray[np.float32]) -> NDArray[np.float64]:
    if not forest.num_classes:
        return np.asarray(forest.estimator.predict(features), np.float64)
    scores = np.zeros((len(features), forest.num_classes))
    scores[:, forest.classes] = forest.estimator.predict_proba(features)
    return scores


def save(forest: Forest, folder: Path) -> None:
    import skops.io

    skops.io.dump({"estimator": forest.estimator, "num_classes": forest.num_classes}, folder / "model.skops")


def load(folder: Path, threads: int) -> Forest:
    import skops.io

    content = skops.io.load(folder / "model.skops", trusted=TRUSTED)
    content["estimator"].set_params(n_jobs=threads)
    return Forest(content["estimator"], content["num_classes"])


def importance(forest: Forest, num_features: int) -> NDArray[np.float64]:
    return np.asarray(forest.estimator.feature_importances_, np.float64)


def size(forest: Forest) -> int:
    return int(sum(tree.tree_.node_count for tree in forest.estimator.estimators_))


def _tree(tree: Any, num_trees: int) -> Tree:
    return Tree(
        feature=np.asarray(tree.feature, np.int64),
        threshold=floor_float32(tree.threshold),
        left=np.asarray(tree.children_left, np.int64),
        right=np.asarray(tree.children_right, np.int64),
        missing_left=np.asarray(tree.missing_go_to_left, bool),
        values=tree.value[:, 0, :] / num_trees,
    )


def head(forest: Forest, num_classes: int) -> Head:
    trees = [_tree(member.tree_, len(forest.estimator.estimators_)) for member in forest.estimator.estimators_]
    num_outputs = len(forest.classes) if num_classes else 1

    def add(builder: GraphBuilder, matrix: str) -> str:
        found = add_trees(builder, matrix, trees, num_outputs=num_outputs, base=[0.0] * num_outputs, mode="BRANCH_LEQ")
        if not num_classes or num_outputs == num_classes:
            return found
        # Classes without a training row have the score 0.
        places = np.zeros((num_outputs, num_classes), np.float32)
        places[np.arange(num_outputs), forest.classes] = 1
        return builder.add("MatMul", found, builder.constant(places))

    return add


def keep_trees(forest: Forest, share: float) -> Forest:
    """The first trees: each was grown alone, so any of them are a forest."""
    estimator = forest.estimator
    kept = max(1, round(len(estimator.estimators_) * share))
    estimator.estimators_ = estimator.estimators_[:kept]
    estimator.set_params(n_estimators=kept)
    return Forest(estimator, forest.num_classes)


RANDOM_FOREST = Family(
    keep_nan=True,
    scaled=False,
    fit=fit,
    save=save,
    load=load,
    predict=predict,
    importance=importance,
    size=size,
    head=head,
    keep_trees=keep_trees,
)
