"""Starts ``python -m algorithms ARGUMENT`` as N ranks on the Dask cluster's workers, and owns them until the last one has ended.

One Dask task per rank holds a slot and starts the rank as a process of its own (``infra._rank_task``, ``infra._supervisor``). The tasks first
tell where they are; then this module decides who is which rank, how they meet, and gives the orders. See docs/distributed.md.
"""

from __future__ import annotations

import json
import math
import queue
import shutil
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from infra import wire
from infra._rank_task import deliver, run_rank
from infra._rendezvous import Slot, address_towards, assign_ranks, serve_rendezvous
from infra.cluster import known_workers, num_slots
from infra.collectives import THREAD_VARIABLES
from infra.errors import (
    AtelierError,
    CollectiveError,
    DeadlineExceededError,
    MissingExtraError,
    NotEnoughSlotsError,
    RankFailedError,
    ServiceError,
    from_wire,
)
from infra.settings import load_settings

if TYPE_CHECKING:
    from distributed import Client, Future

Backend = Literal["auto", "horovod", "torch"]
Event = dict[str, Any]

GRACE_S = 1.5  # between SIGTERM and SIGKILL
GONE_TIMEOUT_S = 8.0  # how long to wait until the workers say that the ranks are gone
SETTLE_S = 2.0  # how long to wait for a better explanation than "another rank is gone"
WORKER_CHECK_S = 0.5
ORDER_TIMEOUT_S = 30.0
KEPT_LOG_FOLDERS = 50


@dataclass(frozen=True)
class Failure:
    """One rank's end, and how much it explains: 0 its own error, 1 killed or ended without a word, 2 aborted, 3 only that others were gone."""

    weight: int
    error: AtelierError


def failure_of_event(event: Event, rank: int, status: int | None) -> Failure:
    """What a rank's ``error`` event says; its status is 1 as long as the process has not ended."""
    if "error" in event:
        error = from_wire(event["error"])
        return Failure(3 if isinstance(error, CollectiveError) else 0, error)
    return Failure(0, RankFailedError(rank, status or 1, event.get("traceback") or event.get("message") or ""))


def failure_of_result(result: Mapping[str, Any]) -> Failure | None:
    """Why a rank ended that was not asked to; None if all is well, or it was asked."""
    rank, status, words = result.get("rank"), result.get("status"), result.get("last_words", "")
    if rank is None:
        return None
    if result["error"]:
        return failure_of_event(result["error"], rank, status)
    if status == 0 or result["ended"]:
        return None
    if status is None:
        return Failure(1, RankFailedError(rank, -9, f"{words}\n(its supervisor was killed as well)"))
    # SIGABRT is how Horovod's background thread ends a process whose peer has gone: seldom the cause.
    return Failure(2 if status == -6 else 1, RankFailedError(rank, status, words))


def choose_failure(failures: Sequence[Failure]) -> Failure:
    """The one that explains most; among equals the first that came."""
    return min(failures, key=lambda failure: failure.weight)


