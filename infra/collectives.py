"""What the ranks of one training run say to each other: sums of flat gradient buckets, broadcasts, small objects.

The training loop knows ``Collectives`` only. Three implementations pass one contract suite (``tests/infra/test_collectives.py``): one rank
alone, Horovod, and torch.distributed. ``open_collectives`` chooses by the environment that ``infra.launch`` made. torch and Horovod are
imported when a run of several ranks opens, never before: an estimator on one rank does not pay for them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, Protocol

from infra import wire
from infra._local_collectives import Done as _Done
from infra._local_collectives import LocalCollectives
from infra._local_collectives import check as _check
from infra.errors import CollectiveError, MissingExtraError
from infra.relay import Relay

if TYPE_CHECKING:
    import torch

    from infra.membership import Membership

ReduceOp = Literal["mean", "sum", "max"]
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
DEFAULT_TIMEOUT_S = 1800.0


class Handle(Protocol):
    """A reduction under way."""

    def wait(self) -> None:
        """Return when the tensor holds the result (on CUDA: when work queued on the current stream from now on sees it). Twice is harmless.

        Raises:
            CollectiveError: the ranks could not finish it together, most often because one of them ended.
        """


class Collectives(Protocol):
    """One rank's line to the others.

    Order: every rank calls the same methods in the same order with tensors of the same dtype and number of elements, and waits for
    handles in the same order; one rank's calls come from one thread at a time. Several reductions may be under way, and other calls wait
    for none of them.

    Tensors are contiguous (``tensor.is_contiguous()``), of any shape and device, and are changed in place; a flat bucket of several
    MiB is what to send, one call per parameter is slow. A tensor that is not contiguous is a ``ValueError``. Dtypes: float64, float32,
    float16, bfloat16, int32, int64 for reductions (``mean`` needs a floating dtype), any for ``broadcast``. bfloat16 is reduced in
    float32 where the transport has no bfloat16 (Horovod; it costs two copies) and rounded once at the end. The result has the same
    bits on every rank.

    A rank that has gone makes the others' calls raise ``CollectiveError``, at once or when the transport's time-out ends.
    """

    @property
    def rank(self) -> int:
        """0 to ``size - 1``."""

    @property
    def size(self) -> int: ...

    @property
    def local_rank(self) -> int:
        """0 to ``local_size - 1`` among the ranks of this machine: which GPU to take."""

    @property
    def local_size(self) -> int: ...

    def all_reduce(self, tensor: torch.Tensor, op: ReduceOp = "mean") -> None:
        """Replace the tensor, on every rank, by the elementwise mean, sum or maximum over the ranks."""

    def all_reduce_async(self, tensor: torch.Tensor, op: ReduceOp = "mean") -> Handle:
        """Begin ``all_reduce``; the tensor must not be touched until ``wait()``, and each handle must be waited for."""

    def broadcast(self, tensor: torch.Tensor, root: int = 0) -> None:
        """Replace the tensor on every rank by that of ``root``, bit for bit."""

    def all_gather_object(self, value: Any) -> list[Any]:
        """The values of all ranks, by rank, on every rank. They are pickled: for small things."""

    def broadcast_object(self, value: Any, root: int = 0) -> Any:
        """The value of ``root`` on every rank; what the others pass is ignored."""

    def barrier(self) -> None:
        """Return when every rank has called it."""

    @property
    def membership(self) -> Membership | None:
        """How the group changes; None: it does not."""

    def close(self) -> None:
        """Leave the group; nothing may be called afterwards. All ranks close; twice is harmless."""


class _Pending:
    """A reduction under way: ``finish`` waits for it, once."""

    def __init__(self, finish: Callable[[], None]) -> None:
        self._finish: Callable[[], None] | None = finish

    def wait(self) -> None:
        finish, self._finish = self._finish, None
        if finish is not None:
            finish()


class HorovodCollectives:
    """Horovod on gloo, or NCCL where Horovod was built with it; the ``HOROVOD_*`` variables say who and where.

    Horovod matches tensors by name, not by order. A name is made of operation, dtype, length and the lowest number that is free, so the
    buckets of one step have the same names in the next, and Horovod's response cache skips the negotiation.
    """

    membership = None

    def __init__(self) -> None:
        try:
            import horovod.torch as hvd
        except ImportError:
            raise MissingExtraError("horovod") from None
        if not hasattr(hvd, "init"):  # Horovod's __init__ only prints when its extension does not load
            raise MissingExtraError("horovod (its torch extension does not load)")
        self._hvd = hvd
        with self._told("init"):
            hvd.init()
        self._ops = {"mean": hvd.Average, "sum": hvd.Sum, "max": hvd.Max}
        self._busy: set[str] = set()
        self._open = True

    @property
    def rank(self) -> int:
        return int(self._hvd.rank())

    @property
    def size(self) -> int:
        return int(self._hvd.size())

    @property
    def local_rank(self) -> int:
        return int(self._hvd.local_rank())

    @property
    def local_size(self) -> int:
        return int(self._hvd.local_size())

    @contextmanager
    def _told(self, operation: str) -> Iterator[None]:
        from horovod.common.exceptions import HorovodInternalError

        try:
            yield
        except HorovodInternalError as error:
            raise CollectiveError(int(os.environ.get("HOROVOD_RANK", "0")), operation, str(error)) from error

    def _name(self, kind: str) -> str:
        number = 0
        while (name := f"{kind}.{number}") in self._busy:
            number += 1
        return name

    def _stage(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor itself, or a copy in what this build of Horovod can send: no bfloat16, and GPU memory only with NCCL."""
        import torch

        if tensor.is_cuda and not self._hvd.nccl_built():
            tensor = tensor.cpu()
        return tensor.float() if tensor.dtype == torch.bfloat16 else tensor

    def all_reduce(self, tensor: torch.Tensor, op: ReduceOp = "mean") -> None:
        self.all_reduce_async(tensor, op).wait()

    def all_reduce_async(self, tensor: torch.Tensor, op: ReduceOp = "mean") -> Handle:
        _check(tensor, op)
        if tensor.numel() == 0:
            return _Done()
        staged = self._stage(tensor.detach())
        name = self._name(f"{op}.{str(staged.dtype).removeprefix('torch.')}.{staged.numel()}")
        with self._told("all_reduce"):
            handle = self._hvd.allreduce_async_(staged.view(-1), name=name, op=self._ops[op])
        self._busy.add(name)

        def finish() -> None:
            self._busy.discard(name)
            with self._told("all_reduce"):
                self._hvd.synchronize(handle)
            if staged.data_ptr() != tensor.data_ptr():
                tensor.detach().copy_(staged)

        return _Pending(finish)

    def broadcast(self, tensor: torch.Tensor, root: int = 0) -> None:
        import torch

        _check(tensor, root=root, size=self.size)
        if tensor.numel() == 0:
            return
        flat = tensor.detach().view(-1)
        staged = flat if not flat.is_cuda or self._hvd.nccl_built() else flat.cpu()
        with self._told("broadcast"):  # as bytes: Horovod knows few dtypes
            self._hvd.broadcast_(staged.view(torch.uint8), root, name=f"broadcast.{root}.{staged.numel() * staged.element_size()}")
        if staged.data_ptr() != flat.data_ptr():
            flat.copy_(staged)

    def all_gather_object(self, value: Any) -> list[Any]:
        with self._told("all_gather_object"):
            return list(self._hvd.allgather_object(value, name="gather.object"))

    def broadcast_object(self, value: Any, root: int = 0) -> Any:
        with self._told("broadcast_object"):
            return self._hvd.broadcast_object(value if self.rank == root else None, root_rank=root, name=f"broadcast.object.{root}")

    def barrier(self) -> None:
        with self._told("barrier"):
            self._hvd.barrier()

    def close(self) -> None:
        if self._open:
            self._open = False
            self._hvd.shutdown()


