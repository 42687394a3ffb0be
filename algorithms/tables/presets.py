"""The presets for tables."""

from __future__ import annotations

from typing import Final

from algorithms.engines.estimator import EstimatorEngine
from algorithms.search_space import Choice, Float, Int, Range
from algorithms.spec import Algorithm
from algorithms.tables import config
from algorithms.tables.mlp import mlp_engine

_CLASSES: Final = "tabular-classification"
_NUMBERS: Final = "tabular-regression"
_LINEAR = "algorithms.tables.linear.LINEAR"
_FOREST = "algorithms.tables.random_forest.RANDOM_FOREST"
_XGBOOST = "algorithms.tables.xgboost_trees.XGBOOST"
_LIGHTGBM = "algorithms.tables.lightgbm_trees.LIGHTGBM"
_ENSEMBLE = "algorithms.tables.ensemble.family.ENSEMBLE"

_LINEAR_SPACE: dict[str, Range] = {
    "regularization": Float(low=1e-3, high=1e3, log=True),
    "l1_ratio": Choice(values=(0.0, 0.5, 1.0)),
}
_FOREST_SPACE: dict[str, Range] = {
    "max_depth": Int(low=3, high=32, log=True),
    "min_samples_leaf": Int(low=1, high=16, log=True),
    "feature_share": Float(low=0.1, high=1.0),
}
_BOOSTING_SPACE: dict[str, Range] = {
    "learning_rate": Float(low=0.01, high=0.3, log=True),
    "row_share": Float(low=0.5, high=1.0),
    "feature_share": Float(low=0.4, high=1.0),
    "l1": Float(low=0.0, high=2.0),
    "l2": Float(low=1e-2, high=10.0, log=True),
}
_XGBOOST_SPACE: dict[str, Range] = {
    **_BOOSTING_SPACE,
    "max_depth": Int(low=3, high=10),
    "min_child_weight": Float(low=0.5, high=20.0, log=True),
}
_LIGHTGBM_SPACE: dict[str, Range] = {
    **_BOOSTING_SPACE,
    "num_leaves": Int(low=7, high=127, log=True),
    "min_samples_leaf": Int(low=3, high=60, log=True),
}
_MLP_SPACE: dict[str, Range] = {
    "learning_rate": Float(low=3e-4, high=2e-2, log=True),
    "weight_decay": Float(low=1e-3, high=0.3, log=True),
    "batch_size": Choice(values=(32, 64, 128, 256)),
    "dropout": Float(low=0.0, high=0.5),
    "hidden": Choice(values=("128", "256", "256,256", "512,256", "256,256,256")),
}

_ENSEMBLE_SPACE: dict[str, Range] = {"folds": Int(low=3, high=10), "repeats": Int(low=1, high=4)}

