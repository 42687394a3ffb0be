"""The profile of a training step: in the history, on every rank, and its parts are the whole."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
import torch

from algorithms.catalog import find_algorithm
from algorithms.engines.profiling import PARTS, StepClock
from infra.collectives import LocalCollectives
from tests.algorithms.conftest import Workplace, on_ranks

SMALL_CNN = find_algorithm("image-classification/small-cnn")


def test_the_parts_of_a_training_add_up_to_its_steps_and_to_most_of_its_epochs(workplace: Workplace) -> None:
    options: dict[str, Any] = {"image_size": 16, "width": 0.25, "epochs": 3, "batch_size": 16}
    runs = on_ranks(2, lambda collectives: workplace.train(SMALL_CNN, "profiled", collectives=collectives, **options))
    history = json.loads((runs[0].output_dir / "history.json").read_text())
    profile = history["profile"]
    assert tuple(profile["parts_ms"]) == PARTS
    assert profile["num_steps"] == 3 * 4
    assert sum(profile["parts_ms"].values()) == pytest.approx(profile["step_ms"], abs=0.01)
    assert all(profile["parts_ms"][part] > 0 for part in ("forward", "backward", "reduce", "optimizer"))
    # Besides steps an epoch has its validation; a step is never outside of one.
    assert profile["step_ms"] * profile["num_steps"] / 1000 <= sum(entry["seconds"] for entry in history["epochs"])


def test_what_lies_between_two_epochs_is_no_part_of_a_step() -> None:
    clock = StepClock(torch.device("cpu"))
    for _ in range(2):
        clock.start()
        for part in PARTS[:-1]:
            clock.lap(part)
        clock.step()
        time.sleep(0.05)
    found = clock.summary(LocalCollectives())
    assert found["num_steps"] == 2
    assert found["step_ms"] < 25


def test_the_clock_costs_next_to_nothing() -> None:
    clock = StepClock(torch.device("cpu"))
    clock.start()
    best = min(_cost(clock) for _ in range(5))
    assert best < 100e-6, "a step has six laps; a step of the smallest network takes milliseconds"


def _cost(clock: StepClock) -> float:
    began = time.perf_counter()
    for _ in range(100):
        for part in PARTS[:-1]:
            clock.lap(part)
        clock.step()
    return (time.perf_counter() - began) / 100
