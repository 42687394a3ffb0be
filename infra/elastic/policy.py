"""What an elastic job does after which event: a state machine without processes, clocks or threads.

Events change the ``Job``; ``decide`` reads it and says what is to be done next. Times are seconds of one clock, given by the caller.

A member is one attempt of one process, with a name that is never used again. It starts, joins (it has loaded everything and waits for its place), works
in a generation, and ends. A generation is a set of members that work together; any change of the set is a new generation, which begins when every
member of it has joined. Who is left over from the one before keeps its order, so rank 0 is always the oldest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from infra.elastic.giving_back import goes, surplus_of

Phase = Literal["starting", "joined", "working"]


@dataclass(frozen=True)
class Limits:
    """What a job may use and how patient it is; times in seconds."""

    least: int
    most: int
    wait_s: float = 300.0  # below ``least``
    start_s: float = 300.0  # from the order to joining
    settle_s: float = 10.0  # how long the first generation waits for members that have begun to start
    grow_settle_s: float = 3.0  # the same for a later one
    beat_s: float = 15.0  # without a word: frozen, or cut off
    hang_s: float = 300.0  # in one place while others wait for it
    rejoin_s: float = 30.0  # from a broken generation to joining again
    worker_failures: int = 2  # of one Dask worker within ``cooldown_s``: it is left out for that long
    cooldown_s: float = 60.0
    barren: int = 6  # deaths without a commit further on between them
    save_s: float = 60.0  # for the last checkpoint of a job that ends for want of workers
    strange_exits: int = 2  # exit statuses of the program's own without a word
    leave_s: float = 9.0  # for a member whose Dask worker has gone to commit and leave
    silent_s: float = 1.5  # without a word from such a member: it went with its Dask worker


@dataclass
class Member:
    name: str
    worker: str
    since: float
    phase: Phase = "starting"
    offer: tuple[int, int] | None = None  # epoch and step that it can give to others
    position: tuple[int, int] = (-1, -1)  # of its last commit
    joined_at: float = 0.0
    beat_at: float = 0.0
    moved_at: float = 0.0  # when its count of operations last rose
    operations: int = -1
    waits: bool = False  # for the other ranks, inside an operation of all
    leaving: bool = False
    ending: bool = False
    released: bool = False
    left: bool = False  # it has committed and said so
    alone_since: float | None = None  # when its Dask worker went


@dataclass(frozen=True)
class Worker:
    """A Dask worker as discovery sees it.

    Attributes:
        slots: that this job could hold there, those it holds included.
        keep: how many of those it holds it may keep, others want the rest; None: all.
        size: slots that it has, whoever holds them; 0: not known.
    """

    slots: int
    closing: bool = False
    keep: int | None = None
    size: int = 0


@dataclass(frozen=True)
class Start:
    worker: str


@dataclass(frozen=True)
class End:
    """Kill a member; ``dump``: have it write down its stacks before."""

    name: str
    why: str
    dump: bool = False


@dataclass(frozen=True)
class Release:
    """Let a member that has no place in a group go: its slot is given back."""

    name: str


@dataclass(frozen=True)
class Regroup:
    """Tell working members to come together anew at their next commit."""


@dataclass(frozen=True)
class Break:
    """Tell working members that their generation cannot go on."""


@dataclass(frozen=True)
class Form:
    """Begin a generation with these members, in the order of ranks; ``source`` has the state, None: nobody has any."""

    names: tuple[str, ...]
    source: str | None


@dataclass(frozen=True)
class Conclude:
    """Have a member write a checkpoint of what it has, and end: the job is about to fail."""

    name: str


@dataclass(frozen=True)
class Fail:
    why: str


Action = Start | End | Release | Regroup | Break | Form | Conclude | Fail


@dataclass
class Job:
    """All that is known."""

    limits: Limits
    workers: dict[str, Worker] = field(default_factory=dict)
    members: dict[str, Member] = field(default_factory=dict)
    generation: int = 0
    group: tuple[str, ...] = ()
    forming_since: float | None = None  # when the members that work began to come together anew
    regrouping: bool = False
    broken: bool = False
    break_told: bool = False
    position: tuple[int, int] = (-1, -1)  # of the last commit of all
    short_since: float | None = None
    concluding_since: float | None = None
    failures: dict[str, list[float]] = field(default_factory=dict)
    barren: int = 0
    strange: int = 0
    finishing: bool = False
    done: bool = False

    # Events

    def saw_workers(self, workers: Mapping[str, Worker]) -> None:
        self.workers = dict(workers)

    def lost_worker(self, name: str, now: float) -> None:
        """The Dask worker of a member is no longer known: it was killed, and the member with it; or it retires, and the member lives for a while."""
        member = self.members[name]
        if member.alone_since is None:
            member.alone_since, member.leaving = now, True

    def said_left(self, name: str) -> None:
        if name in self.members:
            self.members[name].left = True

    def started(self, name: str, worker: str, now: float) -> None:
        self.members[name] = Member(name, worker, now)

    def joined(self, name: str, offer: tuple[int, int] | None, now: float) -> None:
        """It waits for its place; from a member that works: it has left its generation."""
        member = self.members.get(name)
        if member is None:
            return
        if member.phase == "working" and not self.regrouping:
            self.broken = True  # it met an error before we did
        if member.phase != "joined":
            member.phase, member.joined_at = "joined", now
        member.offer, member.beat_at = offer, now

    def beat(self, name: str, operations: int, waits: bool, position: tuple[int, int], leaving: bool, now: float) -> None:
        """A sign of life: how many operations of all ranks it began, whether it waits inside one, where its last commit is."""
        member = self.members.get(name)
        if member is None:
            return
        if operations != member.operations:
            member.operations, member.moved_at = operations, now
        if position > member.position:
            member.position = position
            if position > self.position:
                if self.position >= (0, 0):
                    self.barren = 0
                    self.failures.pop(member.worker, None)
                self.position = position
        member.beat_at, member.waits = now, waits
        member.leaving = member.leaving or leaving

    def exited(self, name: str, status: int | None, now: float, *, asked: bool, left: bool, restart: bool) -> str:
        """A member's process has ended.

        Args:
            status: None or negative: it was killed.
            asked: the job ended it, by an ``End`` or because its slot was wanted back.
            left: it left its group in good order.
            restart: it could not leave a broken generation and asks to be started again.

        Returns:
            What follows for its Dask worker, in words; empty: nothing.
        """
        member = self.members.pop(name, None)
        if member is None:
            return ""
        if status == 0:
            self.finishing = True
            self.done = self.done or (bool(self.group) and name == self.group[0])
            return ""
        if self.group and name == self.group[0]:
            self.finishing = False  # the others may have ended well: what rank 0 had to do is not done
        if member.phase == "working" and name in self.group and not left:
            self.broken = True
        if left or restart or (asked and not member.ending):
            return ""
        self.barren += 1
        self.strange += status is not None and 0 < status < 128
        times = self.failures.setdefault(member.worker, [])
        times.append(now)
        left_out_s = self._left_out_s(times)
        return f"{member.worker} is left out for {left_out_s:g} s: {len(times)} ranks died there" if left_out_s else ""

    # What follows from them

    def left_out(self, worker: str, now: float) -> bool:
        """Whether a Dask worker failed several times in a row, the last time of late; each further failure doubles the time."""
        times = self.failures.get(worker, [])
        return bool(times) and now - times[-1] < self._left_out_s(times)

    def _left_out_s(self, times: list[float]) -> float:
        """How long since the last of a worker's failures; 0: it has had too few."""
        more = len(times) - self.limits.worker_failures
        return self.limits.cooldown_s * 2 ** min(more, 6) if more >= 0 else 0.0

    def free(self, now: float) -> list[str]:
        """A worker for each slot that is free and may be used; the least used first, so that members spread."""
        used = Counter(member.worker for member in self.members.values())
        places = [
            (index, name)
            for name, worker in self.workers.items()
            if not worker.closing and not self.left_out(name, now)
            for index in range(used[name], worker.slots)
        ]
        return [name for _, name in sorted(places, key=lambda place: place[0])]


