"""Losses and optimizers by name and by dotted name."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from algorithms.engines.losses import make_loss
from algorithms.engines.optimizers import OPTIMIZERS, add_penalties, make_optimizer, penalised
from algorithms.engines.torch_config import CLASS_LOSSES, NUMBER_LOSSES, OPTIMIZER_NAMES, TorchConfig
from algorithms.engines.torch_engine import TorchData
from infra.errors import InvalidOptionError, UserCodeError

CLASSES = TorchData("class", ["a", "b", "c"], (4,), {})
NUMBERS = TorchData("number", [], (4,), {})


def config(**options: Any) -> TorchConfig:
    return TorchConfig.model_validate(options)


@pytest.mark.parametrize("name", ["auto", *CLASS_LOSSES])
def test_a_loss_for_classes_is_one_number_a_sample_and_smaller_when_right(name: str) -> None:
    logits = torch.tensor([[6.0, 0.0, 0.0], [0.0, 6.0, 0.0]])
    losses = make_loss(config(loss=name, label_smoothing=0.1), CLASSES)(logits, torch.tensor([0, 2]))
    assert losses.shape == (2,)
    assert losses[0] < losses[1]


@pytest.mark.parametrize("name", ["auto", *NUMBER_LOSSES])
def test_a_loss_for_numbers_is_one_number_a_sample(name: str) -> None:
    losses = make_loss(config(loss=name), NUMBERS)(torch.tensor([1.0, 5.0]), torch.tensor([1.0, 1.0]))
    assert losses.shape == (2,)
    assert losses[0] == 0 < losses[1]


@pytest.mark.parametrize(("name", "data"), [("mse", CLASSES), ("focal", NUMBERS)])
def test_a_loss_that_does_not_fit_is_refused_with_those_that_do(name: str, data: TorchData) -> None:
    with pytest.raises(InvalidOptionError, match=r"cross_entropy, focal, bce|mse, mae, huber"):
        make_loss(config(loss=name), data)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_lowers_the_loss(name: str) -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    inputs = torch.randn(64, 4)
    wanted = inputs @ torch.tensor([[1.0], [-2.0], [0.5], [3.0]])
    optimizer = make_optimizer(config(optimizer=name, learning_rate=1.0 if name == "adadelta" else 0.02, weight_decay=1e-4), model)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(inputs), wanted)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.97 * losses[0]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_does_what_torchs_own_does_and_takes_its_state(name: str) -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 2)
    ours = make_optimizer(config(optimizer=name, learning_rate=0.02, weight_decay=0.1), model)
    twin = nn.Linear(4, 2)
    twin.load_state_dict(model.state_dict())
    kind = OPTIMIZERS[name][0]
    options = {key: ours.defaults[key] for key in ours.defaults if key in inspect.signature(kind).parameters}
    theirs = kind([{"params": [twin.weight], "weight_decay": 0.1}, {"params": [twin.bias], "weight_decay": 0.0}], **options)
    assert isinstance(ours, kind)
    steps: list[str] = []
    ours.register_step_post_hook(lambda *_: steps.append(name))
    inputs = torch.randn(8, 4)
    for number in range(4):
        for network, optimizer in ((model, ours), (twin, theirs)):
            optimizer.zero_grad()
            network(inputs).square().mean().backward()
            optimizer.step()
            assert torch.is_grad_enabled()
        if number == 1:
            state = ours.state_dict()
            ours.load_state_dict(theirs.state_dict())
            theirs.load_state_dict(state)
    torch.testing.assert_close(model.state_dict(), twin.state_dict(), rtol=0, atol=0)
    assert steps == [name] * 4


def test_biases_are_spared_weight_decay() -> None:
    groups = make_optimizer(config(weight_decay=0.5), nn.Linear(4, 2)).param_groups
    assert [(group["weight_decay"], group["params"][0].dim()) for group in groups] == [(0.5, 2), (0.0, 1)]


def test_unknown_names_are_answered_with_the_nearest_before_any_work() -> None:
    with pytest.raises(ValidationError) as caught:
        config(optimizer="adamww", loss="crossentropy")
    assert "nearest: adamw, adam" in str(caught.value)
    assert "nearest: cross_entropy" in str(caught.value)
    assert tuple(OPTIMIZERS) == OPTIMIZER_NAMES


def test_penalties_add_sign_and_weight_to_the_gradient() -> None:
    model = nn.Linear(2, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[2.0, -3.0]]))
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    add_penalties(penalised(model), l1=0.5, l2=0.1)
    assert model.weight.grad is not None
    assert model.weight.grad.tolist() == [[pytest.approx(0.7), pytest.approx(-0.8)]]
    assert model.bias.grad is not None
    assert not model.bias.grad.any()


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_training_parts.py").write_text(
        "import torch\n"
        "from torch.nn import functional as F\n"
        "def mean_loss(outputs, targets): return F.cross_entropy(outputs, targets)\n"
        "class Loss(torch.nn.Module):\n"
        "    def __init__(self, num_classes): super().__init__(); self.num = num_classes\n"
        "    def forward(self, outputs, targets): return F.cross_entropy(outputs, targets, reduction='none') * self.num\n"
        "def matrix(outputs, targets): return outputs\n"
        "def broken(outputs, targets): return outputs + 'x'\n"
        "def too_deep(outputs, targets): return F.cross_entropy(outputs, targets[:2])\n"
        "class Sgd(torch.optim.SGD):\n"
        "    def __init__(self, params, lr): super().__init__(params, lr=lr)\n"
        "def no_optimizer(params, lr): return 3\n"
    )
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("own_module")
def test_a_users_loss_may_give_a_mean_or_one_number_a_sample() -> None:
    logits, targets = torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1])
    mean = make_loss(config(loss="my_training_parts:mean_loss"), CLASSES)(logits, targets)
    each = make_loss(config(loss="my_training_parts.Loss"), CLASSES)(logits, targets)
    assert mean.shape == each.shape == (5,)
    assert each.mean().item() == pytest.approx(3 * mean[0].item(), rel=1e-5)


@pytest.mark.usefixtures("own_module")
def test_a_users_loss_of_another_shape_is_named_with_what_it_gave() -> None:
    loss = make_loss(config(loss="my_training_parts:matrix"), CLASSES)
    with pytest.raises(UserCodeError, match=r"this gave \(5, 3\)"):
        loss(torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1]))


@pytest.mark.usefixtures("own_module")
@pytest.mark.parametrize(
    ("name", "line"), [("broken", "return outputs + 'x'"), ("too_deep", "return F.cross_entropy(outputs, targets[:2])")]
)
def test_a_users_loss_that_raises_shows_its_own_traceback_once(name: str, line: str) -> None:
    loss = make_loss(config(loss=f"my_training_parts:{name}"), CLASSES)
    with pytest.raises(UserCodeError) as caught:
        loss(torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1]))
    told = str(caught.value)
    assert told.count("Traceback") == 1
    assert line in told
    assert "user_code.py" not in told
    assert "engines/losses.py" not in told
    assert "site-packages" not in told


@pytest.mark.usefixtures("own_module")
def test_a_users_optimizer_gets_the_options_that_it_accepts() -> None:
    optimizer = make_optimizer(config(optimizer="my_training_parts:Sgd", learning_rate=0.3), nn.Linear(2, 2))
    assert {group["lr"] for group in optimizer.param_groups} == {0.3}
    with pytest.raises(UserCodeError, match=r"gave a int, not a torch.optim.Optimizer"):
        make_optimizer(config(optimizer="my_training_parts:no_optimizer"), nn.Linear(2, 2))
