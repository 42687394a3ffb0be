"""Pruning, rounding and distillation on real networks."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from algorithms.compression import fake_quant
from algorithms.compression.distilling import Teacher
from algorithms.compression.pruning import fit_shapes, prune
from algorithms.engines.checkpoints import copy_state
from algorithms.engines.torch_engine import TorchData
from algorithms.images.networks import SmallCnn
from algorithms.tables.networks import Mlp
from infra.errors import CompressionError

CLASSES = TorchData("class", ["a", "b", "c"], (16, 16, 3), {})
NUMBERS = TorchData("number", [], (4,), {})


def build(kind: str) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    if kind == "small-cnn":
        return SmallCnn(3), torch.randn(2, 3, 16, 16)
    if kind == "mlp":
        return Mlp(12, 3, (64, 64), 0.1), torch.randn(2, 12)
    import timm

    return timm.create_model(kind, pretrained=False, num_classes=3), torch.randn(2, 3, 64, 64)


@pytest.mark.parametrize("kind", ["small-cnn", "mlp", "resnet18", "mobilenetv3_small_100"])
def test_a_pruned_network_is_built_again_from_its_weights(kind: str) -> None:
    model, example = build(kind)
    whole = sum(weight.numel() for weight in model.parameters())
    prune(model, example, 0.5, 3)
    model.eval()
    assert sum(weight.numel() for weight in model.parameters()) < 0.5 * whole
    again, _ = build(kind)
    tensors = copy_state(model)
    fit_shapes(again, tensors)
    again.load_state_dict(tensors)
    again.eval()
    with torch.no_grad():
        assert torch.equal(again(example), model(example))


def test_pruning_twice_the_same_network_gives_the_same_channels() -> None:
    states = []
    for _ in range(2):
        model, example = build("small-cnn")
        prune(model, example, 0.5, 3)
        states.append(copy_state(model))
    assert all(torch.equal(one, other) for one, other in zip(states[0].values(), states[1].values(), strict=True))


def test_a_network_that_cannot_be_pruned_says_so() -> None:
    with pytest.raises(CompressionError, match="wide enough"):
        prune(nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3)), torch.randn(2, 12), 0.5, 3)


def test_a_pruned_network_learns() -> None:
    model, example = build("small-cnn")
    prune(model, example, 0.5, 3)
    model.train()
    model(example).square().sum().backward()
    assert all(weight.grad is not None for weight in model.parameters())


def test_rounding_changes_outputs_a_little_and_lets_gradients_through() -> None:
    model, example = build("small-cnn")
    example = torch.randn(16, 3, 16, 16)
    model.eval()
    with torch.no_grad():
        plain = model(example)
    rounded = copy.deepcopy(model)
    assert fake_quant.attach(rounded) == 7
    rounded.train()
    for module in rounded.modules():
        if isinstance(module, nn.BatchNorm2d | nn.Dropout):
            module.eval()
    found = rounded(example)
    spread = float(plain.std())
    assert 0 < float((found.detach() - plain).abs().mean()) < 0.1 * spread
    found.square().sum().backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in rounded.parameters())


def test_rounded_inputs_have_256_values_and_rounded_weights_255() -> None:
    layer = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False))
    fake_quant.attach(layer)
    rounded: Any = layer[0]
    inputs = torch.linspace(-1, 3, 1000).reshape(1, 1, 10, 100)
    assert len(rounded.rounded(inputs).unique()) <= 256
    assert torch.allclose(rounded.input_range, torch.tensor([-1.0, 3.0]))


def test_weights_after_rounded_training_fit_the_plain_network() -> None:
    model, example = build("small-cnn")
    rounded = copy.deepcopy(model)
    fake_quant.attach(rounded)
    rounded(example)
    stripped = fake_quant.strip(copy_state(rounded))
    model.load_state_dict(stripped)
    assert stripped.keys() == model.state_dict().keys()


def test_a_copy_of_a_rounded_network_rounds_with_its_own_range() -> None:
    model, example = build("small-cnn")
    fake_quant.attach(model)
    other: Any = copy.deepcopy(model)
    other(example)
    ranges: list[Any] = [module.input_range for module in model.modules() if hasattr(module, "input_range")]
    assert ranges
    assert all(bool(torch.isnan(found).all()) for found in ranges)


def test_a_student_that_agrees_with_its_teacher_pays_nothing_for_it() -> None:
    torch.manual_seed(0)
    teacher = nn.Linear(4, 3)
    inputs, losses = torch.randn(5, 4), torch.rand(5)
    mixed = Teacher(teacher, 0.25).mix(losses, teacher(inputs), inputs, CLASSES, "fp32")
    assert torch.allclose(mixed, 0.75 * losses, atol=1e-6)
    assert torch.allclose(Teacher(teacher, 0.0).mix(losses, teacher(inputs) + 1, inputs, CLASSES, "fp32"), losses)


def test_distilling_numbers_takes_the_squared_distance() -> None:
    teacher = nn.Linear(4, 1)
    inputs = torch.randn(5, 4)
    outputs = teacher(inputs).reshape(5) + 2.0
    assert torch.allclose(Teacher(teacher, 1.0).mix(torch.zeros(5), outputs, inputs, NUMBERS, "fp32"), torch.full((5,), 4.0), atol=1e-5)