def choose_backend(backend: Backend, num_ranks: int, ready: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """How the ranks shall talk (``local``, ``horovod`` or ``torch``) and, if that needs one, the reason.

    Raises:
        MissingExtraError: Horovod was asked for and a worker has none.
    """
    if num_ranks == 1:
        return "local", ""
    without = sorted({here["host"] for here in ready if not here["horovod"]})
    if backend == "torch":
        return "torch", ""
    if not without:
        return "horovod", ""
    if backend == "horovod":
        raise MissingExtraError(f"horovod (on {', '.join(without)})")
    return (
        "torch",
        f"Horovod is not installed on {', '.join(without)}: the ranks use torch.distributed. `atelier doctor` says how to install it.",
    )


def launch(
    argument: str,
    *,
    client: Client,
    num_ranks: int,
    deadline_s: float,
    backend: Backend = "auto",
    threads_per_rank: int | None = None,
    on_event: Callable[[Event], None] = lambda event: None,
    on_output: Callable[[str, str], None] = lambda name, text: None,
    env: Mapping[str, str] | None = None,
    module: str = "algorithms",
    log_dir: Path | None = None,
    what: str = "The run",
) -> None:
    """Run ``python -m MODULE ARGUMENT`` on ``num_ranks`` ranks and return when all have ended well. However it ends, no process is left.

    Args:
        argument: the only argument of the program (at most 128 KiB, a limit of Linux).
        deadline_s: for everything, also the wait for free slots; seconds.
        backend: how ranks talk; ``auto`` is Horovod where every worker has it, else torch.distributed. One rank alone uses neither.
        threads_per_rank: CPU threads of one rank; default: the cores of its machine divided by the ranks there.
        on_event: called in this thread with every event that a rank writes, in the order of that rank, ``rank`` added.
        on_output: called in this thread when a rank has ended, with its name and what it printed (the last 256 KiB).
        env: variables for the ranks, over those of the workers.
        log_dir: parent of the folder with each rank's output, one file a rank; default: ``logs/ranks`` in the state folder.
        what: the run in words, for error messages.

    Raises:
        NotEnoughSlotsError: before anything is started.
        AtelierError: the error that a rank reported, of its own type.
        RankFailedError: a rank ended otherwise, with its traceback or last lines.
        DeadlineExceededError: after ``deadline_s`` seconds.
        MissingExtraError: ``backend="horovod"`` and a worker has no Horovod.
        ServiceError: the Dask scheduler has gone.
    """
    available = num_slots(client)
    if num_ranks > available:
        raise NotEnoughSlotsError(num_ranks, available, _scheduler_address(client))
    folder = new_log_folder(log_dir or load_settings().state_dir / "logs" / "ranks")
    job = _Job(client, num_ranks, time.monotonic() + deadline_s, DeadlineExceededError(what, deadline_s), on_event, on_output)
    with ExitStack() as stack:
        stack.enter_context(job.running())
        ready = job.gather()
        slots = assign_ranks([here["host"] for here in ready])
        chosen, reason = choose_backend(backend, num_ranks, ready)
        if reason:
            on_event({"kind": "log", "message": reason})
        meetings = _meetings(chosen, slots, ready, stack)
        orders = []
        for here, slot, meeting in zip(ready, slots, meetings, strict=True):
            threads = threads_per_rank or max(1, here["cores"] // slot.local_size)
            own = {name: str(threads) for name in (*THREAD_VARIABLES, "ATELIER_THREADS")}
            order = {"rank": slot.rank, "module": module, "argument": argument, "log_dir": str(folder), "grace_s": GRACE_S}
            orders.append({**order, "env": {**own, **(env or {}), **meeting}, "needs_store": chosen == "torch" and slot.rank == 0})
        job.order(orders)
        job.watch()


def _scheduler_address(client: Client) -> str:
    assert client.scheduler is not None
    return str(client.scheduler.address)


def _meetings(backend: str, slots: list[Slot], ready: list[dict[str, Any]], stack: ExitStack) -> list[dict[str, str]]:
    """For each rank the variables that tell how to find the others."""
    if backend == "local":
        return [{"ATELIER_COLLECTIVES": "local"} for _ in slots]
    if backend == "horovod":
        secret = wire.new_secret()
        host, port = stack.enter_context(serve_rendezvous(address_towards(slots[0].host), slots, secret))
        server = {wire.DRIVER_VARIABLE: f"{host}:{port}", wire.SECRET_VARIABLE: secret}
        return [{**slot.horovod_env(here["interface"]), **server} for slot, here in zip(slots, ready, strict=True)]
    first = next(here for here, slot in zip(ready, slots, strict=True) if slot.rank == 0)
    return [slot.torch_env(here["interface"], (first["host"], first["port"])) for slot, here in zip(slots, ready, strict=True)]


def new_log_folder(parent: Path) -> Path:
    """The name of a new folder for this job's logs (the workers make it); the oldest ones go."""
    if parent.is_dir():
        for old in sorted(parent.iterdir())[: -KEPT_LOG_FOLDERS + 1]:
            shutil.rmtree(old, ignore_errors=True)  # another process may be doing the same
    return parent.resolve() / f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:8]}"


def forget_topic(topic: str, dask_scheduler: Any = None) -> None:
    """Free the events that the scheduler keeps; it would keep 100,000 of each job."""
    dask_scheduler._broker.truncate(topic)


