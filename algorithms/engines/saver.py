"""When a training saves itself, what goes into a checkpoint, and going on from one."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import nn

from algorithms.engines import checkpoints
from algorithms.engines.buckets import average_buffers

if TYPE_CHECKING:
    from algorithms.engines.loop import Training

_FIRST_AFTER_S = 5.0
_LEAST_BETWEEN_S = 2.0  # the end of an epoch is no reason for a checkpoint sooner than this after the last


@dataclass
class Position:
    """How far a training is; a JSON value.

    ``origin`` is the place in the epoch's order at which the present plan of the epoch begins, and ``step`` counts from there. It is 0, except where the
    size of a batch follows the number of workers and that changed within the epoch.
    """

    epoch: int = 0
    step: int = 0
    origin: int = 0
    epochs: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    stopped: bool = False
    seconds: float = 0.0


class Saver:
    """When checkpoints are due, what goes into them, and going on from them.

    Ranks must agree on when, but only rank 0 looks at a clock; it tells the others at agreed steps, and with each word the step of the next.
    """

    def __init__(self, training: Training) -> None:
        self.training = training
        self.active = bool(training.run.spec.checkpoints)
        self.saved_at = time.monotonic()
        self.interval = min(training.config.checkpoint_every_s, _FIRST_AFTER_S)
        self.writer: checkpoints.CheckpointWriter | None = None
        self._identity = {"config": training.config.model_dump(mode="json"), "dataset": training.run.spec.dataset.digest}
        self.regroup()

    def regroup(self) -> None:
        """The ranks are others: agree anew, and write where this one is rank 0."""
        self.countdown = 2
        if not (self.active and self.training.run.is_main):
            self.writer = None
        elif self.writer is None:
            self.writer = checkpoints.CheckpointWriter(self.training.run.store, self.training.run.spec.checkpoints)

    def resume(self) -> None:
        """Put the training where its newest checkpoint says; every rank reads it."""
        if not self.active:
            return
        training, spec = self.training, self.training.run.spec
        found = checkpoints.list_checkpoints(training.run.store, spec.checkpoints) if training.run.is_main else []
        key = training.collectives.broadcast_object(found[-1] if found else None)
        if key is None:
            return
        files, state = checkpoints.load_checkpoint(training.run.store, key)
        if state["for"] != self.identity():
            training.reporter.log("Found checkpoints of other options or data; starts anew.")
            return
        checkpoints.restore_state(training.model, files["model"])
        if training.average is not None:
            checkpoints.restore_state(training.average.module, files["average"])
        checkpoints.restore_optimizer(training.optimizer, files["optimizer"], state["optimizer"])
        training.best = files.get("best") if training.run.is_main else None
        training.at = Position(**state["position"])
        ranks = state["ranks"]
        if len(ranks) == training.collectives.size:
            mine = ranks[training.collectives.rank]
            checkpoints.restore_random_state(mine["random"], training.device)
            training.loss_sum = torch.tensor(mine["loss_sum"], dtype=torch.float64)
        else:  # another number of workers: what was summed goes to one of them, and random numbers start anew
            total = sum(rank["loss_sum"] for rank in ranks) if training.run.is_main else 0.0
            training.loss_sum = torch.tensor(total, dtype=torch.float64)
            torch.manual_seed(
                training.config.seed * 1000 + training.collectives.rank + 1_000_003 * (training.at.epoch + 1) + training.at.step
            )
        training.replan_from(state["seen"]) if len(ranks) != training.collectives.size else training.replan()
        training.reporter.resumed(training.at.epochs, training.at.epoch, training.at.step)

    def after_step(self) -> None:
        """Save within an epoch, if it is time."""
        if not self.active:
            return
        every = self.training.config.checkpoint_every_steps
        done = self.training.pace.done(self.training.at.epoch, self.training.at.step)
        due = bool(every) and done % every == 0
        self.countdown -= 1
        if self.countdown <= 0:
            due = self._ask_main(done) or due
        if due:
            self._save()

    def _ask_main(self, done: int) -> bool:
        """Whether it is time; and how many steps to go until the next question, about a tenth of the interval."""
        since = time.monotonic() - self.saved_at
        wait_s = min(self.interval / 10, max(self.interval - since, 0.0) or self.interval)
        steps = max(1.0, wait_s / max(self.training.reporter.seconds_per_step(), 1e-4))
        word = torch.tensor([float(since >= self.interval), steps], dtype=torch.float64)
        self.training.collectives.broadcast(word)
        self.countdown = int(word[1])
        return bool(word[0])

    def after_epoch(self) -> None:
        """Save at the end of an epoch, unless the last checkpoint is only just written; the end of the training always is saved."""
        if not self.active:
            return
        training = self.training
        last = training.at.epoch == training.config.epochs or training.at.stopped
        word = torch.tensor([float(last or time.monotonic() - self.saved_at >= _LEAST_BETWEEN_S)])
        training.collectives.broadcast(word)
        if word[0]:
            self._save()

    def _save(self) -> None:
        training = self.training
        mine = {"random": checkpoints.random_state(training.device), "loss_sum": float(training.loss_sum)}
        ranks = training.collectives.all_gather_object(mine)
        model = self._averaged(training.model)
        average = self._averaged(training.average.module) if training.average is not None else None
        self.saved_at, self.interval = time.monotonic(), training.config.checkpoint_every_s
        if self.writer is None:
            return
        tensors, rest = checkpoints.optimizer_state(training.optimizer)
        files = {"model": model, "optimizer": tensors}
        files |= {"average": average} if average is not None else {}
        files |= {"best": training.best} if training.best is not None else {}
        # The position's lists go on growing while the thread writes: a copy.
        state = {"for": self.identity(), "position": asdict(training.at), "seen": training.seen(), "optimizer": rest, "ranks": ranks}
        self.writer.save(training.at.epoch, training.at.step, files, state)

    def _averaged(self, module: nn.Module) -> checkpoints.Tensors:
        """The module's state with the mean of all ranks' statistics, while the ranks keep their own.

        Statistics are moving averages, so they are linear: going on from their mean gives the mean that would have been.
        """
        state = checkpoints.copy_state(module)
        if self.training.collectives.size > 1:
            shadow = {name: buffer.detach().clone() for name, buffer in module.named_buffers() if buffer.is_floating_point()}
            average_buffers(module, self.training.collectives)
            state |= {name: tensor for name, tensor in checkpoints.copy_state(module).items() if name in shadow}
            for name, buffer in module.named_buffers():
                if name in shadow:
                    buffer.copy_(shadow[name])
        return state

    def save_and_end(self) -> NoReturn:
        """Write a checkpoint, then end this process: the training is given up for now."""
        membership = self.training.collectives.membership
        assert membership is not None
        if self.active:
            self._save()
        self.close()
        membership.leave()

    def identity(self) -> dict[str, Any]:
        """What a checkpoint or commit has to be of to be of this training."""
        return self._identity

    def close(self) -> None:
        """Return when the last checkpoint is published."""
        if self.writer is not None:
            try:
                self.writer.wait()
            finally:
                self.writer.close()
