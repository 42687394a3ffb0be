"""Which back end ``auto`` means: the one that was measured to be faster on machines like these, in the first training that had the choice.

The figures are kept in a small JSON file; who deletes it has them measured anew.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.launch import Backend, choose_backend

if TYPE_CHECKING:
    from infra.collectives import Collectives

MEASURE = "measure"
NAMES = {"horovod": "Horovod", "torch": "torch.distributed"}
_ELEMENTS = 2**21  # float32: the 8 MiB of a gradient bucket
_WARM_UP, _RUNS = 3, 15


class Figures:
    """Milliseconds of one reduction by kind of machines and back end.

    Args:
        path: the file; None: nothing is known, and nothing is measured.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path

    def read(self) -> dict[str, dict[str, float]]:
        try:
            found = json.loads(self.path.read_text()) if self.path is not None else {}
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def keep(self, kind: str, milliseconds: dict[str, float]) -> None:
        if self.path is None:
            return
        part = self.path.with_name(f".{self.path.name}.{time.monotonic_ns()}")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps({**self.read(), kind: milliseconds}, indent=1))
        part.replace(self.path)


def kind_of(heres: Sequence[Mapping[str, Any]]) -> str:
    """What the figures depend on, in words."""
    where = "one machine" if len({here["host"] for here in heres}) == 1 else "several machines"
    cores = sorted({here["cores"] for here in heres})
    return f"{where}, {'/'.join(map(str, cores))} cores, {len(heres)} ranks, torch {version('torch')}"


def choose(asked: Backend, heres: Sequence[Mapping[str, Any]], figures: Figures) -> tuple[str, str]:
    """The back end of a group (``local``, ``horovod``, ``torch``, or ``measure``: the ranks find out), and why, where that needs saying.

    Raises:
        MissingExtraError: Horovod was asked for and a worker has none.
    """
    chosen, reason = choose_backend(asked, len(heres), heres)
    if asked != "auto" or chosen != "horovod" or figures.path is None:
        return chosen, reason
    known = figures.read().get(kind_of(heres))
    if known is None or set(known) != set(NAMES):
        return MEASURE, ""
    return min(known, key=lambda name: known[name]), told(known)


def told(milliseconds: Mapping[str, float]) -> str:
    """The choice in words."""
    fast, slow = sorted(milliseconds, key=lambda name: milliseconds[name])
    words = [f"{milliseconds[name]:.1f} ms with {NAMES[name]}" for name in (fast, slow)]
    return f"The ranks use {NAMES[fast]}: adding up 8 MiB of gradients took {words[0]}, {words[1]}."


def time_reduction(collectives: Collectives) -> float:
    """Milliseconds of one reduction of a gradient bucket, the median on the slowest rank."""
    import torch

    device = f"cuda:{torch.cuda.current_device()}" if torch.cuda.is_available() else "cpu"
    bucket = torch.ones(_ELEMENTS, device=device)
    times = []
    for _ in range(_WARM_UP + _RUNS):
        begun = time.perf_counter()
        collectives.all_reduce(bucket, "mean")
        if bucket.is_cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begun)
    median = torch.tensor([sorted(times[_WARM_UP:])[_RUNS // 2] * 1000], dtype=torch.float64)
    collectives.all_reduce(median, "max")
    return float(median)
