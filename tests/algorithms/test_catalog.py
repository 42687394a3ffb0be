"""The catalogue: what ships, what plugins add, and quick answers."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest
from pydantic import ValidationError

from algorithms import catalog
from algorithms.catalog import ALGORITHMS, find_algorithm, list_algorithms
from infra.errors import UnknownAlgorithmError, UserCodeError

IMAGE_NAMES = {"small-cnn", "resnet18", "resnet50", "mobilenetv3-small", "efficientnet-b0"}
NEEDED: dict[str, dict[str, str]] = {"image": {}, "table": {"target": "label"}}  # what nobody can know but the user
TABLE_NAMES = {"linear", "random-forest", "xgboost", "lightgbm", "mlp", "ensemble"}


def test_the_catalogue_is_what_was_promised() -> None:
    promised = {f"image-classification/{name}" for name in IMAGE_NAMES}
    promised |= {f"{task}/{name}" for task in ("tabular-classification", "tabular-regression") for name in TABLE_NAMES}
    assert {algorithm.name for algorithm in ALGORITHMS} == promised
    assert len(ALGORITHMS) == len(promised)


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda algorithm: algorithm.name)
def test_every_preset_explains_itself_and_its_options(algorithm: catalog.Algorithm) -> None:
    config = algorithm.config(NEEDED[algorithm.modality])
    assert config.model_dump(mode="json") == algorithm.config(config.model_dump(mode="json")).model_dump(mode="json")
    assert algorithm.summary
    assert algorithm.suits
    assert algorithm.size
    for name, field in algorithm.config_type.model_fields.items():
        assert field.description, f"{algorithm.name}: {name} has no description"
        assert not field.is_required() or name in NEEDED[algorithm.modality], f"{algorithm.name}: {name} has no default"


def test_all_wrong_options_are_reported_at_once() -> None:
    with pytest.raises(ValidationError) as caught:
        find_algorithm("image-classification/small-cnn").config({"epochs": 0, "leaning_rate": 1, "dropout": 1})
    assert {error["loc"][0] for error in caught.value.errors()} == {"epochs", "leaning_rate", "dropout"}


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("image-classification/resnet81", "image-classification/resnet18"),
        ("resnet18", "image-classification/resnet18"),
        ("image-clasification/small-cnn", "image-classification/small-cnn"),
        ("tabular-classification/lightgmb", "tabular-classification/lightgbm"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(wrong: str, right: str) -> None:
    with pytest.raises(UnknownAlgorithmError) as caught:
        find_algorithm(wrong)
    assert right in caught.value.nearest


def test_reading_the_catalogue_imports_nothing_heavy() -> None:
    code = (
        "import json, sys; from algorithms.catalog import ALGORITHMS; [(a.config_type.model_json_schema(), a.summary) for a in ALGORITHMS]; "
        "print(json.dumps(sorted(set(sys.modules) & {'torch', 'timm', 'sklearn', 'onnx', 'onnxruntime', 'pandas', 'xgboost', 'lightgbm', "
        "'mlflow', 'great_expectations', 'prefect', 'dask', 'distributed', 'matplotlib'})))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120).stdout
    assert json.loads(output) == []


def plugins(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    entries = [EntryPoint(name, value, catalog.PLUGIN_GROUP) for name, value in values.items()]
    monkeypatch.setattr(catalog, "entry_points", lambda group: entries if group == catalog.PLUGIN_GROUP else [])


PLUGIN = """
from dataclasses import replace
from algorithms.images.presets import IMAGE_PRESETS
mine = replace(IMAGE_PRESETS[0], name="image-classification/mine")
several = [replace(mine, name="image-classification/other"), IMAGE_PRESETS[1]]
number = 3
"""


@pytest.fixture
def plugin_module(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path_factory.mktemp("plugin")
    (folder / "my_plugin_algorithms.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(folder))


@pytest.mark.usefixtures("plugin_module")
def test_a_plugins_algorithm_is_found_and_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    plugins(monkeypatch, mine="my_plugin_algorithms:mine")
    assert find_algorithm("image-classification/mine").name == "image-classification/mine"
    found, broken = list_algorithms()
    assert [algorithm.name for algorithm in found[len(ALGORITHMS) :]] == ["image-classification/mine"]
    assert broken == []


@pytest.mark.usefixtures("plugin_module")
def test_plugins_that_do_not_load_are_named_and_keep_nobody_from_working(monkeypatch: pytest.MonkeyPatch) -> None:
    plugins(
        monkeypatch,
        absent="no_such_plugin:x",
        three="my_plugin_algorithms:number",
        twice="my_plugin_algorithms:several",
        mine="my_plugin_algorithms:mine",
    )
    found, broken = list_algorithms()
    assert [algorithm.name for algorithm in found[len(ALGORITHMS) :]] == ["image-classification/mine"]
    sentences = [str(error) for error in broken]
    assert "'absent' does not load" in sentences[0]
    assert "'three' gives int" in sentences[1]
    assert "names that are taken: image-classification/resnet18" in sentences[2]
    with pytest.raises(UserCodeError, match="'absent' does not load"):
        find_algorithm("something-entirely-else")
