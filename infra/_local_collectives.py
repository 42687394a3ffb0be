"""``Collectives`` of one rank alone, and what all implementations check of their arguments; see ``infra.collectives``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from infra.collectives import Handle, ReduceOp

OPS = ("mean", "sum", "max")


def check(tensor: torch.Tensor, op: str = "sum", root: int = 0, size: int = 1) -> None:
    if not tensor.is_contiguous():
        raise ValueError(f"collectives take contiguous tensors: this one has shape {tuple(tensor.shape)}, strides {tensor.stride()}")
    if op not in OPS:
        raise ValueError(f"unknown reduction {op!r}; there are {', '.join(OPS)}")
    if op == "mean" and not tensor.dtype.is_floating_point:
        raise ValueError(f"the mean needs a floating dtype, not {tensor.dtype}; use sum")
    if not 0 <= root < size:
        raise ValueError(f"root {root} is no rank; there are {size}")


class Done:
    """The handle of a reduction that has nothing to wait for."""

    def wait(self) -> None:
        return None


class LocalCollectives:
    """One rank alone."""

    membership = None
    rank = 0
    size = 1
    local_rank = 0
    local_size = 1

    def all_reduce(self, tensor: torch.Tensor, op: ReduceOp = "mean") -> None:
        check(tensor, op)

    def all_reduce_async(self, tensor: torch.Tensor, op: ReduceOp = "mean") -> Handle:
        check(tensor, op)
        return Done()

    def broadcast(self, tensor: torch.Tensor, root: int = 0) -> None:
        check(tensor, root=root)

    def all_gather_object(self, value: Any) -> list[Any]:
        return [value]

    def broadcast_object(self, value: Any, root: int = 0) -> Any:
        if root != 0:
            raise ValueError(f"root {root} is no rank; there are 1")
        return value

    def barrier(self) -> None:
        return None

    def close(self) -> None:
        return None
