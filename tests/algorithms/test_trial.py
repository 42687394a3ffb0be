"""What warm processes and the parents of ranks load beforehand."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest

from algorithms.catalog import find_algorithm
from algorithms.trial import rank_modules, verb_modules, warm_modules

COMPILER, TRANSFORMS = "torch._dynamo", "torchvision.transforms.v2"


def of_ranks(name: str, **options: Any) -> tuple[str, ...]:
    algorithm = find_algorithm(name)
    return rank_modules(algorithm.engine, algorithm.config(options))


@pytest.mark.parametrize(
    ("options", "needed"),
    [
        ({}, set()),
        ({"augment": "warp"}, set()),
        ({"augment": "affine"}, {TRANSFORMS}),
        ({"augment": [{"name": "flip"}, {"name": "cutmix"}]}, {TRANSFORMS}),
        ({"augment": "none", "compile": "on"}, {COMPILER}),
        ({"augment": "none", "optimizer": "own_module:Sgd"}, {COMPILER}),
    ],
)
def test_a_rank_waits_for_what_its_options_need_and_no_more(options: dict[str, Any], needed: set[str]) -> None:
    found = of_ranks("image-classification/small-cnn", **options)
    assert {COMPILER, TRANSFORMS} & set(found) == needed
    assert not {"onnx", "torch.utils.tensorboard", "pandas"} & set(found)


def test_trials_that_write_packages_have_loaded_what_an_export_needs() -> None:
    engine = find_algorithm("image-classification/small-cnn").engine
    assert {COMPILER, "onnxscript", "onnx"} <= set(warm_modules(engine, measures=True)) <= set(verb_modules(engine))
    assert not {"onnxscript", "onnx"} & set(warm_modules(engine, measures=False))


@pytest.mark.parametrize("name", ["image-classification/small-cnn", "tabular-classification/mlp", "tabular-regression/linear"])
def test_every_module_of_the_lists_exists(name: str) -> None:
    options = {"target": "y"} if name.startswith("tabular") else {}
    listed = {*of_ranks(name, **options), *verb_modules(find_algorithm(name).engine)}
    assert {module for module in listed if find_spec(module) is None} == set()


def test_the_ranks_of_a_table_load_pandas_once() -> None:
    assert "pandas" in of_ranks("tabular-classification/mlp", target="y")
