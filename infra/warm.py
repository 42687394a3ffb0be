"""Jobs in warm processes on the Dask cluster: each is a Dask task that holds a slot, and starts in milliseconds.

Where ``infra.launch`` starts ranks that work together, once, this runs many small documents one by one: trials of a tuning, and the stages that
need one rank. The processes that do them have their libraries loaded (``infra._warm_process``) and stay between jobs; a job runs in a fork of its own.
"""

from __future__ import annotations

import itertools
import json
import queue
import threading
import time
import traceback
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from infra._warm_task import end_idle, run_job, stop, thread_variables
from infra.cluster import scheduler_gone
from infra.errors import AtelierError, DeadlineExceededError, RankFailedError, ServiceError, from_wire
from infra.launch import GONE_TIMEOUT_S, forget_topic

if TYPE_CHECKING:
    from distributed import Client, Future

Event = dict[str, Any]


@dataclass(frozen=True)
class Ended:
    """How a job ended.

    Attributes:
        status: exit status; negative: killed by that signal; None: its warm process, or its Dask worker, is gone.
        stopped: it was stopped by ``WarmJobs.stop``.
        late: it ran past its deadline and was stopped.
        error: why it failed; None if it did not, or was stopped.
    """

    status: int | None
    stopped: bool = False
    late: bool = False
    error: AtelierError | None = None

    @classmethod
    def read(cls, result: dict[str, Any], what: str, deadline_s: float) -> Ended:
        status, stopped, late = result["status"], result["stopped"], result["late"]
        if late:
            return cls(status, stopped, late, DeadlineExceededError(what, deadline_s))
        return cls(status, stopped, late, None if status == 0 or stopped else _error(result))


def _error(result: dict[str, Any]) -> AtelierError:
    told = result["error"] or {}
    if "error" in told:
        return from_wire(told["error"])
    words = told.get("traceback") or told.get("message") or result["last_words"]
    return RankFailedError(0, -9 if result["status"] is None else result["status"], words)


@dataclass(frozen=True)
class Message:
    """Something that happened to a job: an event of its own, its begin (again, if its Dask worker was lost), or its end."""

    number: int
    event: Event | None = None
    ended: Ended | None = None

    @property
    def began(self) -> bool:
        return self.event is None and self.ended is None


