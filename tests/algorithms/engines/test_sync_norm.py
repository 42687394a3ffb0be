"""Synchronised batch normalisation: ranks together do what plain normalisation does with the whole batch."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import timm
import torch
from torch import nn

from algorithms.engines.sync_norm import synchronise
from infra.collectives import Collectives, LocalCollectives
from tests.algorithms.conftest import on_ranks


def plain() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(6))


def timms() -> nn.Module:
    torch.manual_seed(0)
    from timm.layers import BatchNormAct2d

    assert BatchNormAct2d in {type(module) for module in timm.create_model("efficientnet_b0").modules()}
    return nn.Sequential(nn.Conv2d(3, 6, 3), BatchNormAct2d(6, act_layer=nn.SiLU), nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.mark.parametrize("make", [plain, timms])
def test_ranks_with_unequal_shares_normalise_as_one_with_all_samples(make: Any) -> None:
    inputs, slopes = torch.randn(5, 3, 7, 7) * 3 + 1, torch.randn(5, 6)
    whole = make().train()
    expected = whole(inputs)
    (expected * slopes).sum().backward()

    def work(collectives: Any) -> tuple[torch.Tensor, list[torch.Tensor], dict[str, torch.Tensor]]:
        model = copy.deepcopy(start).train()
        synchronise(model, collectives)
        share = slice(0, 1) if collectives.rank == 0 else slice(1, 5)
        outputs = model(inputs[share])
        (outputs * slopes[share]).sum().backward()
        return outputs.detach(), [weight.grad for weight in model.parameters() if weight.grad is not None], model.state_dict()

    start = make()
    ranks = on_ranks(2, work)
    torch.testing.assert_close(torch.cat([outputs for outputs, _, _ in ranks]), expected, rtol=1e-4, atol=1e-5)
    for number, weight in enumerate(whole.parameters()):
        torch.testing.assert_close(sum(gradients[number] for _, gradients, _ in ranks), weight.grad, rtol=1e-4, atol=1e-4)
    for _, _, state in ranks:
        for name, tensor in whole.state_dict().items():
            torch.testing.assert_close(state[name], tensor, rtol=1e-4, atol=1e-5, msg=name)


def test_in_evaluation_and_on_one_rank_nothing_changes() -> None:
    inputs, model = torch.randn(4, 3, 7, 7), plain().eval()
    expected = model(inputs)

    def evaluate(collectives: Collectives) -> Any:
        other = copy.deepcopy(model)
        synchronise(other, collectives)
        return other(inputs)

    found, _ = on_ranks(2, evaluate)
    torch.testing.assert_close(found, expected)
    alone = copy.deepcopy(model).train()
    synchronise(alone, LocalCollectives())
    assert torch.equal(alone(inputs), model.train()(inputs))
