"""Which rank sees what, and gradients as views into flat buckets."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from algorithms.engines.averaging import WeightAverage
from algorithms.engines.batches import Reader, batch_bounds, check_shares, epoch_order, num_parts, num_steps, share
from algorithms.engines.buckets import GradientBuckets, average_buffers, broadcast_module
from infra.collectives import LocalCollectives
from infra.errors import InvalidOptionError
from tests.algorithms.conftest import on_ranks


@pytest.mark.parametrize(("samples", "batch", "size"), [(100, 32, 1), (101, 32, 3), (7, 64, 2), (65, 64, 2), (1257, 64, 4)])
def test_every_sample_is_seen_once_an_epoch_whatever_the_number_of_ranks(samples: int, batch: int, size: int) -> None:
    order = epoch_order(3, 5, samples)
    seen: list[int] = []
    for step in range(num_steps(samples, batch)):
        bounds = batch_bounds(step, samples, batch)
        assert 0 < bounds[1] - bounds[0] <= batch
        for rank in range(size):
            first, last = share(*bounds, rank, size)
            seen += order[first:last].tolist()
    assert seen == order.tolist()
    assert sorted(seen) == list(range(samples))


def test_the_order_is_another_each_epoch_and_the_same_for_the_same_seed() -> None:
    assert epoch_order(1, 0, 50).tolist() == epoch_order(1, 0, 50).tolist()
    assert epoch_order(1, 0, 50).tolist() != epoch_order(1, 1, 50).tolist()
    assert epoch_order(1, 0, 50).tolist() != epoch_order(2, 0, 50).tolist()


def test_a_batch_that_leaves_a_rank_too_little_is_refused_with_what_would_do() -> None:
    check_shares(100, 8, 3, 2)
    with pytest.raises(InvalidOptionError, match="leaves a worker with 1 in a step"):
        check_shares(100, 16, 8, 2)


def test_accumulation_cuts_no_part_that_is_too_small() -> None:
    assert [num_parts(4, accumulation, 2) for accumulation in (1, 2, 4, 100)] == [1, 2, 2, 2]
    assert [num_parts(count, 4, 2) for count in (2, 3, 5, 8, 9)] == [1, 1, 2, 4, 4]
    assert num_parts(3, 4, 1) == 3
    for count in range(2, 40):
        assert min(map(len, np.array_split(np.arange(count), num_parts(count, 7, 2)))) >= 2


class Squares:
    """Samples whose value tells their index; fails from some index on."""

    def __init__(self, fails_at: int = 10**9) -> None:
        self.fails_at = fails_at
        self.labels = np.arange(100)

    def __len__(self) -> int:
        return 100

    def read(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if indices.max() >= self.fails_at:
            raise OSError("the disk is gone")
        return (indices[:, None] ** 2).astype(np.float32), indices

    def ids(self) -> list[str]:
        return [str(index) for index in range(100)]


def test_the_reader_keeps_the_order_and_passes_on_errors() -> None:
    plan = [np.arange(start, start + 10) for start in range(0, 100, 10)]
    with Reader(Squares(), torch.device("cpu")) as reader:
        for _ in range(2):
            assert torch.cat([targets for _, targets in reader.batches(plan)]).tolist() == list(range(100))
    with Reader(Squares(fails_at=55), torch.device("cpu")) as reader, pytest.raises(OSError, match="the disk is gone"):
        list(reader.batches(plan))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)]
    return nn.Sequential(*layers)


def test_gradients_of_channels_last_weights_are_views_with_their_strides() -> None:
    plain, bucketed = network(), network().to(memory_format=torch.channels_last)
    buckets = GradientBuckets(bucketed, LocalCollectives(), bucket_bytes=1000)
    inputs = torch.randn(6, 3, 9, 9)
    plain(inputs).square().sum().backward()
    for _ in range(2):  # clearing makes the second time like the first
        buckets.clear()
        bucketed(inputs.to(memory_format=torch.channels_last)).square().sum().backward()
    for one, other in zip(plain.parameters(), bucketed.parameters(), strict=True):
        assert other.grad is not None
        assert other.grad.stride() == other.stride()
        torch.testing.assert_close(one.grad, other.grad)


def test_ranks_add_up_their_gradients_in_several_buckets_and_unused_weights_do_not_hang() -> None:
    inputs = torch.randn(8, 3, 9, 9)
    whole = network()

    def work(collectives: Any) -> list[torch.Tensor]:
        model = copy.deepcopy(whole)
        model.register_parameter("unused", nn.Parameter(torch.ones(5)))
        buckets = GradientBuckets(model, collectives, bucket_bytes=500)
        buckets.clear()
        first, last = share(0, 8, collectives.rank, collectives.size)
        model(inputs[first:last]).square().sum().backward()
        buckets.finish()
        assert len(collectives.sent) > 2
        return [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]

    whole(inputs).square().sum().backward()
    for gradients in on_ranks(2, work):
        for one, other in zip(whole.parameters(), gradients[1:], strict=True):
            torch.testing.assert_close(one.grad, other)
        assert not gradients[0].any()


def test_clipping_bounds_the_norm_of_all_gradients_together() -> None:
    model = network()
    buckets = GradientBuckets(model, LocalCollectives(), bucket_bytes=500)
    buckets.clear()
    (model(torch.randn(4, 3, 9, 9)).square().sum() * 100).backward()
    before = torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None])
    buckets.clip(0.5)
    after = torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None])
    assert after.norm().item() == pytest.approx(0.5, rel=1e-4)
    torch.testing.assert_close(after / after.norm(), before / before.norm())


def test_weights_are_rank_0s_and_statistics_become_the_mean() -> None:
    def work(collectives: Any) -> tuple[torch.Tensor, torch.Tensor]:
        model = nn.BatchNorm1d(3)
        with torch.no_grad():
            model.weight.fill_(collectives.rank + 1.0)
            broadcast_module(model, collectives)
            assert model.running_mean is not None
            model.running_mean.fill_(float(collectives.rank))
        average_buffers(model, collectives)
        return model.weight.detach(), model.running_mean

    for weight, mean in on_ranks(2, work):
        assert weight.tolist() == [1.0] * 3
        assert mean.tolist() == [0.5] * 3


def test_the_average_follows_the_weights_more_slowly_the_longer_it_runs() -> None:
    model = nn.Linear(1, 1)
    average = WeightAverage(model, decay=0.9)
    follower = average.module.get_parameter("weight")
    with torch.no_grad():
        follower.fill_(0.0)
        model.weight.fill_(1.0)
    average.update(step=1)
    assert follower.item() == pytest.approx(9 / 11)
    with torch.no_grad():
        follower.fill_(0.0)
    average.update(step=10_000)
    assert follower.item() == pytest.approx(0.1)
