"""The presets for tables."""

from __future__ import annotations

from typing import Final

from algorithms.engines.estimator import EstimatorEngine
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

TABLE_PRESETS = (
    Algorithm(
        name="tabular-classification/linear",
        config_type=config.LinearClassifierConfig,
        engine=EstimatorEngine(_CLASSES, _LINEAR),
        summary="Logistic regression on scaled numbers and encoded text; the strength of its penalty is found on the valid split",
        suits="few rows, many columns, or when each column's weight must be told; the baseline to beat",
        size="one coefficient per feature and class",
    ),
    Algorithm(
        name="tabular-classification/random-forest",
        config_type=config.RandomForestClassifierConfig,
        engine=EstimatorEngine(_CLASSES, _FOREST),
        summary="300 trees on bootstrap samples (scikit-learn)",
        suits="small and middle-sized tables without any tuning; hard to overfit, large on disk",
        size="grows with the rows: up to 16,384 nodes a tree",
    ),
    Algorithm(
        name="tabular-classification/xgboost",
        config_type=config.XGBoostClassifierConfig,
        engine=EstimatorEngine(_CLASSES, _XGBOOST),
        summary="Gradient boosting with level-wise trees (XGBoost), stopped early on the valid split",
        suits="most tables; a little more robust than lightgbm on few rows",
        size="up to 1,000 rounds of up to 127 nodes a class",
    ),
    Algorithm(
        name="tabular-classification/lightgbm",
        config_type=config.LightGBMClassifierConfig,
        engine=EstimatorEngine(_CLASSES, _LIGHTGBM),
        summary="Gradient boosting with leaf-wise trees (LightGBM), stopped early on the valid split",
        suits="most tables, above all large ones: the fastest of the strong ones",
        size="up to 1,000 rounds of 61 nodes a class",
    ),
    Algorithm(
        name="tabular-classification/mlp",
        config_type=config.MlpConfig,
        engine=mlp_engine(regression=False),
        summary="Multi-layer perceptron on scaled numbers and encoded text (torch), over several workers if asked for",
        suits="large tables of numbers with smooth relations; a network of your own takes its place with --set model=...",
        size="0.1 M parameters for 50 features",
    ),
    Algorithm(
        name="tabular-classification/ensemble",
        config_type=config.EnsembleClassifierConfig,
        engine=EstimatorEngine(_CLASSES, _ENSEMBLE),
        summary="Linear and kernel models, forests, boosted trees and small networks, cross-validated within a time limit and weighted (one ONNX graph)",
        suits="the best result on small and middle-sized tables without any tuning, where a larger and slower model is welcome; distill makes it small",
        size="the sum of its members: 0.3 to 30 MB; distilled, that of one",
    ),
    Algorithm(
        name="tabular-regression/linear",
        config_type=config.LinearConfig,
        engine=EstimatorEngine(_NUMBERS, _LINEAR),
        summary="Ridge regression on scaled numbers and encoded text (lasso and elastic net by option); its penalty is found on the valid split",
        suits="few rows, or when each column's weight must be told, or values beyond those of training are to be expected",
        size="one coefficient per feature",
    ),
    Algorithm(
        name="tabular-regression/random-forest",
        config_type=config.RandomForestConfig,
        engine=EstimatorEngine(_NUMBERS, _FOREST),
        summary="300 trees on bootstrap samples (scikit-learn)",
        suits="small and middle-sized tables without any tuning; hard to overfit, large on disk",
        size="grows with the rows: up to 16,384 nodes a tree",
    ),
    Algorithm(
        name="tabular-regression/xgboost",
        config_type=config.XGBoostConfig,
        engine=EstimatorEngine(_NUMBERS, _XGBOOST),
        summary="Gradient boosting with level-wise trees (XGBoost), stopped early on the valid split",
        suits="most tables; a little more robust than lightgbm on few rows",
        size="up to 1,000 rounds of up to 127 nodes",
    ),
    Algorithm(
        name="tabular-regression/lightgbm",
        config_type=config.LightGBMConfig,
        engine=EstimatorEngine(_NUMBERS, _LIGHTGBM),
        summary="Gradient boosting with leaf-wise trees (LightGBM), stopped early on the valid split",
        suits="most tables, above all large ones: the fastest of the strong ones",
        size="up to 1,000 rounds of 61 nodes",
    ),
    Algorithm(
        name="tabular-regression/mlp",
        config_type=config.MlpConfig,
        engine=mlp_engine(regression=True),
        summary="Multi-layer perceptron on scaled numbers and encoded text (torch), over several workers if asked for",
        suits="large tables of numbers with smooth relations; a network of your own takes its place with --set model=...",
        size="0.1 M parameters for 50 features",
    ),
    Algorithm(
        name="tabular-regression/ensemble",
        config_type=config.EnsembleConfig,
        engine=EstimatorEngine(_NUMBERS, _ENSEMBLE),
        summary="Linear and kernel models, forests, boosted trees and small networks, cross-validated within a time limit and weighted (one ONNX graph)",
        suits="the best result on small and middle-sized tables without any tuning, where a larger and slower model is welcome; distill makes it small",
        size="the sum of its members: 0.3 to 30 MB; distilled, that of one",
    ),
)
