"""``Collectives`` of a group that changes: the same operations, over whichever group there is at the moment, and ``reset`` to get into the next."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

from infra import wire
from infra._local_collectives import LocalCollectives
from infra.collectives import Collectives, Handle, HorovodCollectives, ReduceOp, TorchCollectives
from infra.elastic.backends import MEASURE, time_reduction
from infra.elastic.member import Member, Plan
from infra.elastic.memory import CommitMemory
from infra.errors import CollectiveError
from infra.membership import Membership, Memory
from infra.relay import Relay

if TYPE_CHECKING:
    import torch


class _Counted:
    """A reduction under way, in which this rank may come to wait for others."""

    def __init__(self, handle: Handle, waiting: Callable[[], Any]) -> None:
        self._handle, self._waiting = handle, waiting

    def wait(self) -> None:
        with self._waiting():
            self._handle.wait()


class ElasticCollectives:
    """Before the first ``reset`` it is one rank alone, so that a newcomer loads all that it needs without anybody waiting for it."""

    def __init__(self, member: Member | None = None) -> None:
        self._member = member or Member(dict(os.environ))
        self._inner: Collectives = LocalCollectives()
        self._relay: Relay | None = None
        self._local_rank = int(os.environ.get(wire.PLACE_VARIABLE, "0"))
        self.memory: Memory = CommitMemory(os.environ.get(wire.MEMORY_VARIABLE, ""))
        self.last = False
        self.generation = 0

    @property
    def membership(self) -> Membership:
        return self

    @property
    def rank(self) -> int:
        return self._inner.rank

    @property
    def size(self) -> int:
        return self._inner.size

    @property
    def local_rank(self) -> int:
        return self._local_rank

    @property
    def local_size(self) -> int:
        return self._inner.local_size

    # Membership

    @property
    def largest_size(self) -> int:
        return self._member.largest

    @property
    def change_wanted(self) -> bool:
        return self._member.change_wanted

    def committed(self, position: tuple[int, int]) -> None:
        self._member.position = position

    def reset(self, offer: tuple[int, int] | None) -> int | None:
        self._close()
        while True:
            plan = self._member.join(offer)
            try:
                self._open(plan)
            except CollectiveError as error:
                print(f"The group of generation {plan.generation} did not come together: {error}", file=sys.stderr, flush=True)
                self._close()
                continue
            self.generation, self.last = plan.generation, plan.last
            return plan.source

    def leave(self) -> NoReturn:
        self._member.end(wire.LEFT_STATUS)

    def _open(self, plan: Plan) -> None:
        os.environ.update(plan.environment)
        self._member.waits = self._member.opening = True
        try:
            if plan.size == 1:
                self._inner = LocalCollectives()
            elif plan.backend == MEASURE:
                self._inner = self._fastest(plan)
            else:
                self._inner = self._open_backend(plan.backend, plan)
        finally:
            self._member.waits = self._member.opening = False

    def _open_backend(self, backend: str, plan: Plan) -> Collectives:
        if backend == "horovod":
            if self._relay is None:
                self._relay = Relay(self._member.driver, self._member.secret)
            self._relay.prefix = f"/kv/{plan.generation}"
            self._relay.become_rendezvous()
            return HorovodCollectives()
        assert self._member.listener is not None
        if plan.rank == 0:
            os.environ["ATELIER_STORE_FD"] = str(os.dup(self._member.listener.fileno()))
        return TorchCollectives()

    def _fastest(self, plan: Plan) -> Collectives:
        """Open both back ends, stay with the one that adds up faster, and have the driver remember it."""
        opened: dict[str, Collectives] = {}
        times: dict[str, float] = {}
        for backend in ("torch", "horovod"):  # Horovod's thread, once started, takes some of the time
            opened[backend] = self._open_backend(backend, plan)
            times[backend] = time_reduction(opened[backend])
        fast, slow = sorted(times, key=lambda name: times[name])
        if plan.rank == 0:
            self._member.say("measured", dict(times))
        opened[slow].close()
        return opened[fast]

    def _close(self) -> None:
        """Leave the group that there is. What hangs here is ended by the member's thread once the driver knows that the group is broken."""
        inner, self._inner = self._inner, LocalCollectives()
        try:
            inner.close()
        except (CollectiveError, RuntimeError) as error:  # a group that is broken may complain in its own words
            print(f"Leaving the group: {error}", file=sys.stderr, flush=True)

    # Operations

    @contextmanager
    def _operation(self) -> Iterator[None]:
        member = self._member
        if member.broken:
            raise CollectiveError(self.rank, "an operation", "another rank has ended")
        member.operations += 1
        with self._waiting():
            yield

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        self._member.waits = True
        try:
            yield
        finally:
            self._member.waits = False

    def all_reduce(self, tensor: torch.Tensor, op: ReduceOp = "mean") -> None:
        with self._operation():
            self._inner.all_reduce(tensor, op)

    def all_reduce_async(self, tensor: torch.Tensor, op: ReduceOp = "mean") -> Handle:
        with self._operation():
            return _Counted(self._inner.all_reduce_async(tensor, op), self._waiting)

    def broadcast(self, tensor: torch.Tensor, root: int = 0) -> None:
        with self._operation():
            self._inner.broadcast(tensor, root)

    def all_gather_object(self, value: Any) -> list[Any]:
        with self._operation():
            return self._inner.all_gather_object(value)

    def broadcast_object(self, value: Any, root: int = 0) -> Any:
        with self._operation():
            return self._inner.broadcast_object(value, root)

    def barrier(self) -> None:
        with self._operation():
            self._inner.barrier()

    def close(self) -> None:
        self._close()
