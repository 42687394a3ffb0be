"""XGBoost: trained round by round with early stopping, kept as its own JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from algorithms.tables.config import XGBoostConfig
from algorithms.tables.family import Family, Learning
from algorithms.tables.graph import GraphBuilder, Head, binary_scores, softmax
from algorithms.tables.progress import Progress
from algorithms.tables.trees import Tree, add_trees

Model = Any
MODEL_FILE = "model.json"


def parameters(config: XGBoostConfig, learning: Learning) -> dict[str, Any]:
    """The options in XGBoost's words."""
    objectives = {0: ("reg:squarederror", ["rmse"]), 2: ("binary:logistic", ["error", "logloss"])}
    objective, metrics = objectives.get(learning.num_classes, ("multi:softprob", ["merror", "mlogloss"]))
    return {
        "objective": objective,
        "eval_metric": metrics,
        **({"num_class": learning.num_classes} if objective.startswith("multi") else {}),
        "tree_method": "hist",
        "learning_rate": config.learning_rate,
        "max_depth": config.max_depth,
        "min_child_weight": config.min_child_weight,
        "reg_alpha": config.l1,
        "reg_lambda": config.l2,
        "gamma": config.min_split_gain,
        "subsample": config.row_share,
        "colsample_bytree": config.feature_share,
        "seed": config.seed,
        "nthread": learning.threads,
        "verbosity": 0,
    }


def fit(config: XGBoostConfig, learning: Learning, progress: Progress) -> Model:
    """Boost until the loss on the valid split stops falling; goes on from a saved state, if there is one."""
    import xgboost as xgb

    saved = progress.resume()
    before = _booster(saved, learning.threads) if saved else None
    done = len(progress.rounds)
    train = xgb.QuantileDMatrix(learning.train, learning.train_labels, weight=learning.weights, nthread=learning.threads)
    sets = [(train, "train")]
    if len(learning.valid):
        sets.append((xgb.QuantileDMatrix(learning.valid, learning.valid_labels, ref=train, nthread=learning.threads), "valid"))
    patience = config.early_stopping_rounds if len(learning.valid) else 0

    class AfterRound(xgb.callback.TrainingCallback):
        def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
            progress.add(config.num_rounds, **_values(evals_log))
            progress.save(lambda: bytes(model.save_raw("json")))
            return progress.is_exhausted(patience)

    booster: Any = before
    if done < config.num_rounds and not progress.is_exhausted(patience):
        booster = xgb.train(
            parameters(config, learning),
            train,
            num_boost_round=config.num_rounds - done,
            evals=sets,
            xgb_model=before,
            callbacks=[AfterRound()],
            verbose_eval=False,
        )
    kept = booster[: progress.best_round] if patience else booster
    return _booster(bytes(kept.save_raw("json")), learning.threads)


def _booster(raw: bytes, threads: int) -> Model:
    import xgboost as xgb

    booster = xgb.Booster({"nthread": threads})
    booster.load_model(bytearray(raw))
    return booster


def _values(log: Any) -> dict[str, float]:
    found: dict[str, float] = {}
    for split, metrics in log.items():
        for name, values in metrics.items():
            value = float(values[-1])
            if name.endswith("error"):
                if split == "valid":
                    found["valid_accuracy"] = 1.0 - value
            elif name == "rmse":
                found[f"{split}_loss"] = value**2
                if split == "valid":
                    found["valid_rmse"] = value
            else:
                found[f"{split}_loss"] = value
    return found


def save(model: Model, folder: Path) -> None:
    (folder / MODEL_FILE).write_bytes(bytes(model.save_raw("json")))


def load(folder: Path, threads: int) -> Model:
    return _booster((folder / MODEL_FILE).read_bytes(), threads)


def predict(model: Model, features: NDArray[np.float32]) -> NDArray[np.float64]:
    found = np.asarray(model.inplace_predict(features), np.float64)
    return np.stack([1 - found, found], axis=1) if _learner(model)["objective"]["name"] == "binary:logistic" else found


def _learner(model: Model) -> dict[str, Any]:
    learner: dict[str, Any] = json.loads(bytes(model.save_raw("json")))["learner"]
    return learner


def importance(model: Model, num_features: int) -> NDArray[np.float64]:
    found = np.zeros(num_features)
    for name, gain in model.get_score(importance_type="total_gain").items():
        found[int(name[1:])] = gain
    return found


def size(model: Model) -> int:
    return sum(len(tree["left_children"]) for tree in _learner(model)["gradient_booster"]["model"]["trees"])


def _tree(tree: dict[str, Any], output: int) -> Tree:
    left = np.asarray(tree["left_children"], np.int64)
    values = np.where(left < 0, np.asarray(tree["split_conditions"], np.float64), 0.0)
    return Tree(
        feature=np.asarray(tree["split_indices"], np.int64),
        threshold=np.asarray(tree["split_conditions"], np.float32),
        left=left,
        right=np.asarray(tree["right_children"], np.int64),
        missing_left=np.asarray(tree["default_left"], bool),
        values=values[:, None],
        first_output=output,
    )


def head(model: Model, num_classes: int) -> Head:
    learner = _learner(model)
    content = learner["gradient_booster"]["model"]
    num_outputs = num_classes if num_classes > 2 else 1
    trees = [_tree(tree, output) for tree, output in zip(content["trees"], content["tree_info"], strict=True)]
    base = _base_margins(learner["learner_model_param"]["base_score"], num_outputs, is_probability=num_classes == 2)

    def add(builder: GraphBuilder, matrix: str) -> str:
        margins = add_trees(builder, matrix, trees, num_outputs=num_outputs, base=base, mode="BRANCH_LT")
        if not num_classes:
            return margins
        return binary_scores(builder, margins) if num_classes == 2 else softmax(builder, margins)

    return add


def _base_margins(base_score: str, num_outputs: int, *, is_probability: bool) -> list[float]:
    """What XGBoost starts from: one number or a list as text; a probability for two classes."""
    parsed = json.loads(base_score)
    values = [float(value) for value in (parsed if isinstance(parsed, list) else [parsed])]
    if is_probability:
        values = [float(np.log(value / (1 - value))) for value in values]
    return values * num_outputs if len(values) == 1 else values


def keep_trees(model: Model, share: float) -> Model:
    """The first boosting rounds."""
    rounds = max(1, round(model.num_boosted_rounds() * share))
    return model[:rounds]


XGBOOST = Family(
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
