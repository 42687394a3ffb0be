"""Search spaces: every preset has one that its options allow, and a user's ranges narrow it or are refused in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from algorithms.catalog import ALGORITHMS, find_algorithm
from algorithms.search_space import (
    Choice,
    Float,
    Int,
    SearchSpace,
    contains,
    default_values,
    grid,
    in_words,
    inside,
    narrow,
    read_space,
    split_options,
)
from algorithms.spec import Algorithm
from infra.errors import InvalidOptionError

CNN = find_algorithm("image-classification/small-cnn")
FOREST = find_algorithm("tabular-classification/random-forest")
MLP = find_algorithm("tabular-classification/mlp")


def _options(algorithm: Algorithm) -> dict[str, Any]:
    return algorithm.config({"target": "kind"} if algorithm.modality == "table" else {}).model_dump(mode="json")


def _narrow(algorithm: Algorithm, overrides: dict[str, Any], fixed: tuple[str, ...] = ()) -> SearchSpace:
    return narrow(algorithm, _options(algorithm), overrides, fixed)


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda algorithm: algorithm.name)
def test_every_preset_has_a_space_that_its_options_allow(algorithm: Algorithm) -> None:
    assert len(algorithm.search_space) >= 2
    whole = {name: found.model_dump() for name, found in algorithm.search_space.items()}
    assert _narrow(algorithm, whole) == dict(sorted(algorithm.search_space.items()))


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda algorithm: algorithm.name)
def test_the_defaults_lie_in_the_space_where_they_are_values(algorithm: Algorithm) -> None:
    options = _options(algorithm)
    space = narrow(algorithm, options, {})
    outside = set(space) - set(default_values(algorithm, options, space))
    assert all(options[name] is None for name in outside)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("0.001..0.1", Float(low=0.001, high=0.1, log=True)),  # logarithmic as the preset's own range
        ("0.001..0.1 linear", Float(low=0.001, high=0.1)),
        ("1e-4 .. 1e-1 log", Float(low=1e-4, high=0.1, log=True)),
        ([0.01, 0.02], Choice(values=(0.01, 0.02))),
        ({"values": [0.01]}, Choice(values=(0.01,))),
        ({"low": 0.01, "high": 0.1}, Float(low=0.01, high=0.1, log=True)),
    ],
)
def test_a_range_is_read_in_every_way_it_may_be_written(text: Any, found: Any) -> None:
    assert _narrow(CNN, {"learning_rate": text})["learning_rate"] == found


def test_whole_numbers_stay_whole_and_may_go_in_steps() -> None:
    space = _narrow(CNN, {"batch_size": "16..64 step 16", "epochs": "2..8 log"})
    assert space["batch_size"] == Int(low=16, high=64, step=16)
    assert space["epochs"] == Int(low=2, high=8, log=True)
    assert _narrow(FOREST, {"max_depth": "3..9"})["max_depth"] == Int(low=3, high=9, log=True)


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda algorithm: algorithm.name)
def test_a_range_is_shown_as_it_would_be_written(algorithm: Algorithm) -> None:
    written = {name: in_words(found) for name, found in algorithm.search_space.items()}
    read = {name: json.loads(text) if text.startswith("[") else text for name, text in written.items()}
    assert _narrow(algorithm, read) == dict(sorted(algorithm.search_space.items()))


def test_what_is_fixed_is_not_tuned() -> None:
    assert "dropout" in CNN.search_space
    assert "dropout" not in _narrow(CNN, {}, ("dropout",))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"learning_rat": "0.1..1"}, r"learning_rat: there is no such option \(did you mean learning_rate"),
        ({"learning_rate": "0.1..0.01"}, "low must be below high"),
        ({"learning_rate": {"low": 0, "high": 1, "log": True}}, "must begin above 0"),
        ({"dropout": "0..1.5"}, "dropout: input should be less than 1"),
        ({"optimizer": ["adam", "adamm"]}, "there is no 'adamm'"),
        ({"optimizer": "1..2"}, "no number; give choices"),
        ({"batch_size": "16..64 log step 16"}, "steps of 1 only"),
        ({"batch_size": {"low": 16}}, "high: Field required"),
        ({"batch_size": []}, "at least 1 item"),
        ({"batch_size": {"low": 1, "high": 2, "hihg": 3}}, "hihg: Extra inputs"),
    ],
)
def test_a_wrong_range_is_refused_in_words(overrides: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidOptionError, match=words):
        _narrow(CNN, overrides)


def test_what_is_to_be_learned_is_not_tuned() -> None:
    with pytest.raises(InvalidOptionError, match="target: it says what is to be learned"):
        _narrow(FOREST, {"target": ["kind", "hue"]})


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(InvalidOptionError) as caught:
        _narrow(CNN, {"widht": [1, 2], "dropout": "0..7"}, ("sede",))
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["sede", "widht", "dropout"]


def test_a_space_with_nothing_in_it_is_refused() -> None:
    with pytest.raises(InvalidOptionError, match="nothing is left to tune"):
        _narrow(CNN, {}, tuple(CNN.search_space))


def test_set_options_are_split_into_values_and_ranges() -> None:
    values = {"target": "kind", "hidden": [64, 32], "dropout": "0.1..0.3", "batch_size": [32, 64], "learning_rate": 0.01}
    plain, ranges = split_options(MLP, values)
    assert plain == {"target": "kind", "hidden": [64, 32], "learning_rate": 0.01}
    assert ranges == {"dropout": "0.1..0.3", "batch_size": [32, 64]}
    assert split_options(MLP, {"hidden": [[64], [32, 32]]})[1] == {"hidden": [[64], [32, 32]]}


def test_a_space_is_read_from_json_and_toml(tmp_path: Path) -> None:
    wanted = {"dropout": "0..0.3", "batch_size": [16, 32], "learning_rate": {"low": 0.001, "high": 0.01}}
    (tmp_path / "space.json").write_text(json.dumps(wanted))
    toml = 'dropout = "0..0.3"\nbatch_size = [16, 32]\nlearning_rate = {low = 0.001, high = 0.01}\n'
    (tmp_path / "space.toml").write_text(toml)
    assert read_space(str(tmp_path / "space.json")) == read_space(str(tmp_path / "space.toml")) == wanted


@pytest.mark.parametrize(("name", "text"), [("space.json", "{"), ("space.toml", "a = "), ("space.json", "[1]")])
def test_a_file_that_is_no_space_is_named(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InvalidOptionError, match=name):
        read_space(str(tmp_path / name))
    with pytest.raises(InvalidOptionError, match=r"missing\.json"):
        read_space(str(tmp_path / "missing.json"))


def test_what_an_earlier_study_found_counts_where_the_space_allows_it() -> None:
    space: SearchSpace = {"a": Float(low=0, high=1), "b": Int(low=2, high=8, step=2), "c": Choice(values=("x", "y"))}
    assert inside(space, {"a": 0.5, "b": 4, "c": "y", "d": 1}) == {"a": 0.5, "b": 4, "c": "y"}
    assert inside(space, {"a": 2, "b": 3, "c": "z"}) == {}
    assert not contains(space["a"], None)
    assert not contains(space["a"], True)


def test_a_grid_goes_from_low_to_high() -> None:
    assert grid(Float(low=0.0, high=1.0), 3) == [0.0, 0.5, 1.0]
    assert grid(Float(low=0.01, high=1.0, log=True), 3) == pytest.approx([0.01, 0.1, 1.0])
    assert grid(Int(low=1, high=3), 5) == [1, 2, 3]
    assert grid(Int(low=16, high=60, step=16), 3) == [16, 32, 48]
    assert grid(Choice(values=("a", "b")), 9) == ["a", "b"]
