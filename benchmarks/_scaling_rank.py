"""One rank of ``scaling.py``: measures reductions, the parts of a step, or whole steps, and reports them as events."""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from infra.collectives import Collectives, open_collectives

EVENTS = os.fdopen(int(os.environ["ATELIER_EVENTS_FD"]), "w", buffering=1)
BUCKET_BYTES = 8 << 20


def report(**event: Any) -> None:
    print(json.dumps({"kind": "measured", **event}), file=EVENTS)


def seconds(call: Callable[[], object], repeats: int) -> list[float]:
    found = []
    for _ in range(repeats):
        begin = time.perf_counter()
        call()
        found.append(time.perf_counter() - begin)
    return found


def reduce(collectives: Collectives, sizes: list[int]) -> None:
    """Median time of one all-reduce of each size; in several rounds, so that a disturbance does not meet one size only."""
    times: dict[int, list[float]] = {size: [] for size in sizes}
    tensors = {size: torch.ones(max(1, size // 4)) for size in sizes}
    for number in range(5):
        for size in sizes:
            found = seconds(partial(collectives.all_reduce, tensors[size]), max(3, min(30, (16 << 20) // size)))
            times[size] += found if number else []
    report(
        what="reduce",
        backend=os.environ["ATELIER_COLLECTIVES"],
        size=collectives.size,
        seconds={size: statistics.median(found) for size, found in times.items()},
    )


def step(collectives: Collectives, num_steps: int) -> None:
    """The parts of a step of ResNet-18, 96 x 96, batch 32, fp32, on this rank's threads; with several ranks the gradients are reduced after backward."""
    from torchvision.models import resnet18

    torch.manual_seed(0)
    model = resnet18(num_classes=10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    pictures, labels = torch.randn(32, 3, 96, 96), torch.randint(10, (32,))
    parts: dict[str, list[float]] = {"forward": [], "backward": [], "reduce": [], "optimizer": [], "step": []}
    for _ in range(num_steps + 2):
        marks = [time.perf_counter()]
        loss = torch.nn.functional.cross_entropy(model(pictures), labels)
        marks.append(time.perf_counter())
        loss.backward()
        marks.append(time.perf_counter())
        if collectives.size > 1:
            flat = torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])
            for bucket in flat.split(BUCKET_BYTES // 4):
                collectives.all_reduce(bucket)
        marks.append(time.perf_counter())
        optimizer.step()
        optimizer.zero_grad()
        marks.append(time.perf_counter())
        for name, begin, end in zip(parts, marks, marks[1:], strict=False):
            parts[name].append(end - begin)
        parts["step"].append(marks[-1] - marks[0])
    kept = {name: found[2:] for name, found in parts.items()}
    report(
        what="step",
        size=collectives.size,
        seconds={name: statistics.median(found) for name, found in kept.items()},
        deviation=statistics.stdev(kept["step"]),
        gradient_bytes=4 * sum(parameter.numel() for parameter in model.parameters()),
    )


def main() -> None:
    order = json.loads(sys.argv[1])
    with open_collectives() as collectives:
        if order["do"] == "reduce":
            reduce(collectives, order["sizes"])
        else:
            step(collectives, order["steps"])


if __name__ == "__main__":
    main()
