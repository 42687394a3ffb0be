"""The judge's decisions, without a server."""

from __future__ import annotations

import numpy as np
import pytest

from deployments.serving.verdict import Bars, Seen, judge, latency_bound, level, shift

BARS = Bars()
FAST = {0.001: 900, 0.002: 90, 0.004: 10, 0.008: 0, float("inf"): 0}


def decide(live: Seen, canary: Seen, bars: Bars = BARS, look: int = 1, in_step: int = 1000, **more: bool) -> str:
    return judge(live, canary, bars, look=look, in_step=in_step, **more).decision


def test_equals_go_on_once_there_is_enough() -> None:
    live = Seen(answered=5000, failed=5, slower_than=FAST, predictions={"a": 2500, "b": 2500}, right=90, wrong=10)
    canary = Seen(answered=200, failed=0, slower_than={bound: count // 5 for bound, count in FAST.items()}, predictions={"a": 95, "b": 105})
    assert decide(live, canary) == "advance"
    waiting = judge(live, canary, BARS, look=1, in_step=99)
    assert (waiting.decision, waiting.reasons) == ("wait", ["99 of 100 requests in this step"])
    assert decide(Seen(answered=3), canary) == "wait"
    assert decide(live, canary, Bars(min_feedback=10), is_last=True) == "wait"
    assert decide(live, canary, Bars(min_feedback=10)) == "advance"


@pytest.mark.parametrize(
    ("canary", "words"),
    [
        (Seen(answered=150, failed=20), "failed"),
        (Seen(answered=100, slower_than={0.001: 20, 0.002: 20, 0.004: 20, 0.008: 40, float("inf"): 0}), "longer than 4 ms"),
        (Seen(answered=100, predictions={"a": 100}), "spread otherwise"),
        (Seen(answered=100, right=5, wrong=35), "wrong"),
        (Seen(answered=100, values=50, squared_error=500.0, quartic_error=6000.0), "squared error"),
    ],
)
def test_what_is_worse_is_sent_back_with_the_reason(canary: Seen, words: str) -> None:
    shared = {"values": 50, "squared_error": 50.0, "quartic_error": 100.0} if canary.values else {"right": 390, "wrong": 10}
    live = Seen(answered=1000, failed=1, slower_than=FAST, predictions={"a": 500, "b": 500}, **shared)
    verdict = judge(live, canary, BARS, look=3, in_step=100)
    assert (verdict.decision, words in verdict.reasons[0]) == ("roll back", True)


def test_a_small_shift_is_let_through_however_certain() -> None:
    live, canary = (
        Seen(answered=10**6, predictions={"a": 500_000, "b": 500_000}),
        Seen(answered=10**6, predictions={"a": 600_000, "b": 400_000}),
    )
    assert decide(live, canary) == "advance"
    assert decide(live, canary, Bars(max_shift=0.05)) == "roll back"


def test_an_allowed_loss_of_accuracy_is_allowed() -> None:
    live, canary = Seen(answered=1000, right=950, wrong=50), Seen(answered=1000, right=900, wrong=100)
    assert decide(live, canary) == "roll back"
    assert decide(live, canary, Bars(max_accuracy_loss=0.05)) == "advance"


def test_looking_often_does_not_find_what_is_not_there() -> None:
    assert sum(level(0.01, look) for look in range(1, 10_000)) * 4 <= 0.01
    rng, sent_back = np.random.default_rng(0), 0
    for _ in range(60):
        failed = np.cumsum(rng.random((2, 2000)) < 0.05, axis=1)
        wrong = np.cumsum(rng.random((2, 2000)) < 0.2, axis=1)
        for look, at in enumerate(range(99, 2000, 100), start=1):
            seen = [
                Seen(
                    answered=at + 1 - int(failed[side, at]),
                    failed=int(failed[side, at]),
                    right=at - int(wrong[side, at]),
                    wrong=int(wrong[side, at]),
                )
                for side in (0, 1)
            ]
            if decide(seen[0], seen[1], Bars(significance=0.05), look=look) == "roll back":
                sent_back += 1
                break
    assert sent_back <= 3


def test_the_bound_of_latency_and_the_distance_of_predictions() -> None:
    assert latency_bound(Seen(slower_than=FAST), 1.5) == 0.004
    assert latency_bound(Seen(), 1.5) is None
    assert latency_bound(Seen(slower_than={0.001: 0, float("inf"): 9}), 1.5) is None
    assert shift({"a": 1, "b": 1}, {"a": 1}) == 0.5
    assert shift({}, {"a": 1}) == 0
