"""Which samples make up which batch, and reading them ahead.

The order is a function of seed and epoch, and a batch is a batch of all ranks together; a rank takes its contiguous share of each. So the samples
of a step do not depend on the number of ranks, every sample is seen once an epoch, and a position (epoch, step) is all there is to resume from.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

import numpy as np
import torch

from algorithms.engines.torch_engine import Samples
from infra.errors import InvalidOptionError

Batch = tuple[torch.Tensor, torch.Tensor]
_READ_AHEAD = 4


def epoch_order(seed: int, epoch: int, num_samples: int) -> np.ndarray:
    """A permutation int64 [num_samples]."""
    return np.random.default_rng([seed, epoch]).permutation(num_samples)


def num_steps(num_samples: int, batch_size: int) -> int:
    """Batches in an epoch."""
    return -(-num_samples // batch_size)


class Pace:
    """How many steps each epoch has, where the batch size changes from one to the next, and with the number of workers within one.

    Args:
        batch_sizes: one for each epoch.
    """

    def __init__(self, num_samples: int, batch_sizes: Sequence[int]) -> None:
        self.num_samples, self.batch_sizes = num_samples, batch_sizes
        self.replan(0, 0, 1)

    def replan(self, epoch: int, origin: int, scale: int) -> None:
        """From here on batches are ``scale`` times as large, and the steps of ``epoch`` count from the place ``origin`` in its order."""
        self._at, self._origin, self._scale = epoch, origin, scale
        counts = [num_steps(self.num_samples, size * scale) for size in self.batch_sizes]
        if epoch < len(counts):
            counts[epoch] = num_steps(self.num_samples - origin, self.batch_sizes[epoch] * scale)
        self._before = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])

    @property
    def total(self) -> int:
        """Steps of the whole training."""
        return int(self._before[-1])

    def steps(self, epoch: int) -> int:
        """Steps of one epoch (from 0); after the last epoch those of the last."""
        epoch = min(epoch, len(self.batch_sizes) - 1)
        return int(self._before[epoch + 1] - self._before[epoch])

    def done(self, epoch: int, step: int) -> int:
        """Steps done when ``epoch`` epochs and ``step`` steps of the next are done."""
        return int(self._before[epoch]) + step

    def bounds(self, epoch: int, step: int) -> tuple[int, int]:
        """See ``batch_bounds``."""
        return batch_bounds(step, self.num_samples, self.batch_sizes[epoch] * self._scale, self._origin if epoch == self._at else 0)

    def check(self, size: int, least: int, scale: int = 1) -> None:
        """See ``check_shares``: of the smallest batches."""
        check_shares(self.num_samples, min(self.batch_sizes) * scale, size, least)


def batch_bounds(step: int, num_samples: int, batch_size: int, origin: int = 0) -> tuple[int, int]:
    """First and last-but-one place in the order of the batch at ``step``, counted from place ``origin``. All batches are of equal size within one, so
    that none is tiny."""
    left = num_samples - origin
    steps = num_steps(left, batch_size)
    return origin + step * left // steps, origin + (step + 1) * left // steps


def share(first: int, last: int, rank: int, size: int) -> tuple[int, int]:
    """The contiguous share of a rank in [first, last)."""
    count = last - first
    return first + count * rank // size, first + count * (rank + 1) // size


def num_parts(count: int, accumulation: int, least: int) -> int:
    """Into how many parts a rank cuts its share of ``count`` samples: as many as wished, but none with fewer than ``least`` samples."""
    return max(1, min(accumulation, count // least))


def check_shares(num_samples: int, batch_size: int, size: int, least: int) -> None:
    """Refuse batches that leave a rank with fewer than ``least`` samples (1; or 2 with batch normalisation, which needs a spread).

    Accumulation is not judged here: ``num_parts`` cuts a share into fewer parts where it is small.

    Raises:
        InvalidOptionError: which batch size or number of workers would do.
    """
    smallest = num_samples // num_steps(num_samples, batch_size) // size
    if smallest < least:
        raise InvalidOptionError(
            "training",
            [
                f"batch_size: {batch_size} over {size} worker(s) and {num_samples} training samples leaves a worker with {smallest} in a step"
            ],
            f"Each needs {least} at least: raise batch_size to {2 * least * size} or more, use fewer workers, or give more data.",
        )


class Reader:
    """Reads batches of one split ahead in a thread that lives as long as the reader."""

    def __init__(self, samples: Samples, device: torch.device) -> None:
        self.samples, self.device = samples, device
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="atelier-reader")

    def batches(self, wanted: Iterable[np.ndarray], fit: Callable[[np.ndarray], np.ndarray] | None = None) -> Generator[Batch]:
        """The samples at each array of indices, in order, on the device; their inputs changed by ``fit`` in the reading thread."""
        waiting: deque[Future[Batch]] = deque()
        indices = iter(wanted)
        try:
            for some in indices:
                waiting.append(self._pool.submit(self._read, some, fit))
                if len(waiting) > _READ_AHEAD:
                    yield self._to_device(waiting.popleft().result())
            while waiting:
                yield self._to_device(waiting.popleft().result())
        finally:
            for future in waiting:
                future.cancel()

    def _read(self, indices: np.ndarray, fit: Callable[[np.ndarray], np.ndarray] | None) -> Batch:
        inputs, targets = self.samples.read(indices)
        inputs = inputs if fit is None else fit(inputs)
        batch = torch.from_numpy(inputs), torch.from_numpy(targets)
        return (batch[0].pin_memory(), batch[1].pin_memory()) if self.device.type == "cuda" else batch

    def _to_device(self, batch: Batch) -> Batch:
        return batch[0].to(self.device, non_blocking=True), batch[1].to(self.device, non_blocking=True)

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
