"""Strided 1x1 convolutions with few channels: the same results, and a training that lives."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn

from algorithms.engines.strided_convs import thin_out_first

# What crashed a process within 40 steps before (oneDNN 3.13, AVX-512): odd batches, eight channels.
TRAINING = """
import torch
from torch import nn
from algorithms.engines.strided_convs import thin_out_first

torch.set_num_threads(2)
for size in (27, 63):
    model = nn.Conv2d(8, 32, 1, 2, bias=False).to(memory_format=torch.channels_last)
    assert thin_out_first(model) == 1
    inputs = torch.randn(size, 8, 24, 24).to(memory_format=torch.channels_last).requires_grad_(True)
    for _ in range(40):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            outputs = model(inputs)
        outputs.float().square().mean().backward()
blocks = [torch.empty(length) for length in range(1, 3000, 7)]
print("lives")
"""


@pytest.mark.parametrize("size", [6, 7])
def test_results_and_gradients_stay(size: int) -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 8, 1, (2, 3)), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1, 2, bias=False)).double()
    changed = copy.deepcopy(plain)
    assert thin_out_first(changed) == 2
    changed = copy.deepcopy(changed)  # as the moving average of the weights does
    inputs = torch.randn(5, 3, size, size, dtype=torch.float64)
    seen = [inputs.clone().requires_grad_(True) for _ in range(2)]
    outputs = [model(own) for model, own in zip((plain, changed), seen, strict=True)]
    torch.testing.assert_close(outputs[1], outputs[0])
    for output in outputs:
        output.square().sum().backward()
    torch.testing.assert_close(seen[1].grad, seen[0].grad)
    for one, other in zip(plain.parameters(), changed.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad)
    assert list(changed.state_dict()) == list(plain.state_dict())


@pytest.mark.parametrize(
    "module",
    [
        nn.Conv2d(16, 8, 1, 2),  # a whole block
        nn.Conv2d(8, 8, 1, 1),
        nn.Conv2d(8, 8, 3, 2),
        nn.Conv2d(8, 8, 1, 2, padding=1),  # pads before it skips
    ],
)
def test_others_stay_as_they_are(module: nn.Conv2d) -> None:
    stride = module.stride
    assert thin_out_first(module) == 0
    assert module.stride == stride


def test_a_training_lives() -> None:
    done = subprocess.run([sys.executable, "-c", TRAINING], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, "lives"), done.stderr[-2000:]
