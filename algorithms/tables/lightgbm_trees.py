"""LightGBM: trained round by round with early stopping, kept as its own text format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from algorithms.tables.config import LightGBMConfig
from algorithms.tables.family import Family, Learning
from algorithms.tables.graph import GraphBuilder, Head, binary_scores, softmax
from algorithms.tables.progress import Progress
from algorithms.tables.trees import Tree, add_trees, floor_float32

Model = Any
MODEL_FILE = "model.txt"


def parameters(config: LightGBMConfig, learning: Learning) -> dict[str, Any]:
    """The options in LightGBM's words."""
    objectives = {0: ("regression", ["l2"]), 2: ("binary", ["binary_logloss", "binary_error"])}
    objective, metrics = objectives.get(learning.num_classes, ("multiclass", ["multi_logloss", "multi_error"]))
    return {
        "objective": objective,
        "metric": metrics,
        **({"num_class": learning.num_classes} if objective == "multiclass" else {}),
        "learning_rate": config.learning_rate,
        "num_leaves": config.num_leaves,
        "max_depth": config.max_depth,
        "min_data_in_leaf": config.min_samples_leaf,
        "lambda_l1": config.l1,
        "lambda_l2": config.l2,
        "min_gain_to_split": config.min_split_gain,
        "bagging_fraction": config.row_share,
        "bagging_freq": 1 if config.row_share < 1 else 0,
        "feature_fraction": config.feature_share,
        "seed": config.seed,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": learning.threads,
        "verbosity": -1,
    }


def fit(config: LightGBMConfig, learning: Learning, progress: Progress) -> Model:
    """Boost until the loss on the valid split stops falling; goes on from a saved state, if there is one."""
    import lightgbm as lgb

    saved = progress.resume()
    before = lgb.Booster(model_str=saved.decode()) if saved else None
    done = len(progress.rounds)
    train = lgb.Dataset(learning.train, learning.train_labels, weight=learning.weights, free_raw_data=before is None)
    sets, names = [train], ["train"]
    if len(learning.valid):
        sets.append(lgb.Dataset(learning.valid, learning.valid_labels, reference=train, free_raw_data=before is None))
        names.append("valid")
    patience = config.early_stopping_rounds if len(learning.valid) else 0

    def after_round(env: Any) -> None:
        progress.add(config.num_rounds, **_values(env.evaluation_result_list))
        progress.save(lambda: env.model.model_to_string(num_iteration=-1).encode())
        if progress.is_exhausted(patience):
            raise lgb.callback.EarlyStopException(env.iteration, env.evaluation_result_list)

    booster: Any = before
    if done < config.num_rounds and not progress.is_exhausted(patience):
        booster = lgb.train(
            parameters(config, learning),
            train,
            num_boost_round=config.num_rounds - done,
            valid_sets=sets,
            valid_names=names,
            init_model=before,
            callbacks=[after_round],
        )
    return lgb.Booster(model_str=booster.model_to_string(num_iteration=progress.best_round if patience else -1))


def _values(results: list[Any]) -> dict[str, float]:
    found: dict[str, float] = {}
    for split, name, value, *_ in results:
        if name.endswith("error"):
            if split == "valid":
                found["valid_accuracy"] = 1.0 - float(value)
        else:
            found[f"{split}_loss"] = float(value)
            if name == "l2" and split == "valid":
                found["valid_rmse"] = float(value) ** 0.5
    return found


def save(model: Model, folder: Path) -> None:
    (folder / MODEL_FILE).write_text(model.model_to_string(num_iteration=-1))


def load(folder: Path, threads: int) -> Model:
    import lightgbm as lgb

    # A loaded booster takes no parameters; its threads are those of OpenMP, which the launcher sets.
    return lgb.Booster(model_str=(folder / MODEL_FILE).read_text())


def predict(model: Model, features: NDArray[np.float32]) -> NDArray[np.float64]:
    found = np.asarray(model.predict(features), np.float64)
    return np.stack([1 - found, found], axis=1) if _objective(model) == "binary" else found


def _objective(model: Model) -> str:
    name: str = model.dump_model(num_iteration=1)["objective"].split()[0]
    return name


def importance(model: Model, num_features: int) -> NDArray[np.float64]:
    return np.asarray(model.feature_importance("gain"), np.float64)


def size(model: Model) -> int:
    return sum(2 * tree["num_leaves"] - 1 for tree in model.dump_model()["tree_info"])


def _tree(root: dict[str, Any], first_output: int) -> Tree:
    """A tree of ``dump_model`` as arrays; nodes are numbered as they are met."""
    features: list[int] = []
    thresholds: list[float] = []
    lefts: list[int] = []
    rights: list[int] = []
    missing: list[bool] = []
    values: list[list[float]] = []
    stack: list[tuple[dict[str, Any], int, bool]] = [(root, -1, False)]
    while stack:
        node, parent, is_left = stack.pop()
        number = len(features)
        if parent >= 0:
            (lefts if is_left else rights)[parent] = number
        is_leaf = "left_child" not in node
        features.append(0 if is_leaf else node["split_feature"])
        thresholds.append(0.0 if is_leaf else node["threshold"])
        lefts.append(-1)
        rights.append(-1)
        # Without a NaN in training LightGBM takes NaN for 0.
        missing.append(not is_leaf and (node["default_left"] if node["missing_type"] == "NaN" else node["threshold"] >= 0))
        values.append([node["leaf_value"] if is_leaf else 0.0])
        if not is_leaf:
            stack += [(node["right_child"], number, False), (node["left_child"], number, True)]
    return Tree(
        np.asarray(features, np.int64),
        floor_float32(np.asarray(thresholds, np.float64)),
        np.asarray(lefts, np.int64),
        np.asarray(rights, np.int64),
        np.asarray(missing, bool),
        np.asarray(values, np.float64),
        first_output,
    )


def head(model: Model, num_classes: int) -> Head:
    num_outputs = num_classes if num_classes > 2 else 1
    trees = [_tree(info["tree_structure"], index % num_outputs) for index, info in enumerate(model.dump_model()["tree_info"])]

    def add(builder: GraphBuilder, matrix: str) -> str:
        margins = add_trees(builder, matrix, trees, num_outputs=num_outputs, base=[0.0] * num_outputs, mode="BRANCH_LEQ")
        if not num_classes:
            return margins
        return binary_scores(builder, margins) if num_classes == 2 else softmax(builder, margins)

    return add


def keep_trees(model: Model, share: float) -> Model:
    """The first boosting rounds."""
    import lightgbm as lgb

    rounds = max(1, round(model.current_iteration() * share))
    return lgb.Booster(model_str=model.model_to_string(num_iteration=rounds))


LIGHTGBM = Family(
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