class TorchCollectives:
    """torch.distributed: gloo for CPU tensors, NCCL for CUDA tensors; the variables of ``torchrun`` say who and where.

    ``ATELIER_STORE_FD``, on rank 0, is a listening socket for the store, bound by ``infra.launch`` to one address: so there is no race for
    a free port, and nothing listens on all interfaces, which is what torch does by itself.
    """

    membership = None

    def __init__(self, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        import torch
        import torch.distributed as dist

        self._dist = dist
        self._open = False
        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        self.rank, self.size = rank, size
        self.local_rank, self.local_size = int(os.environ.get("LOCAL_RANK", rank)), int(os.environ.get("LOCAL_WORLD_SIZE", size))
        cuda = torch.cuda.is_available()
        if cuda:
            torch.cuda.set_device(self.local_rank % torch.cuda.device_count())
        listen_fd = os.environ.get("ATELIER_STORE_FD")
        with self._told("init"):
            store = dist.TCPStore(
                os.environ["MASTER_ADDR"],
                int(os.environ["MASTER_PORT"]),
                size,
                is_master=rank == 0,
                timeout=timedelta(seconds=min(timeout_s, 300)),
                wait_for_workers=False,
                master_listen_fd=int(listen_fd) if listen_fd and rank == 0 else None,
            )
            timeout = timedelta(seconds=timeout_s)
            dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", store=store, rank=rank, world_size=size, timeout=timeout)
        self._ops = {"mean": dist.ReduceOp.SUM, "sum": dist.ReduceOp.SUM, "max": dist.ReduceOp.MAX}
        self._open = True

    @contextmanager
    def _told(self, operation: str) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # torch has no narrower type: gloo raises plain RuntimeError, NCCL a subclass
            raise CollectiveError(self.rank, operation, str(error)) from error

    def all_reduce(self, tensor: torch.Tensor, op: ReduceOp = "mean") -> None:
        self.all_reduce_async(tensor, op).wait()

    def all_reduce_async(self, tensor: torch.Tensor, op: ReduceOp = "mean") -> Handle:
        _check(tensor, op)
        if tensor.numel() == 0:
            return _Done()
        flat = tensor.detach().view(-1)
        with self._told("all_reduce"):
            work = self._dist.all_reduce(flat, self._ops[op], async_op=True)

        def finish() -> None:
            with self._told("all_reduce"):
                work.wait()
            if op == "mean":
                flat.div_(self.size)

        return _Pending(finish)

    def broadcast(self, tensor: torch.Tensor, root: int = 0) -> None:
        import torch

        _check(tensor, root=root, size=self.size)
        if tensor.numel() > 0:
            with self._told("broadcast"):
                self._dist.broadcast(tensor.detach().view(-1).view(torch.uint8), root)

    def all_gather_object(self, value: Any) -> list[Any]:
        values: list[Any] = [None] * self.size
        with self._told("all_gather_object"):
            self._dist.all_gather_object(values, value)
        return values

    def broadcast_object(self, value: Any, root: int = 0) -> Any:
        box = [value if self.rank == root else None]
        with self._told("broadcast_object"):
            self._dist.broadcast_object_list(box, root)
        return box[0]

    def barrier(self) -> None:
        with self._told("barrier"):
            self._dist.barrier()

    def close(self) -> None:
        if self._open:
            self._open = False
            self._dist.destroy_process_group()


def choose_backend(environment: dict[str, str]) -> str:
    """``local``, ``horovod``, ``torch`` or ``elastic``: what ``ATELIER_COLLECTIVES`` says, else what the starter's own variables tell."""
    stated = environment.get("ATELIER_COLLECTIVES")
    if stated:
        return stated
    if int(environment.get("HOROVOD_SIZE", "1")) > 1:
        return "horovod"
    return "torch" if int(environment.get("WORLD_SIZE", "1")) > 1 else "local"


def _elastic() -> Collectives:
    from infra.elastic.collectives import ElasticCollectives

    return ElasticCollectives()


def _horovod() -> Collectives:
    """With our launcher's server, or with whatever the ``HOROVOD_*`` variables name (``horovodrun``)."""
    if driver := os.environ.get(wire.DRIVER_VARIABLE):
        host, port = driver.rsplit(":", 1)
        Relay((host, int(port)), os.environ[wire.SECRET_VARIABLE]).become_rendezvous()
    return HorovodCollectives()


IMPLEMENTATIONS: dict[str, Callable[[], Collectives]] = {
    "local": LocalCollectives,
    "horovod": _horovod,
    "torch": TorchCollectives,
}


def _limit_threads(threads: int, variables: Sequence[str] = THREAD_VARIABLES) -> None:
    for variable in variables:
        os.environ[variable] = str(threads)
    if "torch" in sys.modules:  # otherwise torch reads the variables when it is imported
        sys.modules["torch"].set_num_threads(threads)


@contextmanager
def open_collectives(threads: int = 1) -> Iterator[Collectives]:
    """Join the other ranks of this run, and leave them at the end.

    Args:
        threads: CPU threads that this rank's numerical libraries may use.

    Raises:
        CollectiveError: the ranks did not find each other.
        MissingExtraError: Horovod was asked for and is not installed.
    """
    _limit_threads(threads)
    chosen = choose_backend(dict(os.environ))
    collectives = _elastic() if chosen == "elastic" else IMPLEMENTATIONS[chosen]()
    yield collectives
    # Not in a `finally`: a rank that fails must not wait here for ranks that wait for it. Its process ends; the launcher ends the others.
    collectives.close()
