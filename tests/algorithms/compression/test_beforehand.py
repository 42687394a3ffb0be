"""What is refused before a model is trained, and what is not."""

from __future__ import annotations

from typing import Any

import pytest

from algorithms.compression.beforehand import compression_fault, uncalibrated
from algorithms.compression.recipes import Compressible, Mode, Search

CNN = Compressible(static=True, fp16=True, prunable=True, student={"width": 0.5})
MLP = Compressible(static=True, dynamic=True, prunable=True)
TREES = Compressible(trees=True, student={"num_leaves": 10})
NOTHING = Compressible()
ENOUGH = {"train": 32, "valid": 1, "test": 1}
FEW = {**ENOUGH, "train": 31}


def search(mode: Mode, can: Compressible, **more: Any) -> Search:
    return Search(mode=mode, can=can, config={"epochs": 4, "learning_rate": 0.1, "warmup_epochs": 1}, max_loss=0.01, **more)


@pytest.mark.parametrize(
    ("mode", "can", "num_rows", "strict", "words"),
    [
        ("auto", CNN, ENOUGH, True, None),
        ("none", NOTHING, {"train": 1}, True, None),
        ("auto", TREES, {"train": 40, "valid": 0}, False, ("compress: the data has no valid split", "`ratios`")),
        ("quantize", CNN, FEW, False, ("compress: quantize is int8 for this algorithm", "Take more samples")),
        ("quantize", MLP, FEW, False, None),  # dynamic int8 needs no calibration
        ("prune", CNN, FEW, False, None),
        ("auto", CNN, FEW, True, None),
        ("quantize", TREES, FEW, False, None),  # nothing to try: fp32 is shipped, and the run says so
        ("quantize", TREES, FEW, True, ("strict_budget: nothing can be tried", "Leave out `strict_budget`")),
        ("auto", NOTHING, ENOUGH, True, ("strict_budget: nothing can be tried", "Leave out `strict_budget`")),
    ],
)
def test_only_what_cannot_come_to_anything_is_refused(
    mode: Mode, can: Compressible, num_rows: dict[str, int], strict: bool, words: tuple[str, str] | None
) -> None:
    fault = compression_fault(search(mode, can), num_rows, strict=strict)
    assert (fault is None) == (words is None), fault
    if fault is not None and words is not None:
        assert words[0] in fault[0]
        assert words[1] in fault[1]


def test_a_gpu_leaves_float16_where_int8_cannot_be_calibrated() -> None:
    assert compression_fault(search("quantize", CNN, gpu=True), FEW, strict=False) is None


def test_what_will_be_left_out_is_known() -> None:
    assert uncalibrated(search("auto", CNN), 31)
    assert not uncalibrated(search("auto", CNN), 32)
    assert not uncalibrated(search("prune", CNN), 31)
