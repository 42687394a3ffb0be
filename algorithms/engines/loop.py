"""The one training loop of all networks.

It knows data as ``Samples``, a network, a loss, and ``Collectives``. A step is a step of all ranks on one batch: each rank takes its share, divides by
the size of the whole batch, and the gradients are added up. So one rank and several agree, whatever the shares (batch normalisation, which sees
a rank's share alone, is the exception).
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from algorithms.compression.distilling import Teacher
from algorithms.engines import batches, checkpoints, hardware, optimizers, schedules
from algorithms.engines.augmenting import Phase, judging_loss, mixed_loss, weigh_classes
from algorithms.engines.averaging import WeightAverage
from algorithms.engines.buckets import GradientBuckets, average_buffers, broadcast_module
from algorithms.engines.elastic import Elastic
from algorithms.engines.losses import make_loss
from algorithms.engines.profiling import StepClock
from algorithms.engines.progress import Reporter
from algorithms.engines.saver import Position, Saver
from algorithms.engines.scoring import Prepare, judge, run_network, scale_targets
from algorithms.engines.sync_norm import synchronise
from algorithms.engines.torch_config import TorchConfig
from algorithms.engines.torch_engine import TorchData
from algorithms.run import Run
from infra.errors import CollectiveError, TrainingDivergedError
from infra.membership import MembershipChanged


@dataclass(frozen=True)
class Trained:
    """The weights to ship and how they came to be; the weights are None on all ranks but 0."""

    weights: checkpoints.Tensors | None
    history: dict[str, Any]


class Training:
    """One training in this process, as one rank."""

    def __init__(
        self,
        config: TorchConfig,
        data: TorchData,
        model: nn.Module,
        prepare: Prepare,
        run: Run,
        device: torch.device,
        precision: str,
        teacher: Teacher | None = None,
        phases: Callable[[int], Phase] = lambda epoch: Phase(),
    ) -> None:
        self.config, self.data, self.model, self.prepare, self.run = config, data, model, prepare, run
        self.teacher, self.phases, self.phase = teacher, phases, phases(0)
        self.device, self.precision = device, precision
        self.collectives = run.collectives
        self.num_samples = len(data.samples["train"])
        self.normalises = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
        largest = self.collectives.membership.largest_size if self.collectives.membership else self.collectives.size
        self.at = Position()
        self.pace = batches.Pace(self.num_samples, [schedules.batch_size(config, epoch) for epoch in range(config.epochs)])
        self.pace.check(largest, self.least, largest if config.scale_batch else 1)
        self.replan()
        self.metric, self.higher = ("accuracy", True) if data.target == "class" else ("rmse", False)
        broadcast_module(model, self.collectives)
        self.average = WeightAverage(model, config.ema_decay) if config.ema_decay else None
        self.loss = make_loss(config, data)
        self.training_loss = weigh_classes(self.loss, config, data, device)
        self.judging_loss = judging_loss(self.loss, config, data, device)
        self.optimizer = optimizers.make_optimizer(config, model)
        self.penalised = optimizers.penalised(model) if config.l1 or config.l2 else []
        if config.sync_batchnorm:
            synchronise(model, self.collectives)
        self.trained = hardware.compiled(model, config.compile, device, self.pace.total)
        self.buckets = self.make_buckets()
        self.clock = StepClock(device)
        self.best: checkpoints.Tensors | None = None
        self.loss_sum = torch.zeros((), dtype=torch.float64)
        self.reporter = Reporter(run, config.epochs, self.pace)
        self.saver = Saver(self)
        self.elastic = Elastic(self)

    def make_buckets(self) -> GradientBuckets:
        """Buckets for the ranks that there are now."""
        return GradientBuckets(self.model, self.collectives, compression=self.config.gradient_compression)

    @property
    def in_step(self) -> bool:
        """Whether ranks talk to each other within a forward pass."""
        return self.config.sync_batchnorm and self.collectives.size > 1

    @property
    def least(self) -> int:
        """Fewest samples that a rank may get at once."""
        return 2 if self.normalises and not self.in_step else 1

    def fit(self) -> Trained:
        """Train to the end, from the newest checkpoint if there is one."""
        valid = self.data.samples.get("valid")
        with contextlib.ExitStack() as stack:
            stack.callback(self.reporter.close)
            stack.callback(lambda: self.buckets.close())
            reader = stack.enter_context(batches.Reader(self.data.samples["train"], self.device))
            valid_reader = stack.enter_context(batches.Reader(valid, self.device)) if valid is not None and len(valid) else None
            self.elastic.begin()
            while self.at.epoch < self.config.epochs and not self.at.stopped:
                try:
                    self._epoch(reader, valid_reader)
                except (CollectiveError, MembershipChanged):
                    if not self.elastic.active:
                        raise
                    self.elastic.recover()
            self.saver.close()
        return Trained(self.best if self.run.is_main else None, self._history())

    @property
    def steps(self) -> int:
        """Steps of the epoch that is under way."""
        return self.pace.steps(self.at.epoch)

    def _epoch(self, reader: batches.Reader, valid_reader: batches.Reader | None) -> None:
        self.model.train()
        self.phase = self.phases(self.at.epoch)
        started = time.monotonic() - self.at.seconds
        first_step = self.at.step
        parts: list[batches.Batch] = []
        plan = list(self._plan(first_step))
        with contextlib.closing(reader.batches((indices for step in plan for indices in step), self.phase.fit)) as feed:
            self.clock.start()
            for step, indices in enumerate(plan, start=first_step):
                parts = [next(feed) for _ in indices]
                self.clock.lap("data")
                loss = self._step(step, parts)
                self.at.step = step + 1
                self.at.seconds = time.monotonic() - started
                self.reporter.step(self.at.epoch, self.at.step, loss, self._batch_size(step))
                if self.at.step < self.steps:
                    self.saver.after_step()
                    self.elastic.after_step()
                self.clock.step()
        self._end_epoch(valid_reader, started)

    def _plan(self, first_step: int) -> Iterator[list[np.ndarray]]:
        """For every step of the epoch the parts of this rank's share of the batch: int64 indices."""
        order = batches.epoch_order(self.config.seed, self.at.epoch, self.num_samples)
        for step in range(first_step, self.steps):
            first, last = batches.share(*self.pace.bounds(self.at.epoch, step), self.collectives.rank, self.collectives.size)
            # Synchronised normalisation talks in every part, so all ranks need as many as the one with the smallest share.
            count = self._batch_size(step) // self.collectives.size if self.in_step else last - first
            parts = batches.num_parts(count, self.config.accumulation, self.least)
            yield np.array_split(order[first:last], parts)

    def _batch_size(self, step: int) -> int:
        first, last = self.pace.bounds(self.at.epoch, step)
        return last - first

    @property
    def _scale(self) -> int:
        """How much larger than ``batch_size`` a batch is, and the learning rate with it (Goyal et al. 2017, arXiv 1706.02677)."""
        return self.collectives.size if self.config.scale_batch else 1

    def seen(self) -> int:
        """Samples of this epoch that are done."""
        return self.pace.bounds(self.at.epoch, self.at.step - 1)[1] if self.at.step else self.at.origin

    def replan(self) -> None:
        """Count the steps of the epoch from its ``origin`` on."""
        self.pace.replan(self.at.epoch, self.at.origin, self._scale)

    def regrouped(self, loss_sum: float, seen: int) -> None:
        """The training was put to a commit, in a group of another size perhaps, ``seen`` samples into the epoch."""
        self.loss_sum = torch.tensor(loss_sum, dtype=torch.float64)
        self.replan_from(seen)

    def replan_from(self, seen: int) -> None:
        if self.config.scale_batch and seen != self.at.origin:
            self.at.origin, self.at.step = seen, 0
        self.replan()

    def _progress(self, step: float) -> float:
        """Epochs done before ``step``, with fraction."""
        return self.at.epoch + (self.at.origin / self.num_samples + (1 - self.at.origin / self.num_samples) * (step / self.steps))

    def _step(self, step: int, parts: list[batches.Batch]) -> Callable[[], float]:
        """One optimizer step; returns a way to read the mean loss of this rank's share, which waits for the device."""
        whole = self._batch_size(step)
        schedules.set_rates(self.optimizer.param_groups, self.config, self._progress(step), self._scale)
        self.buckets.clear()
        self.clock.lap("optimizer")
        summed = torch.zeros((), device=self.device)
        for number, (inputs, targets) in enumerate(parts, start=1):
            self.buckets.reduce_now = number == len(parts)
            loss = self._losses(inputs, targets).sum()
            self.clock.lap("forward")
            (loss / whole).backward()
            summed += loss.detach()
            self.clock.lap("backward")
        self.loss_sum = self.loss_sum.to(self.device) + summed
        self.buckets.send_rest()
        self.elastic.ask(step)
        self.buckets.finish()
        self.clock.lap("reduce")
        if self.penalised:
            optimizers.add_penalties(self.penalised, self.config.l1, self.config.l2)
        if self.config.clip_norm:
            self.buckets.clip(self.config.clip_norm)
        self.optimizer.step()
        if self.average is not None:
            self.average.update(self.pace.done(self.at.epoch, step + 1))
        self.clock.lap("optimizer")
        share = sum(len(targets) for _, targets in parts)
        return lambda: float(summed) / share

    def _losses(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The loss of every sample [n], after augmentation, and with the teacher's word if there is one."""
        shares = None
        augment = self.phase.augment
        if augment is None:
            prepared = self.prepare(inputs, True)
        else:
            prepared, shares = augment.mix(self.prepare(augment.change(inputs, targets), True))
        outputs = run_network(self.trained, prepared, self.data, self.precision)
        losses = mixed_loss(self.training_loss, outputs, scale_targets(targets, self.data), shares)
        return losses if self.teacher is None else self.teacher.mix(losses, outputs, prepared, self.data, self.precision)

    @property
    def shipped(self) -> nn.Module:
        """The network that is judged and kept."""
        return self.model if self.average is None else self.average.module

    def _end_epoch(self, valid_reader: batches.Reader | None, started: float) -> None:
        total = self.loss_sum.double().cpu().reshape(1)
        self.collectives.all_reduce(total, "sum")
        train_loss = float(total) / self.num_samples
        if not math.isfinite(train_loss):
            raise TrainingDivergedError(self.at.epoch + 1, self.config.learning_rate)
        seconds = time.monotonic() - started
        rate = schedules.learning_rate(self.config, self._progress(self.steps - 1)) * self._scale
        entry: dict[str, float] = {"epoch": self.at.epoch + 1, "train_loss": train_loss, "learning_rate": rate}
        average_buffers(self.model, self.collectives)
        if self.average is not None:
            average_buffers(self.average.module, self.collectives)
        if valid_reader is not None:
            self.reporter.validating(self.at.epoch)
            self.model.eval()
            found = judge(
                self.shipped,
                self.prepare,
                valid_reader,
                self.data,
                self.judging_loss,
                self.collectives,
                precision=self.precision,
                batch_size=max(32, self.pace.batch_sizes[self.at.epoch] // self.collectives.size // self.config.accumulation),
            )
            entry |= {f"valid_{name}": value for name, value in found.items()}
        entry |= {"seconds": time.monotonic() - started, "samples_per_s": self.num_samples / max(seconds, 1e-9)}
        self.at.epochs.append(entry)
        self.at.epoch, self.at.step, self.at.origin, self.at.seconds = self.at.epoch + 1, 0, 0, 0.0
        self.replan()
        self.loss_sum = torch.zeros((), dtype=torch.float64)
        if self._is_best():
            self.at.best_epoch = self.at.epoch
            self.best = checkpoints.copy_state(self.shipped) if self.run.is_main or self.elastic.active else None
        patience = self.config.early_stopping
        self.at.stopped = bool(patience) and valid_reader is not None and self.at.epoch - self.at.best_epoch >= patience
        self.reporter.epoch(entry)
        self.saver.after_epoch()
        self.elastic.after_step()

    def _is_best(self) -> bool:
        """Whether the epoch that just ended is the best: by the metric, then by the loss; without validation the last always is.

        By the loss alone where classes are balanced.
        """
        name = f"valid_{self.metric}"
        if not self.at.best_epoch or name not in self.at.epochs[-1]:
            return True
        sign = 1 if self.higher else -1
        now, best = self.at.epochs[-1], self.at.epochs[self.at.best_epoch - 1]
        if self.judging_loss is not self.loss:
            return now["valid_loss"] < best["valid_loss"]
        return (sign * now[name], -now["valid_loss"]) > (sign * best[name], -best["valid_loss"])

    def _history(self) -> dict[str, Any]:
        return {
            "epochs": self.at.epochs,
            "best_epoch": self.at.best_epoch,
            "metric": self.metric,
            "num_parameters": sum(weight.numel() for weight in self.model.parameters()),
            "world_size": self.collectives.size,
            "precision": self.precision,
            "device": self.device.type,
            "stopped_early": self.at.stopped,
            "compiled": self.trained is not self.model,
            "profile": self.clock.summary(self.collectives),
        }
