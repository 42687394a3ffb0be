"""Gradients as views into a few flat tensors, which all ranks add up while the backward pass still runs.

A view has the strides of its weight, so weights in channels_last are no obstacle: what is reduced is the flat tensor behind them. Buckets are
sent in one fixed order, the same on every rank, each as soon as it and all before it are complete.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn

from infra.collectives import Collectives

_BUCKET_BYTES = 8 * 2**20
Compression = Literal["none", "bf16", "fp16"]
_COMPRESSED = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class _Bucket:
    flat: torch.Tensor
    weights: list[nn.Parameter] = field(default_factory=list)
    views: list[torch.Tensor] = field(default_factory=list)
    missing: int = 0
    handle: Any = None
    sent: torch.Tensor | None = None


class GradientBuckets:
    """Owns ``weight.grad`` of every weight that learns.

    ``compression`` is the type in which they travel: half the bytes, and sums that are rounded to it.

    One step: ``clear``, backward passes (``reduce_now`` set during the last of them), ``finish`` (``send_rest`` before it, where something else
    is to be sent behind them); then every gradient is the sum over all ranks.
    """

    def __init__(
        self, model: nn.Module, collectives: Collectives, bucket_bytes: int = _BUCKET_BYTES, compression: Compression = "none"
    ) -> None:
        self.collectives = collectives
        self.reduce_now = True
        self._travels_as = _COMPRESSED.get(compression)
        self._buckets = _make_buckets([p for p in model.parameters() if p.requires_grad], bucket_bytes)
        self._next = 0
        self._hooks = []
        for bucket in self._buckets:
            for weight, view in zip(bucket.weights, bucket.views, strict=True):
                weight.grad = view
                if collectives.size > 1:
                    self._hooks.append(weight.register_post_accumulate_grad_hook(self._on_ready(bucket, view)))

    def clear(self) -> None:
        """All gradients zero, and ready for a step."""
        for bucket in self._buckets:
            bucket.flat.zero_()
            bucket.missing, bucket.handle = len(bucket.weights), None
        self._next = 0

    def _on_ready(self, bucket: _Bucket, view: torch.Tensor) -> Any:
        def hook(weight: torch.Tensor) -> None:
            assert weight.grad is view, "something replaced a gradient that lives in a bucket"
            if self.reduce_now:
                bucket.missing -= 1
                self._send_complete()

        return hook

    def _send_complete(self) -> None:
        while self._next < len(self._buckets) and self._buckets[self._next].missing <= 0:
            self._send_next()

    def _send_next(self) -> None:
        bucket = self._buckets[self._next]
        bucket.sent = bucket.flat if self._travels_as is None else bucket.flat.to(self._travels_as)
        bucket.handle = self.collectives.all_reduce_async(bucket.sent, "sum")
        self._next += 1

    def send_rest(self) -> None:
        """Send what the backward pass did not reach: weights without a gradient count as zero."""
        if self.collectives.size == 1:
            return
        while self._next < len(self._buckets):
            self._send_next()

    def finish(self) -> None:
        """Wait until all are added up."""
        if self.collectives.size == 1:
            return
        self.send_rest()
        for bucket in self._buckets:
            bucket.handle.wait()
            if bucket.sent is not bucket.flat and bucket.sent is not None:
                bucket.flat.copy_(bucket.sent)
            bucket.sent = None

    def clip(self, largest_norm: float) -> None:
        """Scale all gradients so that the norm of the whole is at most ``largest_norm``."""
        norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(bucket.flat) for bucket in self._buckets]))
        factor = (largest_norm / (norm + 1e-6)).clamp(max=1.0)
        for bucket in self._buckets:
            bucket.flat.mul_(factor)

    def close(self) -> None:
        """Take the hooks off the weights."""
        for hook in self._hooks:
            hook.remove()


def _make_buckets(weights: list[nn.Parameter], bucket_bytes: int) -> list[_Bucket]:
    """Groups of one dtype and device, last weights first: about the order in which the backward pass reaches them."""
    groups: list[list[nn.Parameter]] = []
    filled = 0
    for weight in reversed(weights):
        fits = bool(groups) and filled + weight.nbytes <= bucket_bytes
        if not (fits and (groups[-1][0].dtype, groups[-1][0].device) == (weight.dtype, weight.device)):
            groups.append([])
            filled = 0
        groups[-1].append(weight)
        filled += weight.nbytes
    return [_fill_bucket(group) for group in groups]


def _fill_bucket(weights: list[nn.Parameter]) -> _Bucket:
    flat = torch.zeros(sum(weight.numel() for weight in weights), dtype=weights[0].dtype, device=weights[0].device)
    bucket = _Bucket(flat, weights, missing=len(weights))
    offset = 0
    for weight in weights:
        # A weight whose memory has gaps or overlaps (an expanded tensor, say) gets an ordinary contiguous gradient.
        dense = weight.is_contiguous() or (weight.dim() == 4 and weight.is_contiguous(memory_format=torch.channels_last))
        strides = weight.stride() if dense else torch.empty(weight.shape, device="meta").stride()
        bucket.views.append(flat.as_strided(weight.shape, strides, offset))
        offset += weight.numel()
    return bucket


@torch.no_grad()
def broadcast_module(module: nn.Module, collectives: Collectives) -> None:
    """Give every rank rank 0's weights and buffers, exactly, as one flat tensor for each dtype."""
    if collectives.size == 1:
        return
    tensors = [*module.parameters(), *module.buffers()]
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
        some = [tensor for tensor in tensors if tensor.dtype == dtype]
        flat = torch.cat([tensor.reshape(-1) for tensor in some])
        collectives.broadcast(flat, 0)
        _spread(flat, some)


@torch.no_grad()
def average_buffers(module: nn.Module, collectives: Collectives) -> None:
    """Make the floating-point buffers (statistics of batch normalisation) the mean over the ranks, each of which saw its own share."""
    buffers = [buffer for buffer in module.buffers() if buffer.is_floating_point()]
    if collectives.size == 1 or not buffers:
        return
    flat = torch.cat([buffer.reshape(-1).float() for buffer in buffers])
    collectives.all_reduce(flat, "mean")
    _spread(flat, buffers)


def _spread(flat: torch.Tensor, tensors: list[torch.Tensor]) -> None:
    offset = 0
    for tensor in tensors:
        tensor.copy_(flat[offset : offset + tensor.numel()].view(tensor.shape))
        offset += tensor.numel()
