"""The choice is a function of the measured table and the budget."""

from __future__ import annotations

import pytest

from algorithms.compression.choosing import Budget, Choice, Row, Speed, choose, uncertainty, worst_loss


def row(name: str, speedup: float = 1.0, *, loss: float = 0.0, size: int = 1_000_000, failure: str = "") -> Row:
    if failure:
        return Row(name=name, failure=failure)
    speed = Speed(p50_ms=1 / speedup, p95_ms=1.2 / speedup, speedup=speedup, samples_per_s=1000 * speedup)
    return Row(name=name, metric=0.99 - loss, loss=loss, size_bytes=size, speed={"1": speed})


FP32 = row("fp32")


def status(choice: Choice) -> dict[str, str]:
    return {found.name: found.status for found in choice.rows}


def test_the_fastest_within_the_budget_is_shipped() -> None:
    choice = choose([FP32, row("int8", 2.5, loss=0.005), row("prune", 4.0, loss=0.02)], Budget())
    assert choice.name == "int8"
    assert choice.met
    assert "2.50 times faster" in choice.reason
    assert status(choice) == {"fp32": "baseline", "int8": "chosen", "prune": "over budget"}


def test_a_loss_of_exactly_the_budget_is_allowed() -> None:
    assert choose([FP32, row("int8", 2.0, loss=0.99 - 0.98)], Budget(max_accuracy_loss=0.01)).name == "int8"


def test_slower_int8_is_detected_and_fp32_shipped() -> None:
    choice = choose([FP32, row("int8", 0.6, size=250_000)], Budget())
    assert choice.name == "fp32"
    assert choice.met
    assert "0.60 times" in choice.reason
    assert status(choice) == {"fp32": "chosen", "int8": "slower"}


def test_among_equally_fast_ones_the_smaller_is_shipped_whatever_the_noise_says() -> None:
    large, small = row("a", 3.0, size=500), row("b", 2.9, size=400)
    assert choose([FP32, large, small], Budget()).name == "b"
    assert choose([FP32, row("a", 2.9, size=500), row("b", 3.0, size=400)], Budget()).name == "b"
    assert choose([FP32, large, row("b", 2.0, size=400)], Budget()).name == "a"


def test_a_budget_that_nothing_meets_ships_fp32_and_says_what_broke_it() -> None:
    choice = choose([FP32, row("int8", 2.0)], Budget(max_latency_ms=0.01, max_size_mb=0.1))
    assert choice.name == "fp32"
    assert not choice.met
    assert "allowed is 0.01 ms" in choice.reason
    assert "allowed is 0.1 MB" in choice.reason
    assert status(choice) == {"fp32": "chosen", "int8": "over budget"}


def test_a_slower_model_is_shipped_where_fp32_itself_is_too_large() -> None:
    choice = choose([FP32, row("int8", 0.8, size=250_000)], Budget(max_size_mb=0.5))
    assert choice.name == "int8"
    assert status(choice)["fp32"] == "over budget"
    assert "times faster" not in choice.reason
    assert "at 0.80 times its speed" in choice.reason
    assert "fp32 itself weighs" in choice.reason


def test_what_could_not_be_made_stays_in_the_table_with_its_reason() -> None:
    choice = choose([FP32, row("prune", failure="no layer is wide enough")], Budget())
    assert choice.name == "fp32"
    assert not choice.met
    assert choice.rows[1].status == "failed"
    assert "wide enough" in choice.rows[1].why
    assert "wide enough" in choice.reason


def test_nothing_to_try_is_said() -> None:
    assert "nothing to try" in choose([FP32], Budget()).reason


def test_a_loss_on_few_samples_counts_with_its_standard_error() -> None:
    assert uncertainty(None, 100) == 0.0
    assert uncertainty(0.96, 100) == pytest.approx(0.02)
    few = row("int8", 2.0, loss=0.008).model_copy(update={"uncertainty": 0.004})
    assert worst_loss(few) == pytest.approx(0.012)
    choice = choose([FP32, few], Budget())
    assert choice.name == "fp32"
    assert "standard error 0.0040" in choice.reason
