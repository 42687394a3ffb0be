"""What is tried next is a function of what is known."""

from __future__ import annotations

from typing import Any

from algorithms.catalog import ALGORITHMS, find_algorithm
from algorithms.compression.recipes import Compressible, Mode, Search, Variant, _wanted, fine_tuning, next_recipes

CONFIG = {"epochs": 20, "learning_rate": 0.1, "warmup_epochs": 3.0}
NETWORK = Compressible(static=True, dynamic=True, fp16=True, prunable=True, student={"width": 0.5})


def search(mode: Mode, can: Compressible = NETWORK, **more: Any) -> Search:
    return Search(mode=mode, can=can, config=CONFIG, max_loss=0.01, **more)


def names(mode: Mode, known: dict[str, float | None], can: Compressible = NETWORK, **more: Any) -> list[str]:
    return [recipe.name for recipe in next_recipes(search(mode, can, **more), known)]


def test_auto_begins_with_what_costs_no_training_and_goes_on_to_combinations() -> None:
    assert names("auto", {}) == ["int8", "int8-dynamic", "prune-50", "prune-50-int8"]


def test_auto_trains_a_student_only_where_pruning_by_half_loses_much() -> None:
    known: dict[str, float | None] = {"int8": 0.0, "int8-dynamic": 0.0, "prune-50": 0.007, "prune-50-int8": 0.009}
    assert names("auto", known) == ["student", "student-int8"]
    assert names("auto", {**known, "prune-50": None, "prune-50-int8": None}) == ["student", "student-int8"]
    assert "student" not in names("auto", {**known, "prune-50": 0.002})
    assert "student" in names("auto", {}, NETWORK.model_copy(update={"prunable": False}))


def test_half_precision_is_tried_only_with_a_gpu() -> None:
    assert "fp16" in names("auto", {}, gpu=True)
    assert "fp16" not in names("auto", {})


def test_training_with_rounded_numbers_follows_only_when_calibration_lost_too_much() -> None:
    assert names("quantize", {"int8": 0.005, "int8-dynamic": 0.0}) == []
    assert names("quantize", {"int8": 0.03, "int8-dynamic": 0.0}) == ["int8-aware"]
    assert names("quantize", {"int8": None, "int8-dynamic": 0.0}) == []


def test_pruning_goes_on_while_it_costs_little_and_back_when_it_costs_too_much() -> None:
    known: dict[str, float | None] = dict.fromkeys(["int8", "int8-dynamic", "student", "student-int8"], 0.0)
    assert names("auto", {**known, "prune-50": 0.0, "prune-50-int8": 0.02}) == ["prune-70", "prune-70-int8"]
    assert names("auto", {**known, "prune-50": 0.02, "prune-50-int8": 0.03}) == ["prune-30", "prune-30-int8"]
    assert names("prune", {}) == ["prune-30"]
    assert names("prune", {"prune-30": 0.0}) == ["prune-50"]
    assert names("prune", {"prune-30": 0.2}) == []
    assert names("prune", {"prune-30": 0.007}) == [], "more than half of the budget is gone: the next would break it"


def test_what_could_not_be_made_is_not_tried_again() -> None:
    assert names("prune", {"prune-30": None}) == []


def test_pruning_in_steps_removes_the_share_in_all_and_goes_on_from_what_was_pruned_before() -> None:
    known: dict[str, float | None] = {"int8": 0.0, "int8-dynamic": 0.0, "prune-30": 0.0, "prune-50": 0.0, "prune-50-int8": 0.0}
    modes: dict[Mode, dict[str, int]] = {"prune": {"prune-30": 1, "prune-50": 2, "prune-70": 3}, "auto": {"prune-50": 2, "prune-70": 3}}
    for mode, steps in modes.items():
        found = {recipe.name: recipe for recipe in _wanted(search(mode), known) if recipe.name in steps}
        before: tuple[Variant, ...] = ()
        for name, number in steps.items():
            kept = 1.0
            for tuning in found[name].tunings:
                kept *= 1 - tuning.prune
            assert abs(1 - kept - int(name[-2:]) / 100) < 1e-4
            assert len(found[name].tunings) == number
            assert found[name].tunings[: len(before)] == before
            before = found[name].tunings


def test_a_search_ends() -> None:
    for worst in (0.0, 0.5, None):
        for mode in ("none", "prune", "quantize", "distill", "auto"):
            known: dict[str, float | None] = {}
            for _ in range(20):
                found = next_recipes(search(mode), known)
                if not found:
                    break
                known |= {recipe.name: worst for recipe in found}
            else:
                raise AssertionError(mode)
            assert bool(known) == (mode != "none")


def test_trees_are_dropped_or_grown_smaller() -> None:
    trees = Compressible(trees=True, student={"max_depth": 3})
    assert names("auto", {}, trees) == ["small-trees", "trees-50", "trees-25"]
    assert names("prune", {}, trees) == ["trees-50", "trees-25"]
    assert names("quantize", {}, trees) == []


def test_every_preset_tells_what_can_be_done_and_its_student_is_valid() -> None:
    for algorithm in ALGORITHMS:
        config = algorithm.config({"target": "y"} if algorithm.modality == "table" else {})
        can = algorithm.engine.compressible(config)
        assert isinstance(can, Compressible)
        type(config)(**{**config.model_dump(), **can.student})


def test_the_student_of_the_small_network_is_half_as_wide() -> None:
    algorithm = find_algorithm("image-classification/small-cnn")
    assert algorithm.engine.compressible(algorithm.config({"width": 2.0})).student == {"width": 1.0}


def test_fine_tuning_is_shorter_and_gentler() -> None:
    assert fine_tuning(CONFIG, 0.3, 0.1)["epochs"] == 6
    assert fine_tuning(CONFIG, 0.3, 0.1)["learning_rate"] == 0.1 * 0.1
    assert fine_tuning({}, 0.3, 0.1) == {}
