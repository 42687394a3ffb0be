"""Learning rates, momentum, batch sizes and picture sizes over a training."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from algorithms.engines.schedules import batch_size, learning_rate, line_value, set_rates
from algorithms.engines.torch_config import TorchConfig
from algorithms.images.config import ImageClassificationConfig
from algorithms.images.presets import list_expectations
from infra.datasets.card import Card
from infra.errors import InvalidOptionError


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


def test_points_come_from_words_objects_and_lists_and_survive_json() -> None:
    for given in ("0:32,4:64", {"0": 32, "4": 64}, [[0, 32], (4, "64")]):
        config = TorchConfig.model_validate({"batch_size_by_epoch": given})
        assert config.batch_size_by_epoch == ((0, 32), (4, 64))
        assert TorchConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"batch_size_by_epoch": "5"}, "must be EPOCH:VALUE"),
        ({"batch_size_by_epoch": "5:32,5:64"}, "epochs must rise"),
        ({"batch_size_by_epoch": "0:0"}, "values must be from 1 to"),
        ({"momentum_by_epoch": "0:1.5"}, "values must be from 0 to 0.9999"),
        ({"momentum_by_epoch": "0:0.9", "optimizer": "sgd"}, "sgd has no momentum"),
        ({"image_size_by_epoch": "0:8,2:16"}, "the last size has to be image_size, 32"),
        ({"image_size_by_epoch": "0:64,2:32"}, "values must be from 8 to 32"),
    ],
)
def test_schedules_that_make_no_sense_are_refused(options: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        ImageClassificationConfig.model_validate({"image_size": 32, **options})


def test_a_training_that_ends_before_the_final_picture_size_is_refused() -> None:
    config = ImageClassificationConfig(image_size=32, epochs=30, image_size_by_epoch=((0, 16), (30, 32)))
    with pytest.raises(InvalidOptionError, match="at epoch 29 or earlier"):
        list_expectations(config, Card.model_construct(classes=[], counts={}))


def test_batch_sizes_change_at_their_epochs() -> None:
    config = TorchConfig(batch_size=8, batch_size_by_epoch=((2, 16), (5, 32)))
    assert [batch_size(config, epoch) for epoch in range(7)] == [8, 8, 16, 16, 16, 32, 32]


def test_momentum_runs_on_a_line_between_its_points_and_reaches_every_kind_of_optimizer() -> None:
    points = ((1.0, 0.8), (3.0, 0.9))
    assert [line_value(points, epoch) for epoch in (0, 1, 2, 3, 9)] == pytest.approx([0.8, 0.8, 0.85, 0.9, 0.9])
    groups: list[dict[str, Any]] = [{"betas": (0.9, 0.99)}, {"momentum": 0.9}]
    set_rates(groups, TorchConfig(momentum_by_epoch=points, learning_rate=0.5, schedule="constant", warmup_epochs=0), 2.0)
    assert groups[0]["betas"] == pytest.approx((0.85, 0.99))
    assert groups[1]["momentum"] == pytest.approx(0.85)
    assert [group["lr"] for group in groups] == [0.5, 0.5]
