"""Which device a rank uses, and in which precision."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from typing import Literal

import torch
from torch import nn

COMPILE_STEPS = 2000


def choose_device(local_rank: int) -> torch.device:
    """The GPU of this rank where there is one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", local_rank % torch.cuda.device_count())
    return torch.device("cpu")


def choose_precision(wanted: Literal["auto", "fp32", "bf16"], device: torch.device) -> Literal["fp32", "bf16"]:
    """``auto`` is bf16 where the hardware computes in it: GPUs from Ampere on, CPUs with AMX or AVX512-BF16."""
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp32"
    has_bf16 = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return "bf16" if has_bf16 else "fp32"


def autocast(device: torch.device, precision: Literal["fp32", "bf16"]) -> contextlib.AbstractContextManager[object]:
    """What a forward pass runs in."""
    if precision == "bf16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()


def set_up_process(threads: int, device: torch.device) -> None:
    """Threads of this rank, and algorithms that give the same result every time."""
    torch.set_num_threads(threads)
    keep_memory()
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True


def keep_memory() -> None:
    """Let the C library keep what was freed instead of giving it back to the kernel at once.

    It maps and unmaps large blocks for every activation otherwise, and each page is zeroed anew when it is touched: 8 to 10 % of a step of resnet18
    on a CPU. Does nothing where the C library is not glibc.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        m_trim_threshold, m_mmap_threshold = -1, -3
        if not mallopt(m_mmap_threshold, 1 << 30):  # older versions take no more than this
            mallopt(m_mmap_threshold, 32 << 20)
        mallopt(m_trim_threshold, (1 << 31) - 1)


def compiled(model: nn.Module, wanted: Literal["auto", "on", "off"], device: torch.device, num_steps: int) -> nn.Module:
    """The network as it is trained: compiled by ``torch.compile``, or itself.

    ``auto`` is a rule and no measurement, so that the same options always give the same weights: GPUs, and trainings long enough to earn the
    compilation back. On CPUs compiled networks were slower (docs/benchmarks.md).
    """
    if wanted == "off" or (wanted == "auto" and (device.type == "cpu" or num_steps < COMPILE_STEPS)):
        return model
    if wanted == "auto":
        torch._dynamo.config.suppress_errors = True  # nobody asked for it: what does not compile runs as it is
    found = torch.compile(model)
    assert isinstance(found, nn.Module)
    return found
