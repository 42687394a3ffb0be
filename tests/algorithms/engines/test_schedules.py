"""Learning rates."""

from __future__ import annotations

from typing import Any

import pytest

from algorithms.engines.schedules import learning_rate
from algorithms.engines.torch_config import TorchConfig


def rates(**options: Any) -> list[float]:
    config = TorchConfig.model_validate({"learning_rate": 1.0, "epochs": 10, **options})
    return [learning_rate(config, quarter / 4) for quarter in range(41)]


def test_the_warm_up_rises_from_almost_nothing_to_the_full_rate() -> None:
    found = rates(schedule="constant", warmup_epochs=2)
    assert 0 < found[0] < 0.01
    assert found[4] == pytest.approx(0.5)
    assert found[8:] == [1.0] * 33


def test_cosine_falls_to_zero_and_never_rises() -> None:
    found = rates(schedule="cosine", warmup_epochs=0)
    assert found[0] == 1.0
    assert found[20] == pytest.approx(0.5)
    assert found[-1] == pytest.approx(0.0)
    assert found == sorted(found, reverse=True)


def test_step_multiplies_at_every_fall() -> None:
    found = rates(schedule="step", warmup_epochs=0, step_epochs=4, step_factor=0.5)
    assert (found[0], found[15], found[16], found[32]) == (1.0, 1.0, 0.5, 0.25)


def test_one_cycle_rises_for_three_tenths_and_ends_at_zero() -> None:
    found = rates(schedule="onecycle")
    assert found[0] == pytest.approx(0.04)
    assert found.index(max(found)) == 12
    assert found[-1] == pytest.approx(0.0)


def test_a_warm_up_longer_than_the_training_still_reaches_the_full_rate() -> None:
    assert max(rates(schedule="cosine", warmup_epochs=50)) == pytest.approx(1.0)