def decide(job: Job, now: float) -> list[Action]:
    """Everything that is to be done at this moment."""
    limits = job.limits
    if job.done:
        return []
    if job.strange >= limits.strange_exits:
        return [Fail("its program ended by itself, again and again")]
    if job.barren >= limits.barren:
        return [Fail(f"{job.barren} of its processes died and no step was done between them")]
    ends = _hopeless(job, now)
    for end in ends:
        job.members[end.name].ending = True
    living = [member for member in job.members.values() if not member.ending]
    if job.finishing:
        return [*ends]
    surplus = surplus_of(job, living)
    staying = [member for member in living if not goes(job, member) and member.name not in surplus]
    actions: list[Action] = [*ends]
    for member in living:
        if member.name in surplus and member.phase != "working" and not member.released:
            member.released = True
            actions.append(Release(member.name))
    free = job.free(now)
    if job.generation == 0 and len(free) + len(staying) < limits.least:
        return [*actions, *_group(job, living, staying, now)]  # half of what it needs would only be kept from others
    actions += [Start(worker) for worker in free[: limits.most - len(staying)]]
    short = len(staying) + sum(isinstance(action, Start) for action in actions) < limits.least
    if not short:
        job.short_since = None
    elif job.short_since is None:
        job.short_since = now
    if job.short_since is not None and now - job.short_since > limits.wait_s:
        return _conclude(job, living, now)
    return actions + _group(job, living, staying, now)


