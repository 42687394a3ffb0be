"""Training in a group that changes: commits of all that a training is, going back to the last one, and giving it to newcomers.

A commit is a copy of weights, optimizer, averages, the best weights so far and the position, in memory that outlives this process
(``infra.elastic.memory``). All ranks commit after the same steps. After a failure everybody goes back to the newest commit that anybody has; where the
group only grows or shrinks, that happens at a commit, so nothing is lost. In a group that never changes nothing of this happens.
"""

from __future__ import annotations

import hashlib
import math
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch

from algorithms.engines import checkpoints
from algorithms.engines.buckets import broadcast_module
from algorithms.engines.saver import Position
from infra.errors import CollectiveError
from infra.membership import MembershipChanged

if TYPE_CHECKING:
    from algorithms.engines.loop import Training

_COST = 0.01  # of the time may go into commits, where their distance is not set by hand
_MOST_BETWEEN_S = 30.0  # so that leaving and joining do not take for ever where commits are dear
_FIRST_AFTER = 2
_ALIGN = 64
Tensors = dict[str, torch.Tensor]


class Elastic:
    """A training's side of the changing group."""

    def __init__(self, training: Training) -> None:
        self.training = training
        self.membership = training.collectives.membership
        self.countdown = _FIRST_AFTER
        self._cost_s = 0.0  # of a commit, with the waiting for others
        self._committed_at = time.monotonic()
        self._steps = 0  # since then
        self._versions: dict[int, int] = {}  # by file of the memory: epoch of the best weights that lie in it

    @property
    def active(self) -> bool:
        return self.membership is not None

    def begin(self) -> None:
        """Get into the first group, with the state of those who are there, or of a process of before, or of a checkpoint."""
        if self.membership is None:
            self._start()
        else:
            self.recover()

    def _start(self) -> None:
        # Ranks differ from here on: each drops out other activations and shifts its pictures otherwise.
        torch.manual_seed(self.training.config.seed * 1000 + self.training.collectives.rank)
        self.training.saver.resume()

    def recover(self) -> None:
        """Get into the next group and to the newest commit that anybody in it has."""
        assert self.membership is not None
        while True:
            source = self.membership.reset(self._offer())
            try:
                self._take_over(source)
                return
            except CollectiveError:
                continue  # somebody was lost meanwhile

    def _offer(self) -> tuple[int, int] | None:
        found = self.membership.memory.latest() if self.membership is not None else None
        if found is None or found[0]["for"] != self.training.saver.identity():
            return None
        epoch, seen = found[0]["offer"]
        return int(epoch), int(seen)

    def _take_over(self, source: int | None) -> None:
        training, membership = self.training, self.membership
        assert membership is not None
        training.buckets.close()
        training.buckets = training.make_buckets()
        training.saver.regroup()
        self.countdown = _FIRST_AFTER
        if source is None:
            broadcast_module(training.model, training.collectives)
            self._start()
        else:
            self._spread(source)
            description = self._restore()
            training.regrouped(description["loss_sum"] if training.run.is_main else 0.0, description["offer"][1])
            self._seed()
            training.reporter.resumed(training.at.epochs, training.at.epoch, training.at.step)
        self._check_digests()
        if membership.last:
            training.saver.save_and_end()
        self._commit(float(training.loss_sum) if source is None else description["loss_sum"])

    def _spread(self, source: int) -> None:
        """Give everybody the source's commit, if somebody has another one or none."""
        training, memory = self.training, self.membership.memory  # type: ignore[union-attr]
        offers = training.collectives.all_gather_object(self._offer())
        if all(offer == offers[source] for offer in offers):
            return
        mine = training.collectives.rank == source
        found = memory.latest() if mine else None
        description, length = training.collectives.broadcast_object((found[0], len(found[1])) if found else None, source)
        if found is not None:
            training.collectives.broadcast(torch.frombuffer(found[1], dtype=torch.uint8), source)
            return
        data, _ = memory.begin(description, length)
        self._versions.clear()
        training.collectives.broadcast(torch.frombuffer(data, dtype=torch.uint8), source)
        memory.end()

    def _restore(self) -> dict[str, Any]:
        """Put the training where the last commit is; returns its description."""
        training = self.training
        found = self.membership.memory.latest()  # type: ignore[union-attr]
        assert found is not None
        description, data = found
        groups: dict[str, Tensors] = {"model": {}, "average": {}, "optimizer": {}, "best": {}}
        for group, name, dtype, shape, start in description["tensors"]:
            kind: torch.dtype = getattr(torch, dtype)
            count = math.prod(shape)
            if count == 0:
                groups[group][name] = torch.empty(shape, dtype=kind)
            else:
                groups[group][name] = torch.frombuffer(data, dtype=kind, count=count, offset=start).view(shape).clone()
        checkpoints.restore_state(training.model, groups["model"])
        if training.average is not None:
            checkpoints.restore_state(training.average.module, groups["average"])
        checkpoints.restore_optimizer(training.optimizer, groups["optimizer"], description["optimizer"])
        training.best = groups["best"] or None
        training.at = Position(**description["position"])
        return description

    def _seed(self) -> None:
        """Ranks differ in what they drop out and shift; and another try of the same steps differs from the one before."""
        training = self.training
        assert self.membership is not None
        place = 1_000_003 * (training.at.epoch + 1) + training.at.step + 7_919 * self.membership.generation
        torch.manual_seed(training.config.seed * 1000 + training.collectives.rank + place)

    def _check_digests(self) -> None:
        """All ranks must have the same weights and the same optimizer; one that has not would spoil the others from now on.

        Raises:
            RuntimeError: they differ.
        """
        training = self.training
        digest = hashlib.sha256()
        tensors = [*training.model.parameters(), *checkpoints.optimizer_state(training.optimizer)[0].values()]
        for tensor in tensors:
            digest.update(checkpoints.to_file(tensor).view(-1).view(torch.uint8).numpy().data)
        found = training.collectives.all_gather_object((digest.hexdigest(), training.at.epoch, training.at.step))
        if len(set(map(tuple, found))) > 1:
            raise RuntimeError(f"after the group changed, its ranks differ: {found}")

    # Commits

    def after_step(self) -> None:
        """Commit, if it is time: within an epoch, or when its validation is over.

        Raises:
            MembershipChanged: on every rank, when somebody comes or goes.
        """
        if self.membership is None:
            return
        self.countdown -= 1
        self._steps += 1
        if self.countdown <= 0:
            self._commit_together()

    def _commit_together(self) -> None:
        training, membership = self.training, self.membership
        assert membership is not None
        begun = time.monotonic()
        distance = self._distance((begun - self._committed_at) / max(self._steps, 1)) if training.run.is_main else 0.0
        word = torch.tensor([float(membership.change_wanted), float(training.loss_sum), distance], dtype=torch.float64)
        training.collectives.all_reduce(word, "sum")
        change, loss_sum, self.countdown = bool(word[0]), float(word[1]), int(word[2])
        self._commit(loss_sum)
        took = time.monotonic() - begun
        self._cost_s = (self._cost_s + took) / 2 if self._cost_s else took
        if change:
            raise MembershipChanged

    def _distance(self, step_s: float) -> float:
        """Steps to the next commit, where one lately took ``step_s`` seconds."""
        if self.training.config.commit_every_steps:
            return float(self.training.config.commit_every_steps)
        step_s = max(step_s, 1e-5)
        return float(max(1, min(math.ceil(self._cost_s / _COST / step_s), int(_MOST_BETWEEN_S / step_s))))

    def _commit(self, loss_sum: float) -> None:
        """Copy everything into the memory; it counts when it is complete."""
        training, membership = self.training, self.membership
        assert membership is not None
        groups, rest = self._state()
        layout: list[tuple[str, str, str, list[int], int]] = []
        end = 0
        for group, tensors in groups.items():
            for name, tensor in tensors.items():
                layout.append((group, name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape), end))
                end += -(-tensor.nbytes // _ALIGN) * _ALIGN
        offer = (training.at.epoch, training.seen())
        description = {
            "for": training.saver.identity(),
            "offer": offer,
            "position": asdict(training.at),
            "optimizer": rest,
            "loss_sum": loss_sum,
            "tensors": layout,
        }
        data, file = membership.memory.begin(description, max(end, 1))
        same_best = self._versions.get(file) == training.at.best_epoch and training.at.best_epoch > 0
        for (group, _, _, shape, start), tensor in zip(layout, (t for some in groups.values() for t in some.values()), strict=True):
            if tensor.numel() and not (group == "best" and same_best):
                torch.frombuffer(data, dtype=tensor.dtype, count=tensor.numel(), offset=start).view(shape).copy_(tensor.detach())
        membership.memory.end()
        self._versions[file] = training.at.best_epoch
        membership.committed(offer)
        self._committed_at, self._steps = time.monotonic(), 0

    def _state(self) -> tuple[dict[str, Tensors], dict[str, Any]]:
        """The tensors themselves, not copies of them, by group; and what of the optimizer is no tensor. The best weights come first: their place
        in the memory must not change with the optimizer's."""
        training = self.training
        state = training.optimizer.state_dict()["state"]
        optimizer: Tensors = {}
        rest: dict[str, Any] = {}
        for number, entries in state.items():
            for name, value in entries.items():
                (optimizer if isinstance(value, torch.Tensor) else rest)[f"{number}.{name}"] = value
        groups = {
            "best": training.best or {},
            "model": training.model.state_dict(),
            "average": training.average.module.state_dict() if training.average is not None else {},
            "optimizer": optimizer,
        }
        return groups, {"state": rest, "numbers": sorted(state)}
