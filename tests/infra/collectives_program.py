"""One rank of the contract suite of ``Collectives``: does everything once, and writes what it saw as one JSON event."""

from __future__ import annotations

import json
import os
import time
from typing import Any, Literal

import torch

from infra.collectives import Collectives, open_collectives


def bits(tensor: torch.Tensor) -> list[Any]:
    return tensor.float().tolist() if tensor.dtype == torch.bfloat16 else tensor.tolist()


def reductions(c: Collectives) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int32, torch.int64):
        ops: tuple[Literal["sum", "max", "mean"], ...] = ("sum", "max", "mean") if dtype.is_floating_point else ("sum", "max")
        for op in ops:
            tensor = torch.tensor([1.0, 2.0, 3.0], dtype=dtype) * (c.rank + 1)
            c.all_reduce(tensor, op)
            seen[f"{str(dtype)[6:]} {op}"] = bits(tensor)
    bucket = torch.arange(12, dtype=torch.float32).reshape(3, 4) + c.rank
    c.all_reduce(bucket)
    seen["two dimensions"] = bucket.tolist()
    c.all_reduce(torch.empty(0))
    parameter = torch.full((2,), float(c.rank), requires_grad=True)
    c.all_reduce(parameter, "sum")
    seen["needs gradient"] = parameter.tolist()
    noise = torch.rand(100_003, generator=torch.Generator().manual_seed(c.rank))
    c.all_reduce(noise)
    seen["same bits"] = len(set(c.all_gather_object(noise.numpy().tobytes()))) == 1
    return seen


def asynchronous(c: Collectives) -> list[list[float]]:
    results = []
    for step in range(3):  # the same buckets again, as in training
        buckets = [torch.full((1000,), float(10 * step + number + c.rank)) for number in range(4)]
        handles = [c.all_reduce_async(bucket, "sum") for bucket in buckets]
        for handle in handles:
            handle.wait()
            handle.wait()
        results.append([bucket[0].item() if bool((bucket == bucket[0]).all()) else -1.0 for bucket in buckets])
    return results


def in_the_background(c: Collectives) -> bool:
    """Whether a reduction gets done while nobody waits for it: what lets it overlap with a backward pass."""
    bucket = torch.ones(2_000_000)
    handle = c.all_reduce_async(bucket, "sum")
    deadline = time.monotonic() + 60
    while bucket[0] != c.size or bucket[-1] != c.size:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.001)
    handle.wait()
    return bool((bucket == c.size).all())


def refusals(c: Collectives) -> list[str]:
    def refused(call: Any) -> str:
        try:
            call()
        except ValueError as error:
            return str(error)
        return "accepted"

    strided = torch.zeros(4, 4).t()[:, :2]
    return [
        refused(lambda: c.all_reduce(strided)),
        refused(lambda: c.broadcast(strided)),
        refused(lambda: c.all_reduce(torch.zeros(2, dtype=torch.int64), "mean")),
        refused(lambda: c.all_reduce(torch.zeros(2), "median")),  # type: ignore[arg-type]
        refused(lambda: c.broadcast(torch.zeros(2), root=99)),
    ]


def broadcasts(c: Collectives) -> dict[str, Any]:
    last = c.size - 1
    seen: dict[str, Any] = {}
    for dtype in (torch.float32, torch.bfloat16, torch.int64, torch.uint8, torch.bool):
        tensor = torch.tensor([c.rank == last, False, c.rank == last]).to(dtype)
        c.broadcast(tensor, root=last)
        seen[str(dtype)[6:]] = bits(tensor)
    scalar = torch.tensor(float(c.rank + 5))
    c.broadcast(scalar)
    seen["scalar"] = scalar.item()
    return seen


def main() -> None:
    with open_collectives(threads=1) as c:
        seen = {
            "type": type(c).__name__,
            "place": [c.rank, c.size, c.local_rank, c.local_size],
            "threads": [torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]],
            "reductions": reductions(c),
            "asynchronous": asynchronous(c),
            "in the background": in_the_background(c),
            "refusals": refusals(c),
            "broadcasts": broadcasts(c),
            "gathered": c.all_gather_object({"rank": c.rank, "text": "x" * (c.rank * 1000)}),
            "object": c.broadcast_object(("from", c.rank), root=c.size - 1),
        }
        c.barrier()
        seen["values of types"] = c.all_gather_object(None if c.rank else [1])
    os.write(int(os.environ["ATELIER_EVENTS_FD"]), (json.dumps({"kind": "seen", **seen}) + "\n").encode())


if __name__ == "__main__":
    main()
