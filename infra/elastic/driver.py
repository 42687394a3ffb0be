"""Runs one program as ranks that come and go with the slots of the Dask cluster, and owns them until the last one has ended.

This is the acting part: Dask tasks, messages, the server that ranks talk to. What is to be done when, ``policy`` says.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import queue
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from infra import wire
from infra._rendezvous import address_towards
from infra.cluster import scheduler_gone
from infra.elastic import policy
from infra.elastic.backends import Figures, choose, kind_of, told
from infra.elastic.discovery import Discovery, require_slots, run_aside, unreachable
from infra.elastic.giving_back import without_worker
from infra.elastic.places import Process, free_place, host_of, make_order, make_plans, num_neighbours
from infra.elastic.policy import Break, Conclude, End, Fail, Form, Job, Limits, Regroup, Release, Start
from infra.elastic.server import Board, serve
from infra.elastic.task import forget_job, run_member, tell
from infra.errors import (
    AtelierError,
    CollectiveError,
    DeadlineExceededError,
    RankFailedError,
    WorkersLostError,
    from_wire,
)
from infra.launch import GONE_TIMEOUT_S, Backend, forget_topic

if TYPE_CHECKING:
    from distributed import Client

Event = dict[str, Any]

LOOK_S = 0.3  # between two looks at the cluster
SCHEDULER_S = 10.0  # how long the scheduler may not answer
UNREACHED_S = 5.0  # after which a member that was to be killed is told so itself
END_S = 3.0  # for the other ranks to end after rank 0 has


@dataclass
class Driver:
    """One job; ``run`` it once."""

    client: Client
    limits: Limits
    backend: Backend
    figures: Figures
    on_event: Callable[[Event], None]
    on_output: Callable[[str, str], None]
    discovery: Discovery
    too_late: DeadlineExceededError
    deadline: float
    order: dict[str, Any]
    env: dict[str, str]
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    secret: str = field(default_factory=wire.new_secret)
    board: Board = field(default_factory=Board)
    processes: dict[str, Process] = field(default_factory=dict)
    _inbox: queue.SimpleQueue[dict[str, Any]] = field(default_factory=queue.SimpleQueue)
    _numbers: Iterator[int] = field(default_factory=itertools.count)
    _closing: threading.Event = field(default_factory=threading.Event)
    _hurry: threading.Event = field(default_factory=threading.Event)
    _said: set[str] = field(default_factory=set)
    _last_words: str = ""
    _error: AtelierError | None = None
    _answered_at: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.job = Job(self.limits)
        self.topic = f"atelier-elastic-{self.id}"

    def run(self) -> None:
        workers = self.discovery.workers([]) or {}
        there = sum(worker.slots for worker in workers.values())
        require_slots(self.client, self.discovery, workers, self.limits.least)
        if there < self.limits.least:
            self._log(f"waiting for free slots: {there} of {self.limits.least}")
        self.job.saw_workers(workers)
        hosts = sorted({host_of(address) for address in workers}, key=lambda host: (host.startswith("127."), host))
        with serve(address_towards(hosts[0]), self.secret, self.board, self._on_word) as server, self._listening():
            self.server = server
            while not self.job.done:
                self._step()
            self._let_end()

    @contextmanager
    def _listening(self) -> Iterator[None]:
        # The handler runs in the client's event loop, which must not wait for what a person's `on_event` does.
        self.client.subscribe_topic(self.topic, lambda event: self._inbox.put(event[1]))
        looker = threading.Thread(target=self._look, name="elastic discovery", daemon=True)
        looker.start()
        try:
            yield
        finally:
            self._closing.set()
            self._hurry.set()
            self._end()

    def _look(self) -> None:
        while True:
            self._hurry.wait(LOOK_S)
            self._hurry.clear()
            if self._closing.is_set():
                return
            held = [process.worker for process in list(self.processes.values()) if not process.ended]
            workers = self.discovery.workers(held)
            if workers is not None:
                self._answered_at = time.monotonic()
                self._inbox.put({"workers": workers})

    def _on_word(self, name: str, kind: str, word: dict[str, Any]) -> None:
        self._inbox.put({"name": name, "said": kind, "word": word})

    # One step: everything that has happened, then everything that follows from it

    def _check(self) -> None:
        """Whether there is any sense in going on."""
        now = time.monotonic()
        if now > self.deadline:
            raise self.too_late
        if now - self._answered_at > SCHEDULER_S or self.client.status in ("closed", "closing"):
            raise scheduler_gone(self.client)

    def _step(self) -> None:
        now = time.monotonic()
        try:
            message = self._inbox.get(timeout=0.1)
            while True:
                self._handle(message)
                message = self._inbox.get_nowait()
        except queue.Empty:
            self._check()
        if self._error is not None:
            raise self._error
        for name, process in self.processes.items():
            if process.end_at is not None and now - process.end_at > UNREACHED_S and name not in self.board.gone:
                with self.board.change():
                    self.board.gone.add(name)  # the order to kill it did not get there; should it ever ask, it ends itself
        self._bury_lost(time.monotonic())
        for action in policy.decide(self.job, time.monotonic()):
            self._do(action)

    def _handle(self, message: dict[str, Any]) -> None:
        now = time.monotonic()
        if "workers" in message:
            self._saw_workers(message["workers"], now)
            return
        if "look" in message:  # the share of the cluster has changed
            self._hurry.set()
            return
        name = message["name"] if "name" in message else message["key"].rsplit("-", 1)[-1]
        process = self.processes.get(name)
        if process is None or process.ended:
            return
        if "said" in message:
            self._hear(name, process, message["said"], message["word"], now)
        elif "began" in message:
            process.here = message["began"]
        elif "events" in message:
            process.num_batches = message["number"] + 1
            for event in json.loads(message["events"]):
                self._pass_on(process, event)
        elif "result" in message:
            self._ended(name, process, message["result"], now)
        elif "done" in message:
            self._take_future(name, process, now)

    def _hear(self, name: str, process: Process, kind: str, word: dict[str, Any], now: float) -> None:
        if kind == "join":
            if process.here is None:
                return  # it asks again; the task's own word, over the scheduler, is on its way
            if word["generation"] >= self._generation_of(name):  # else a late question of before it got its place
                process.port = int(word["port"])
                offer = (word["offer"][0], word["offer"][1]) if word["offer"] else None
                self.job.joined(name, offer, now)
        elif kind == "left":
            self.job.said_left(name)
        elif kind == "measured":
            group = [self.processes[member].here or {} for member in self.job.group if member in self.processes]
            self.figures.keep(kind_of(group), word)
            self._say(told(word))
        elif word["generation"] == self._generation_of(name):
            self.job.beat(name, word["operations"], word["waits"], tuple(word["position"]), word["leaving"], now)

    def _generation_of(self, name: str) -> int:
        """The last generation in which a member got a place."""
        return int(self.board.plans.get(name, {}).get("generation", 0))

    def _pass_on(self, process: Process, event: Event) -> None:
        if event["kind"] == "error":
            self._failed(process, event)
        elif event["kind"] == "log":
            if event.get("message") in self._said and process.rank != 0:
                return  # every newcomer says the same of the data
            self._said.add(str(event.get("message")))
        elif process.rank < 0 and self.job.generation > 0:
            return  # a newcomer's preparations are nobody's interest
        self.on_event({**event, "rank": max(process.rank, 0)})

    def _failed(self, process: Process, event: Event) -> None:
        """The program raised: that is no accident of a process, and would happen again."""
        if self._error is None:
            last = RankFailedError(max(process.rank, 0), 1, event.get("traceback") or event.get("message") or "")
            error = from_wire(event["error"]) if "error" in event else last
            self._error = None if isinstance(error, CollectiveError) else error

    def _ended(self, name: str, process: Process, result: dict[str, Any], now: float) -> None:
        process.ended = True
        self._hurry.set()  # somebody may wait for the slot
        with self.board.change():
            self.board.gone.add(name)
        status = result.get("status")
        self.on_output(f"rank-{name}", result.get("output", ""))
        if result.get("error") and self._error is None:
            self._failed(process, result["error"])
            status = None if self._error is None else status  # it only lost the others
        left, restart = status == wire.LEFT_STATUS or process.released, status == wire.RESTART_STATUS
        if status != 0 and not left and not restart:
            self._last_words = result.get("last_words", "")
            where = f"rank {process.rank}" if process.rank >= 0 else "a new rank"
            how = process.why or result.get("how", "")
            self._log(f"{where} on {process.worker} is lost: {how}")
            if process.why and self._last_words:  # who is frozen cannot say where
                self._log(f"it stood here (all of it is in {result.get('log')}):\n{self._last_words[-4000:]}")
        self._say(self.job.exited(name, status, now, asked=bool(result.get("asked")), left=left, restart=restart))

    def _take_future(self, name: str, process: Process, now: float) -> None:
        """The end of a task as Dask tells it: seldom news, except when the task itself could not run."""
        future = process.future
        if future.status == "finished" and future.result()["num_batches"] <= process.num_batches:
            self._ended(name, process, future.result(), now)
        elif future.status == "error":
            words = "".join(traceback.format_exception(future.exception()))
            self._ended(name, process, {"status": None, "how": "its task failed", "last_words": words}, now)

    def _saw_workers(self, workers: dict[str, policy.Worker], now: float) -> None:
        self.job.saw_workers(workers)
        for name, process in self.processes.items():
            if not process.ended and process.worker not in workers and name in self.job.members:
                self.job.lost_worker(name, now)

    def _bury_lost(self, now: float) -> None:
        """A Dask worker that has gone tells no more how its rank ended."""
        for name in without_worker(self.job, now):
            process, left = self.processes[name], self.job.members[name].left
            self.client.cancel([process.future])
            self._ended(name, process, {"status": wire.LEFT_STATUS if left else None, "how": "its Dask worker is gone"}, now)

    # Actions

    def _do(self, action: policy.Action) -> None:
        match action:
            case Start(worker):
                self._start(worker)
            case End(name, why, dump):
                self._end_member(name, why, dump)
            case Release(name):
                self._release(name)
            case Regroup():
                self._notify("regroup")
            case Break():
                self._notify("break")
            case Form():
                self._form(action)
            case Conclude(name):
                self._plan(Form((name,), name), last=True)
            case Fail(why):
                raise WorkersLostError(why, self._last_words)

    def _start(self, worker: str) -> None:
        name, now = f"m{next(self._numbers)}", time.monotonic()
        key = f"{self.topic}-{name}"
        place = free_place(self.processes.values(), worker)
        env = {
            wire.DRIVER_VARIABLE: f"{self.server.server_address[0]!s}:{self.server.port}",
            wire.SECRET_VARIABLE: self.secret,
            wire.MEMBER_VARIABLE: name,
            wire.PLACE_VARIABLE: str(place),
            wire.LARGEST_VARIABLE: str(self.limits.most),
        }
        order = make_order(self.order, self.env, name=name, job=self.id, env=env)
        order["neighbours"] = min(num_neighbours(self.job.workers, worker), self.limits.most)
        where: dict[str, Any] = {"workers": [worker], "allow_other_workers": False, "resources": {"slot": 1}}
        try:
            future = self.client.submit(run_member, self.topic, order, key=key, pure=False, retries=0, **where)
        except unreachable():
            return  # tried again, until the scheduler has been away for too long
        self.processes[name] = Process(key, worker, place, future)
        self.job.started(name, worker, now)
        future.add_done_callback(lambda done: self._inbox.put({"key": done.key, "done": True}))

    def _end_member(self, name: str, why: str, dump: bool) -> None:
        process = self.processes[name]
        process.why, process.end_at = why, time.monotonic()
        if process.here is None:  # it still waits for its slot
            self.client.cancel([process.future])
            self._ended(name, process, {"status": None, "asked": True, "how": why}, time.monotonic())
            return
        run_aside(self.client, tell, process.key, {"dump": dump}, workers=[process.worker])

    def _release(self, name: str) -> None:
        process = self.processes[name]
        process.released = True
        if process.rank >= 0:
            self._log(f"the slot on {process.worker} is given back: others share the cluster")
        with self.board.change():
            self.board.gone.add(name)  # one that has joined hears it now, and ends
        if process.here is None:
            self.client.cancel([process.future])
            self._ended(name, process, {}, time.monotonic())
        elif self.job.members[name].phase == "starting":
            run_aside(self.client, tell, process.key, {"dump": False}, workers=[process.worker])

    def _notify(self, word: str) -> None:
        with self.board.change():
            for name in self.job.group:
                self.board.notices[name] = word

    def _form(self, form: Form) -> None:
        self._plan(form, last=False)
        self.server.forget(self.job.generation)
        size = len(form.names)
        self.on_event({"kind": "group", "generation": self.job.generation, "size": size, "rank": 0})
        if self.job.generation > 1 or self.limits.most > self.limits.least:
            self._log(f"{size} worker{'s' if size > 1 else ''} (group {self.job.generation})")

    def _plan(self, form: Form, *, last: bool) -> None:
        """Give the members their places."""
        found = [self.processes[name] for name in form.names]
        backend, reason = choose(self.backend, [process.here or {} for process in found], self.figures)
        self._say(reason)
        generation = self.job.generation + 1
        plans = make_plans(form.names, found, backend=backend, generation=generation, source=form.source, last=last)
        names = tuple(sorted(plans, key=lambda name: plans[name]["rank"]))
        policy.formed(self.job, Form(names, form.source), time.monotonic())
        with self.board.change():
            for name, plan in plans.items():
                self.processes[name].rank = plan["rank"]
                self.board.notices[name] = ""
                self.board.plans[name] = plan

    def _say(self, message: str) -> None:
        """Tell the caller something, once."""
        if message and message not in self._said:
            self._said.add(message)
            self._log(message)

    def _log(self, message: str) -> None:
        self.on_event({"kind": "log", "message": message})

    # The end

    def _let_end(self) -> None:
        """Rank 0 has ended well: the others do so, too, if they are given a moment."""
        deadline = time.monotonic() + END_S
        while time.monotonic() < deadline and any(name in self.job.members for name in self.job.group):
            try:
                self._handle(self._inbox.get(timeout=0.1))
            except queue.Empty:
                continue

    def _end(self) -> None:
        """Cancel what still runs and wait until the workers say that the ranks are gone."""
        with self.board.change():
            self.board.closed = True  # who asks hears that it is wanted no more
        if self.client.status != "running":
            return  # the workers see to it themselves
        outputs: dict[str, str] = {}
        with contextlib.suppress(*unreachable()):
            self.client.cancel([process.future for process in self.processes.values()])
            deadline = time.monotonic() + GONE_TIMEOUT_S
            while time.monotonic() < deadline and any(process.runs_on(self.job.workers) for process in self.processes.values()):
                try:
                    message = self._inbox.get(timeout=0.1)
                except queue.Empty:
                    continue
                if "workers" in message:
                    self._saw_workers(message["workers"], time.monotonic())
                elif "result" in message and (process := self.processes.get(name := message["key"].rsplit("-", 1)[-1])) is not None:
                    process.ended = True
                    outputs[f"rank-{name}"] = message["result"]["output"]
            run_aside(self.client, forget_job, self.id)
            self.client.unsubscribe_topic(self.topic)
            self.client.run_on_scheduler(forget_topic, self.topic)
        for name, text in outputs.items():  # now, since what is called may raise
            self.on_output(name, text)