@dataclass
class _Job:
    """The tasks of one launch, seen from the driving process: everything that happens comes through one queue to the calling thread."""

    client: Client
    num_ranks: int
    deadline: float
    too_late: DeadlineExceededError
    on_event: Callable[[Event], None]
    on_output: Callable[[str, str], None]
    topic: str = field(default_factory=lambda: f"atelier-ranks-{uuid.uuid4().hex}")
    futures: dict[str, Future] = field(default_factory=dict)
    ready: dict[str, dict[str, Any]] = field(default_factory=dict)
    ranks: dict[str, int] = field(default_factory=dict)
    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)
    failures: list[Failure] = field(default_factory=list)
    _last_results: list[dict[str, Any]] = field(default_factory=list)
    _num_batches: dict[str, int] = field(default_factory=dict)
    _inbox: queue.SimpleQueue[dict[str, Any]] = field(default_factory=queue.SimpleQueue)
    _checked_at: float = field(default_factory=time.monotonic)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Listen, and whatever happens inside: at the end the ranks are gone, and nothing of the job is left on the cluster."""
        # The handler runs in the client's event loop, which must not wait for what a person's `on_event` does.
        self.client.subscribe_topic(self.topic, lambda event: self._inbox.put(event[1]))
        try:
            yield
        finally:
            self._end()

    def gather(self) -> list[dict[str, Any]]:
        """Start the tasks; returns where each is when all hold their slots.

        One job at a time collects its slots: two that each held half of what they need would wait for each other for ever.
        """
        from distributed import Lock

        lock = Lock("atelier-start-of-ranks", scheduler_rpc=self.client.scheduler, loop=self.client.loop)
        while not lock.acquire(timeout=1.0):
            self._check_deadline()
        try:
            for index in range(self.num_ranks):
                key = f"{self.topic}-{index}"
                future = self.client.submit(run_rank, self.topic, key=key, resources={"slot": 1}, pure=False, retries=0)
                self.futures[key] = future
                future.add_done_callback(lambda done: self._inbox.put({"key": done.key, "done": True}))
            told = time.monotonic() + 2.0
            while len(self.ready) < self.num_ranks:
                self._step()
                if self.failures:
                    raise choose_failure(self.failures).error
                if time.monotonic() > told:
                    told = math.inf
                    self.on_event({"kind": "log", "message": f"waiting for free slots: {len(self.ready)} of {self.num_ranks}"})
        finally:
            lock.release()
        return [self.ready[key] for key in self.futures]

    def order(self, orders: list[dict[str, Any]]) -> None:
        """Give each task its order, in the order of ``gather``'s result."""
        self.ranks = {key: order["rank"] for key, order in zip(self.futures, orders, strict=True)}
        by_key = dict(zip(self.futures, orders, strict=True))
        addresses = sorted({here["address"] for here in self.ready.values()})
        # In a thread of its own: Client.run has no time-out, and a frozen worker would hold us.
        thread = threading.Thread(
            target=self.client.run, args=(deliver, by_key), kwargs={"workers": addresses, "on_error": "ignore"}, daemon=True
        )
        thread.start()
        thread.join(min(ORDER_TIMEOUT_S, max(0.0, self.deadline - time.monotonic())))
        if thread.is_alive():
            raise ServiceError("The start of the ranks", f"the workers {', '.join(addresses)} did not take their orders")

    def watch(self) -> None:
        """Return when all ranks have ended well; raise what explains best why one did not."""
        settled_at: float | None = None
        while not (len(self.results) == self.num_ranks and self._all_heard()):
            self._step()
            if self.failures and settled_at is None:
                settled_at = time.monotonic() + SETTLE_S
            if settled_at is not None and (choose_failure(self.failures).weight <= 1 or time.monotonic() > settled_at):
                break
        if self.failures:
            raise choose_failure(self.failures).error

    def _all_heard(self) -> bool:
        """Whether all events have arrived that the tasks sent before they ended."""
        return all(self._num_batches.get(key, 0) >= result.get("num_batches", 0) for key, result in self.results.items())

    def _check_deadline(self) -> None:
        if time.monotonic() > self.deadline:
            raise self.too_late

    def _step(self) -> None:
        """Handle the next thing that happens, or the passing of time."""
        self._check_deadline()
        if time.monotonic() - self._checked_at > WORKER_CHECK_S:
            self._check_workers()
            self._checked_at = time.monotonic()
        try:
            message = self._inbox.get(timeout=0.1)
        except queue.Empty:
            return
        self._handle(message)

    def _handle(self, message: dict[str, Any]) -> None:
        key = message["key"]
        if "ready" in message:
            if key in self.results:
                return  # Dask runs it again because the worker that kept its result is lost; `_end` cancels it
            if key in self.ready:  # Dask started the task a second time: the worker of the first is lost
                self._lose(key)
            else:
                self.ready[key] = message["ready"]
        elif "events" in message:
            self._num_batches[key] = message["number"] + 1
            for event in json.loads(message["events"]):
                if event["kind"] == "error":
                    self.failures.append(failure_of_event(event, self.ranks[key], None))
                self.on_event({**event, "rank": self.ranks[key]})
        elif "result" in message:
            self._take(key, json.loads(message["result"]))
        elif key not in self.results:
            self._take_future(key, self.futures[key])

    def _take(self, key: str, result: dict[str, Any]) -> None:
        if key not in self.results:
            self.results[key] = result
            self._tell_output(result)
            failure = failure_of_result(result)
            if failure is not None:
                self.failures.append(failure)

    def _tell_output(self, result: dict[str, Any]) -> None:
        if "output" in result:
            self.on_output(f"rank-{result['rank']}", result["output"])

    def _take_future(self, key: str, future: Future) -> None:
        """The end of a task as Dask tells it: seldom news, except when the task itself could not run."""
        if future.status == "finished":
            self._take(key, future.result())
        elif future.status == "error":
            words = "".join(traceback.format_exception(future.exception()))
            self.failures.append(Failure(0, RankFailedError(self.ranks.get(key, -1), 1, words)))
        elif key not in self.lost:
            why, what = "the ranks were ended; run the same command again.", "has gone, or has dropped this job"
            self.failures.append(Failure(1, ServiceError(f"The Dask scheduler at {_scheduler_address(self.client)}", why, what)))

    def _check_workers(self) -> None:
        """A task whose worker has gone is not reported: Dask starts it again elsewhere."""
        workers = known_workers(self.client)
        if workers is None or self.client.status != "running":
            return  # its futures are cancelled when the scheduler is given up
        for key, here in self.ready.items():
            if here["address"] not in workers and key not in self.results:
                self._lose(key)

    def _lose(self, key: str) -> None:
        if key not in self.lost:
            self.lost.add(key)
            address = self.ready[key]["address"]
            words = f"The Dask worker {address}, on which it ran, is gone: killed, out of memory, or its machine cannot be reached."
            self.failures.append(Failure(1, RankFailedError(self.ranks.get(key, -1), -9, words)))

    def _end(self) -> None:
        """Cancel what still runs and wait until the workers say that the ranks are gone."""
        try:
            if self.futures and self.client.status == "running":
                # Finished ones too: as long as a future is wanted, Dask runs its task again when the worker that keeps the result is lost.
                self.client.cancel(list(self.futures.values()))
                self._wait_until_gone({key for key in self.ready if key not in self.results and key not in self.lost})
        finally:
            if self.client.status == "running":
                self.client.unsubscribe_topic(self.topic)
                self.client.run_on_scheduler(forget_topic, self.topic)
        for result in self._last_results:  # now, since what is called may raise
            self._tell_output(result)

    def _wait_until_gone(self, keys: set[str]) -> None:
        deadline = time.monotonic() + GONE_TIMEOUT_S
        while keys and time.monotonic() < deadline:
            try:
                message = self._inbox.get(timeout=0.1)
            except queue.Empty:
                workers = known_workers(self.client)
                keys = {key for key in keys if workers is None or self.ready[key]["address"] in workers}
                continue
            if "result" in message:
                keys = keys - {message["key"]}
                self._last_results.append(json.loads(message["result"]))