TABLE_PRESETS = (
    Algorithm(
        name="tabular-classification/linear",
        config_type=config.LinearClassifierConfig,
        engine=EstimatorEngine(_CLASSES, _LINEAR, ("sklearn.linear_model",)),
        summary="Logistic regression on scaled numbers and encoded text; the strength of its penalty is found on the valid split",
        suits="few rows, many columns, or when each column's weight must be told; the baseline to beat",
        size="one coefficient per feature and class",
        search_space=_LINEAR_SPACE,
    ),
    Algorithm(
        name="tabular-classification/random-forest",
        config_type=config.RandomForestClassifierConfig,
        engine=EstimatorEngine(_CLASSES, _FOREST, ("sklearn.ensemble", "skops.io")),
        summary="300 trees on bootstrap samples (scikit-learn)",
        suits="small and middle-sized tables without any tuning; hard to overfit, large on disk",
        size="grows with the rows: up to 16,384 nodes a tree",
        search_space=_FOREST_SPACE,
    ),
    Algorithm(
        name="tabular-classification/xgboost",
        config_type=config.XGBoostClassifierConfig,
        engine=EstimatorEngine(_CLASSES, _XGBOOST, ("xgboost",)),
        summary="Gradient boosting with level-wise trees (XGBoost), stopped early on the valid split",
        suits="most tables; a little more robust than lightgbm on few rows",
        size="up to 1,000 rounds of up to 127 nodes a class",
        search_space=_XGBOOST_SPACE,
    ),
    Algorithm(
        name="tabular-classification/lightgbm",
        config_type=config.LightGBMClassifierConfig,
        engine=EstimatorEngine(_CLASSES, _LIGHTGBM, ("lightgbm",)),
        summary="Gradient boosting with leaf-wise trees (LightGBM), stopped early on the valid split",
        suits="most tables, above all large ones: the fastest of the strong ones",
        size="up to 1,000 rounds of 61 nodes a class",
        search_space=_LIGHTGBM_SPACE,
    ),
    Algorithm(
        name="tabular-classification/mlp",
        config_type=config.MlpClassifierConfig,
        engine=mlp_engine(regression=False),
        summary="Multi-layer perceptron on scaled numbers and encoded text (torch), over several workers if asked for",
        suits="large tables of numbers with smooth relations; a network of your own takes its place with --set model=...",
        size="0.1 M parameters for 50 features",
        search_space=_MLP_SPACE,
    ),
    Algorithm(
        name="tabular-classification/ensemble",
        learns_from_valid=True,
        config_type=config.EnsembleClassifierConfig,
        engine=EstimatorEngine(_CLASSES, _ENSEMBLE),
        summary="Linear and kernel models, forests, boosted trees and small networks, cross-validated within a time limit and weighted (one ONNX graph)",
        suits="the best result on small and middle-sized tables without any tuning, where a larger and slower model is welcome; distill makes it small",
        size="the sum of its members: 0.3 to 30 MB; distilled, that of one",
        search_space=_ENSEMBLE_SPACE,
    ),
    Algorithm(
        name="tabular-regression/linear",
        config_type=config.LinearConfig,
        engine=EstimatorEngine(_NUMBERS, _LINEAR, ("sklearn.linear_model",)),
        summary="Ridge regression on scaled numbers and encoded text (lasso and elastic net by option); its penalty is found on the valid split",
        suits="few rows, or when each column's weight must be told, or values beyond those of training are to be expected",
        size="one coefficient per feature",
        search_space=_LINEAR_SPACE,
    ),
    Algorithm(
        name="tabular-regression/random-forest",
        config_type=config.RandomForestConfig,
        engine=EstimatorEngine(_NUMBERS, _FOREST, ("sklearn.ensemble", "skops.io")),
        summary="300 trees on bootstrap samples (scikit-learn)",
        suits="small and middle-sized tables without any tuning; hard to overfit, large on disk",
        size="grows with the rows: up to 16,384 nodes a tree",
        search_space=_FOREST_SPACE,
    ),
    Algorithm(
        name="tabular-regression/xgboost",
        config_type=config.XGBoostConfig,
        engine=EstimatorEngine(_NUMBERS, _XGBOOST, ("xgboost",)),
        summary="Gradient boosting with level-wise trees (XGBoost), stopped early on the valid split",
        suits="most tables; a little more robust than lightgbm on few rows",
        size="up to 1,000 rounds of up to 127 nodes",
        search_space=_XGBOOST_SPACE,
    ),
    Algorithm(
        name="tabular-regression/lightgbm",
        config_type=config.LightGBMConfig,
        engine=EstimatorEngine(_NUMBERS, _LIGHTGBM, ("lightgbm",)),
        summary="Gradient boosting with leaf-wise trees (LightGBM), stopped early on the valid split",
        suits="most tables, above all large ones: the fastest of the strong ones",
        size="up to 1,000 rounds of 61 nodes",
        search_space=_LIGHTGBM_SPACE,
    ),
    Algorithm(
        name="tabular-regression/mlp",
        config_type=config.MlpConfig,
        engine=mlp_engine(regression=True),
        summary="Multi-layer perceptron on scaled numbers and encoded text (torch), over several workers if asked for",
        suits="large tables of numbers with smooth relations; a network of your own takes its place with --set model=...",
        size="0.1 M parameters for 50 features",
        search_space=_MLP_SPACE,
    ),
    Algorithm(
        name="tabular-regression/ensemble",
        learns_from_valid=True,
        config_type=config.EnsembleConfig,
        engine=EstimatorEngine(_NUMBERS, _ENSEMBLE),
        summary="Linear and kernel models, forests, boosted trees and small networks, cross-validated within a time limit and weighted (one ONNX graph)",
        suits="the best result on small and middle-sized tables without any tuning, where a larger and slower model is welcome; distill makes it small",
        size="the sum of its members: 0.3 to 30 MB; distilled, that of one",
        search_space=_ENSEMBLE_SPACE,
    ),
)