def _conclude(job: Job, living: Sequence[Member], now: float) -> list[Action]:
    """Have the best commit written down, then fail."""
    why = Fail(f"for {job.limits.wait_s:g} s it had fewer than the {job.limits.least} workers that it needs")
    if job.concluding_since is not None:
        busy = any(member.name in job.group for member in living) and now - job.concluding_since < job.limits.save_s
        return [] if busy else [why]
    offering = [member for member in living if member.phase == "joined" and member.offer is not None]
    if not offering:
        return [why]
    job.concluding_since = now
    return [Conclude(max(offering, key=lambda member: member.offer or (-1, -1)).name)]


def _hopeless(job: Job, now: float) -> list[End]:
    """Members that will not get any further by themselves."""
    limits = job.limits
    found: list[End] = []
    group = [job.members[name] for name in job.group if name in job.members]
    for member in job.members.values():
        if member.ending:
            continue
        if member.phase == "starting" and now - member.since > limits.start_s:
            found.append(End(member.name, f"it did not start within {limits.start_s:g} s", dump=True))
        elif member.phase != "starting" and now - member.beat_at > limits.beat_s:
            found.append(End(member.name, f"no word came from it for {limits.beat_s:g} s: frozen, or its machine cannot be reached"))
        elif member.phase == "working" and member in group and _hangs(member, group, now, limits.hang_s):
            found.append(End(member.name, f"it hung for {limits.hang_s:g} s while others waited for it", dump=True))
    forming = job.forming_since
    if job.broken and forming is not None and now - forming > limits.rejoin_s:
        late = [member for member in group if member.phase == "working" and not member.ending]
        known = {end.name for end in found}
        found += [End(member.name, "it did not leave its broken group", dump=True) for member in late if member.name not in known]
    return found


def _hangs(member: Member, group: Sequence[Member], now: float, hang_s: float) -> bool:
    """It stands still, and so do all others, who wait for it; or all wait, and it is behind the others."""
    if len(group) < 2 or any(now - other.moved_at <= hang_s for other in group):
        return False
    if not all(other.waits for other in group):
        return not member.waits and any(other.waits for other in group)
    return member.operations < max(other.operations for other in group)


def _group(job: Job, living: Sequence[Member], staying: Sequence[Member], now: float) -> list[Action]:
    """Whether the members shall come together anew, and whether they can."""
    limits = job.limits
    working = [member for member in living if member.phase == "working" and member.name in job.group]
    joined = [member for member in staying if member.phase == "joined"]
    if len(working) > 1 and all(member.waits and now - member.moved_at > limits.hang_s for member in working):
        job.broken = True  # nobody is behind: what hangs is the line between them
    if working and not job.broken and not job.regrouping:
        if not _wants_change(job, living, staying, now):
            return []
        job.regrouping, job.forming_since = True, now
        return [Regroup()]
    if working and job.broken and not job.break_told:
        job.break_told, job.forming_since = True, now
        return [Break()]
    if working:
        return []  # they come when they have committed, or noticed
    if len(joined) < limits.least:
        return []
    coming = [member for member in staying if member.phase == "starting"]
    waited = now - min(member.joined_at for member in joined)
    patience = limits.settle_s if job.generation == 0 else 0.0
    if coming and len(joined) < limits.most and waited < patience:
        return []
    return [_form(job, joined)]


def _wants_change(job: Job, living: Sequence[Member], staying: Sequence[Member], now: float) -> bool:
    """Whether a generation that works well shall end at its next commit: somebody leaves, or newcomers wait."""
    working = [member for member in living if member.phase == "working"]
    going = [member for member in working if member not in staying]
    if going:
        return len(staying) > 0
    newcomers = [member for member in staying if member.phase == "joined"]
    if not newcomers or len(working) >= job.limits.most:
        return False
    coming = [member for member in staying if member.phase == "starting"]
    return not coming or now - min(member.joined_at for member in newcomers) > job.limits.grow_settle_s


def _form(job: Job, joined: Sequence[Member]) -> Form:
    before = {name: rank for rank, name in enumerate(job.group)}
    ordered = sorted(joined, key=lambda member: before.get(member.name, len(before)))[: job.limits.most]
    offering = [member for member in joined if member.offer is not None]
    source = max(offering, key=lambda member: (member.offer, -before.get(member.name, len(before)))) if offering else None
    if source is not None and source not in ordered:
        ordered[-1] = source
    return Form(tuple(member.name for member in ordered), source.name if source else None)


def formed(job: Job, form: Form, now: float) -> None:
    """The generation has begun."""
    job.generation += 1
    job.group, job.forming_since = form.names, None
    job.regrouping = job.broken = job.break_told = False
    for name in form.names:
        member = job.members[name]
        member.phase, member.beat_at, member.moved_at, member.operations, member.waits = "working", now, now, -1, False
