"""Runs the trials of a study: starts each when it may begin, shows its metrics to the pruner, and writes down how it ended."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from algorithms.catalog import find_algorithm
from algorithms.run import Event, RunSpec
from algorithms.trial import Measure, TrialSpec
from infra.datasets.card import DatasetRef
from infra.errors import AtelierError, InputError, StoreAccessError, StoreUnavailableError
from infra.store import Store
from infra.warm import Ended, Message, WarmJobs
from tasks._tuning.choose import kept, next_trial
from tasks._tuning.plan import Plan, from_optuna, grid_size, grid_values
from tasks._tuning.record import Record
from tasks._tuning.view import View, lag, visible

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

COSTS = {"latency": "latency_ms", "size": "size_mib"}
POLL_S = 0.2


@dataclass
class _Running:
    """A trial that runs, and what was heard of it."""

    view: View
    begin: float
    last_step: int = 0
    pruned_at: float | None = None
    timed_out: bool = False
    outcome: Event | None = None


@dataclass
class Search:
    """One study's trials, from the first or from where a killed run left them.

    Attributes:
        num_trials: how many the study is to have in the end.
        parallel: how many may run at a time now; the study's own number decides what a trial sees.
        time_limit_s: see ``TuneSettings``.
    """

    plan: Plan
    record: Record
    store: Store
    data: DatasetRef
    folder: str
    num_trials: int
    parallel: int
    time_limit_s: float | None
    tell: Callable[[Event], None]
    error: AtelierError | None = None
    _running: dict[int, _Running] = field(default_factory=dict)
    _again: list[int] = field(default_factory=list)
    _begin: float = field(default_factory=time.monotonic)
    _dropped: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._again = [trial.number for trial in self.record.trials() if not trial.state.is_finished()]
        if self.plan.sampler == "grid":
            self.num_trials = min(self.num_trials, grid_size(grid_values(self.plan)))

    @property
    def has_work(self) -> bool:
        return bool(self._again) or len(self.record.trials()) < self.num_trials

    def output(self, number: int) -> str:
        """Where a trial's model lies as long as it may win."""
        return f"{self.folder}/trials/{number:05d}"

    def run(self, jobs: WarmJobs) -> None:
        """Until every trial has ended, or the time has.

        Raises:
            InputError: the first trial, with the config's own options, says that this cannot be done as it is.
            StoreUnavailableError, StoreAccessError, ServiceError: what the trials need is gone; the study goes on with the next call.
        """
        while True:
            while len(self._running) < self.parallel and (number := self._next()) is not None:
                self._start(number, jobs)
            if not self._running:
                return
            message = jobs.next(POLL_S)
            if message is not None:
                self._handle(message, jobs)
            self._check_time(jobs)

    def complete(self) -> dict[int, list[float]]:
        """The values of the trials that completed, by number."""
        return {trial.number: list(trial.values) for trial in self.record.trials() if trial.state.name == "COMPLETE"}

    def _next(self) -> int | None:
        if self._is_over() and (self._running or self.complete()):
            return None
        if self._again:
            return self._again.pop(0)
        trials = self.record.trials()
        number = len(trials)
        ended = {trial.number for trial in trials if trial.state.is_finished()}
        return number if next_trial(ended, number, self.num_trials, visible(number, self._lag)) else None

    @property
    def _lag(self) -> int:
        return lag(int(self.record.course["parallel"]))

    def _is_over(self) -> bool:
        return self.time_limit_s is not None and time.monotonic() - self._begin > self.time_limit_s

    def _start(self, number: int, jobs: WarmJobs) -> None:
        trials = self.record.trials()
        is_new = number == len(trials)
        first = self.record.course["first"]
        fixed = (first[number] if number < len(first) else {}) if is_new else trials[number].params
        view = View(self.plan, trials, number, self._lag, fixed)
        if is_new:
            self.record.begin(view)
        same = self._same(trials, view)
        if same is not None:
            self._repeat(same, view)
            return
        try:
            config = find_algorithm(self.plan.algorithm).config({**self.plan.config, **from_optuna(self.plan.space, view.params)})
        except ValidationError as error:
            self.record.fail(number, view, str(error))
            return
        train = RunSpec(
            verb="train",
            algorithm=self.plan.algorithm,
            config=config.model_dump(mode="json"),
            dataset=self.data,
            workspace=self.store.uri,
            output=self.output(number),
        )
        measure: list[Measure] = [name for name in self.plan.objectives if name != "metric"]
        self._running[number] = _Running(view, time.monotonic())
        jobs.start(number, TrialSpec(train=train, measure=tuple(measure)).model_dump_json())

    def _same(self, trials: list[FrozenTrial], view: View) -> FrozenTrial | None:
        """A trial with the same parameters whose end this one may know."""
        seen = trials[: min(view.number, visible(view.number, self._lag))]
        return next((trial for trial in seen if trial.params == view.params and trial.state.name in ("COMPLETE", "PRUNED")), None)

    def _repeat(self, same: FrozenTrial, view: View) -> None:
        """The same training gives the same metrics."""
        for step, value in sorted(same.intermediate_values.items()):
            self.record.report(view.number, step, value)
        if same.state.name == "PRUNED":
            self.record.prune(view.number, float(same.values[0]), view)
        else:
            self.record.complete(view.number, list(same.values), view, same_as=same.number)
        self._tell_progress()

    def _handle(self, message: Message, jobs: WarmJobs) -> None:
        running = self._running[message.number]
        if message.ended is not None:
            self._end(message.number, running, message.ended)
        elif message.event is not None:
            self._hear(message.number, running, message.event, jobs)

    def _hear(self, number: int, running: _Running, event: Event, jobs: WarmJobs) -> None:
        if event["kind"] == "trial":
            running.outcome = event
        name = f"valid_{self.plan.metric}"
        if event["kind"] != "metrics" or name not in event["values"] or running.pruned_at is not None:
            return
        step, value = int(event["step"]), float(event["values"][name])
        if step <= running.last_step:
            return  # the trial began again because its Dask worker was lost
        running.last_step = step
        self.record.report(number, step, value)
        if self.plan.prunes and running.view.report(step, value):
            running.pruned_at = value
            jobs.stop(number)

    def _end(self, number: int, running: _Running, ended: Ended) -> None:
        del self._running[number]
        if running.pruned_at is not None:
            self.record.prune(number, running.pruned_at, running.view)
        elif running.timed_out and ended.status != 0:
            return  # stays unfinished on record: a call with more time runs it
        elif ended.error is None and running.outcome is not None:
            outcome = running.outcome
            values = [float(outcome["value"]), *(float(outcome[COSTS[name]]) for name in self.plan.objectives[1:])]
            self.record.complete(number, values, running.view, seconds=round(time.monotonic() - running.begin, 3))
        else:
            self._failed(number, running, ended)
        self._drop_losers(number)
        self._tell_progress()

    def _failed(self, number: int, running: _Running, ended: Ended) -> None:
        error = ended.error
        if isinstance(error, StoreUnavailableError | StoreAccessError):
            raise error
        if isinstance(error, InputError) and number == 0 and self.record.course["first"]:
            raise error  # the config's own options cannot be trained with: no use in trying others
        words = str(error) if error is not None else "it was stopped from outside"
        self.error = self.error or error
        self.record.fail(number, running.view, words[-2000:])
        self.tell({"kind": "log", "message": f"trial {number} failed: {words.strip().splitlines()[-1][:200] if words.strip() else '?'}"})

    def _drop_losers(self, number: int) -> None:
        """Models of trials that cannot win any more go at once."""
        keep = kept(self.complete(), higher=self.plan.higher, num_objectives=len(self.plan.objectives))
        trials = self.record.trials()
        for other in sorted({number, *(trial.number for trial in trials if "seconds" in trial.user_attrs)} - keep - self._dropped):
            self.store.delete(self.output(other))
            self._dropped.add(other)

    def _check_time(self, jobs: WarmJobs) -> None:
        if self.time_limit_s is None or not self.complete():
            return
        if time.monotonic() - self._begin > self.time_limit_s + max(2.0, 0.1 * self.time_limit_s):
            for number, running in self._running.items():
                if not running.timed_out:
                    running.timed_out = True
                    jobs.stop(number)

    def _tell_progress(self) -> None:
        trials = self.record.trials()
        event: dict[str, Any] = {"kind": "progress", "phase": "tune", "steps": self.num_trials}
        event["step"] = sum(trial.state.is_finished() for trial in trials)
        if values := self.complete():
            best = max if self.plan.higher else min
            event |= {"metric": best(one[0] for one in values.values()), "metric_name": self.plan.metric}
        self.tell(event)