@dataclass
class WarmJobs:
    """Runs jobs; leaving it ends all of them, and the warm processes.

    Attributes:
        module: ``MODULE.run(argument, report) -> status`` does a job.
        preload: modules that a warm process loads before its first job.
        threads: CPU threads of one job.
        deadline_s: of one job; seconds.
        log_dir: folder for what the processes print.
        what: a job in words, for error messages.
    """

    client: Client
    module: str
    preload: Sequence[str]
    threads: int
    deadline_s: float
    log_dir: Path
    what: str = "The trial"
    _topic: str = field(default_factory=lambda: f"atelier-jobs-{uuid.uuid4().hex}")
    _futures: dict[int, Future] = field(default_factory=dict)
    _addresses: dict[int, str] = field(default_factory=dict)
    _pending: deque[Message] = field(default_factory=deque)
    _inbox: queue.SimpleQueue[dict[str, Any]] = field(default_factory=queue.SimpleQueue)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def __enter__(self) -> WarmJobs:
        # The handler runs in the client's event loop, which must not wait for what the caller does.
        self.client.subscribe_topic(self._topic, lambda event: self._inbox.put(event[1]))
        return self

    @property
    def running(self) -> set[int]:
        return set(self._futures)

    def start(self, number: int, argument: str) -> None:
        """Start job ``number`` as soon as a slot is free."""
        order = {
            "pool": self._topic,
            "module": self.module,
            "preload": list(self.preload),
            "argument": argument,
            "env": {**thread_variables(self.threads), "ATELIER_COLLECTIVES": "local"},
            "deadline_s": self.deadline_s,
            "log_dir": str(self.log_dir),
        }
        key = f"{self._topic}-{number}-{uuid.uuid4().hex[:6]}"
        future = self.client.submit(run_job, self._topic, order, key=key, resources={"slot": 1}, pure=False, retries=0)
        self._futures[number] = future
        future.add_done_callback(lambda done: self._inbox.put({"key": done.key, "done": True}))

    def run(self, argument: str, on_event: Callable[[Event], None]) -> None:
        """Do one job and return when it has ended well; ``on_event`` is called in this thread. For one caller at a time.

        Raises:
            AtelierError: the job's own error, or how it ended.
            DeadlineExceededError: it did not end in time; also when no slot became free, or its Dask worker does not answer.
        """
        number = next(self._numbers)
        limit = time.monotonic() + self.deadline_s + GONE_TIMEOUT_S  # the worker, which sees to the job's own deadline, comes first
        self.start(number, argument)
        try:
            while True:
                if time.monotonic() > limit:
                    raise DeadlineExceededError(self.what, self.deadline_s)
                message = self.next(0.5)
                if message is None or message.number != number:
                    continue
                if message.event is not None:
                    on_event(message.event)
                elif message.ended is not None:
                    if message.ended.error is not None:
                        raise message.ended.error
                    return
        finally:
            self.stop(number)

    def stop(self, number: int) -> None:
        """Stop a job at once; its end is told as that of any other."""
        if number not in self._futures:
            return  # it ended in the same moment
        if number not in self._addresses:  # it still waits for a slot
            self.client.cancel([self._futures[number]])
            self._pending.extend(self._finish(number, Ended(None, stopped=True)))
            return
        # In a thread of its own: Client.run has no time-out, and a frozen worker would hold us.
        values = {"workers": [self._addresses[number]], "on_error": "ignore"}
        threading.Thread(target=self.client.run, args=(stop, self._futures[number].key), kwargs=values, daemon=True).start()

    def next(self, timeout_s: float) -> Message | None:
        """The next thing that happened, in the order of each job; None if nothing did.

        Raises:
            ServiceError: the Dask scheduler has gone.
        """
        if not self._pending:
            if self.client.status != "running":
                raise scheduler_gone(self.client)
            try:
                self._pending.extend(self._read(self._inbox.get(timeout=timeout_s)))
            except queue.Empty:
                return None
        return self._pending.popleft() if self._pending else None

    def _read(self, message: dict[str, Any]) -> list[Message]:
        number = next((number for number, future in self._futures.items() if future.key == message["key"]), None)
        if number is None:
            return []  # of a job that has ended
        if "began" in message:
            self._addresses[number] = message["began"]
            return [Message(number)]
        if "events" in message:
            return [Message(number, event=event) for event in json.loads(message["events"])]
        if "result" in message:
            return self._finish(number, Ended.read(json.loads(message["result"]), self.what, self.deadline_s))
        return self._finish(number, self._end_of(self._futures[number]))

    def _end_of(self, future: Future) -> Ended:
        """The end of a task as Dask tells it: seldom news, except when the task itself could not run."""
        if future.status == "finished":
            return Ended.read(future.result(), self.what, self.deadline_s)
        if future.status == "error":
            words = "".join(traceback.format_exception(future.exception()))
            return Ended(None, error=RankFailedError(0, -9, words))
        raise ServiceError("The Dask scheduler", "the others were ended; run the same command again.", "has dropped a job")

    def _finish(self, number: int, ended: Ended) -> list[Message]:
        del self._futures[number]
        self._addresses.pop(number, None)
        return [Message(number, ended=ended)]

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Cancel what still runs, wait until the workers say that it is gone, and end the warm processes."""
        if self.client.status != "running":
            return  # the workers see to it themselves
        try:
            if self._futures:
                self.client.cancel(list(self._futures.values()))
                self._wait_until_gone({str(future.key) for number, future in self._futures.items() if number in self._addresses})
            self.client.run(end_idle, self._topic, on_error="ignore")
        finally:
            self.client.unsubscribe_topic(self._topic)
            self.client.run_on_scheduler(forget_topic, self._topic)

    def _wait_until_gone(self, keys: set[str]) -> None:
        deadline = time.monotonic() + GONE_TIMEOUT_S
        while keys and time.monotonic() < deadline:
            try:
                message = self._inbox.get(timeout=0.1)
            except queue.Empty:
                continue
            if "result" in message:
                keys = keys - {message["key"]}
