"""Policies as data: names, lists, and what a user gets wrong."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from algorithms.augmentation.policies import POLICIES, check_no_flip, own_names, parse_policy
from algorithms.augmentation.steps import STEPS, Crop, Flip, Own
from algorithms.catalog import ALGORITHMS, find_algorithm
from algorithms.images.config import ImageClassificationConfig
from infra.errors import InvalidOptionError


def test_every_step_is_a_policy_under_its_own_name() -> None:
    assert len(STEPS) >= 15
    for step in STEPS:
        name = step.model_fields["name"].default
        assert parse_policy(name) == (step(name=name),)
    assert parse_policy("none") == ()
    assert len(POLICIES) == len(STEPS) + 3


def test_a_list_gives_steps_with_their_arguments() -> None:
    assert parse_policy([{"name": "crop", "scale": [0.5, 1]}, {"name": "flip", "p": 0.2}]) == (Crop(scale=(0.5, 1.0)), Flip(p=0.2))


def test_a_dotted_name_is_a_policy_or_a_step_with_arguments_of_its_own() -> None:
    assert parse_policy("my_module:change") == (Own(name="my_module:change"),)
    assert parse_policy([{"name": "my_module:Change", "by": 3, "p": 0.5}]) == (Own(name="my_module:Change", p=0.5, arguments={"by": 3}),)
    assert own_names([{"name": "crop"}, {"name": "my_module:Change"}]) == ["my_module:Change"]
    assert own_names("shift") == []


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("phto", "there is no policy 'phto'; nearest: photo"),
        ([{"name": "fliip"}], "step 1: there is no step 'fliip'; nearest: flip"),
        ([{"name": "flip", "p": 2}, {"name": "blur", "kernel": 4}], "step 1: p: .* step 2: kernel: 4 is even"),
        ([{"name": "crop", "size": 3}], "step 1: size: there is no such argument"),
        ([{"name": "crop", "scale": [1, 0.5]}], "scale: the first of .* has to be the smaller"),
        ([{"name": "warp", "scale": [0, 1]}], "step 1: scale.0: Input should be greater than 0"),
        ([{"name": "affine", "scale": [-1, 1]}], "step 1: scale.0: Input should be greater than 0"),
        ([{"name": "crop", "ratio": [0, 1]}], "step 1: ratio.0: Input should be greater than 0"),
        ([{"name": "blur", "sigma": [0, 1]}], "step 1: sigma.0: Input should be greater than 0"),
        ([{"scale": [1, 2]}], 'is not an object with a "name"'),
        (["flip"], 'is not an object with a "name"'),
    ],
)
def test_a_wrong_policy_is_told_with_all_its_faults(value: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        parse_policy(value)
    with pytest.raises(ValidationError):
        ImageClassificationConfig(augment=value)


def test_a_class_that_does_not_exist_cannot_be_spared_from_flipping() -> None:
    check_no_flip(["left"], ["left", "right"])
    with pytest.raises(InvalidOptionError, match=r"there is no class 'lefft'; nearest: left"):
        check_no_flip(["lefft"], ["left", "right"])


def test_every_picture_preset_has_a_policy_that_is_known() -> None:
    presets = [algorithm for algorithm in ALGORITHMS if algorithm.modality == "image"]
    assert presets
    for algorithm in presets:
        config: Any = algorithm.config()
        assert parse_policy(config.augment), algorithm.name


@pytest.mark.parametrize(("preset", "policy", "good"), [("lightgbm", "smote", True), ("mlp", "smote", True), ("lightgbm", "nois", False)])
def test_policies_of_tables_for_classes(preset: str, policy: str, good: bool) -> None:
    algorithm = find_algorithm(f"tabular-classification/{preset}")
    if good:
        assert algorithm.config({"target": "t", "augment": policy}).augment == policy  # type: ignore[attr-defined]
    else:
        with pytest.raises(ValidationError, match="nearest: noise"):
            algorithm.config({"target": "t", "augment": policy})


def test_smote_is_not_for_numbers() -> None:
    with pytest.raises(ValidationError, match="there is no 'smote'"):
        find_algorithm("tabular-regression/mlp").config({"target": "t", "augment": "smote"})
