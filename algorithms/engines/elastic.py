"""Training in a group that changes: commits of all that a training is, going back to the last one, and giving it to newcomers.

A commit is a copy of weights, optimizer, averages, the best weights so far and the position, in memory that outlives this process
(``infra.elastic.memory``). All ranks commit after the same steps. After a failure everybody goes back to the newest commit that anybody has; where the
group only grows or shrinks, that happens at a commit, so nothing is lost. In a group that never changes nothing of this happens.

Once in about half a second the ranks ask each other whether somebody comes or goes, and whether a commit is due; if so, they commit after that same step.
The question travels with the gradients of the step, so nobody waits for the answer.
"""

from __future__ import annotations

import hashlib
import math
import time
from typing import TYPE_CHECKING, Any

import torch

from algorithms.engines import checkpoints
from algorithms.engines.buckets import broadcast_module
from algorithms.engines.saver import Position
from infra.collectives import Handle
from infra.errors import CollectiveError
from infra.membership import MembershipChanged

if TYPE_CHECKING:
    from algorithms.engines.loop import Training

_COST = 0.005  # of the time may go into commits, where their distance is not set by hand
_MOST_BETWEEN_S = 30.0  # so that a failure does not take long steps back where commits are dear
_ASK_S = 0.5  # between two questions: how long who leaves, or comes, waits for the others to hear of it
_FIRST_AFTER = 2
_ALIGN = 64
Tensors = dict[str, torch.Tensor]
Entry = tuple[str, str, str, tuple[int, ...], tuple[int, ...], int]  # group, name, dtype, shape, strides, first byte


class _Target:
    """Where in a file of the memory the tensors of a commit go: kept from one commit to the next, as long as they are of the same shapes."""

    def __init__(self, layout: list[Entry], data: memoryview) -> None:
        self.layout, self._map = layout, data.obj
        self.views = [_view(data, entry) for entry in layout]

    def fits(self, layout: list[Entry], data: memoryview) -> bool:
        return self._map is data.obj and self.layout == layout


def _view(data: memoryview, entry: Entry) -> torch.Tensor:
    """The tensor that lies in the data as the entry says."""
    _, _, dtype, shape, strides, start = entry
    kind: torch.dtype = getattr(torch, dtype)
    count = math.prod(shape)
    if count == 0:
        return torch.empty(shape, dtype=kind)
    return torch.frombuffer(data, dtype=kind, count=count, offset=start).as_strided(shape, strides)


def _strides(tensor: torch.Tensor) -> tuple[int, ...]:
    """In which order a commit keeps the numbers: the tensor's own where it has no gaps, because then they are copied in one go."""
    if tensor.is_contiguous() or (tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)):
        return tensor.stride()
    return torch.empty(tensor.shape, device="meta").stride()


def lay_out(groups: dict[str, Tensors]) -> tuple[list[Entry], int]:
    """A place for each tensor, one after the other, and bytes of all."""
    layout: list[Entry] = []
    end = 0
    for group, tensors in groups.items():
        for name, tensor in tensors.items():
            kind = str(tensor.dtype).removeprefix("torch.")
            layout.append((group, name, kind, tuple(tensor.shape), _strides(tensor), end))
            end += -(-tensor.nbytes // _ALIGN) * _ALIGN
    return layout, end


class Elastic:
    """A training's side of the changing group."""

    def __init__(self, training: Training) -> None:
        self.training = training
        self.membership = training.collectives.membership
        self.countdown = _FIRST_AFTER  # steps to the next question
        self._question: tuple[torch.Tensor, Handle] | None = None  # under way
        self._due = _FIRST_AFTER  # steps from the last commit to the next; rank 0 alone counts
        self._steps = 0  # since the last commit
        self._cost_s = 0.0  # of a commit
        self._committed_at = time.monotonic()
        self._versions: dict[int, int] = {}  # by file of the memory: epoch of the best weights that lie in it
        self._targets: dict[int, _Target] = {}

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
        self.countdown = self._due = _FIRST_AFTER
        self._question = None  # whatever was asked, nobody answers any more
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
        for entry in description["tensors"]:
            groups[entry[0]][entry[1]] = _view(data, entry).clone()
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

    def ask(self, step: int) -> None:
        """Send the question along with the gradients of this step (from 0), if it is time for it. ``loss_sum`` has the step in it already."""
        if self.membership is not None and self.countdown <= 1 and step + 1 < self.training.steps:
            self._question = self._send(self._steps + 1)

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
            self._hear()

    def _send(self, steps: int) -> tuple[torch.Tensor, Handle]:
        """Ask, ``steps`` steps after the last commit: changes wanted, sum of losses, whether a commit is due, steps to the next question."""
        training, membership = self.training, self.membership
        assert membership is not None
        due, wait = self._plan(max(steps, 1)) if training.run.is_main else (False, 0)
        word = torch.tensor([membership.change_wanted, float(training.loss_sum), due, wait], dtype=torch.float64)
        return word, training.collectives.all_reduce_async(word, "sum")

    def _plan(self, steps: int) -> tuple[bool, int]:
        """Rank 0's part of the word."""
        step_s = max((time.monotonic() - self._committed_at) / steps, 1e-5)
        due = steps >= self._due
        if due:
            self._due = commit_distance(step_s, self._cost_s, self.training.config.commit_every_steps)
        left = self._due if due else self._due - steps
        return due, max(1, min(left, int(_ASK_S / step_s)))

    def _hear(self) -> None:
        word, handle = self._question or self._send(self._steps)
        self._question = None
        handle.wait()
        change, loss_sum, due, self.countdown = bool(word[0]), float(word[1]), bool(word[2]), int(word[3])
        if change or due:
            begun = time.monotonic()
            self._commit(loss_sum)
            took = time.monotonic() - begun
            self._cost_s = (self._cost_s + took) / 2 if self._cost_s else took
        if change:
            raise MembershipChanged

    def _commit(self, loss_sum: float) -> None:
        """Copy everything into the memory; it counts when it is complete."""
        training, membership = self.training, self.membership
        assert membership is not None
        groups, rest = self._state()
        layout, end = lay_out(groups)
        offer = (training.at.epoch, training.seen())
        description = {
            "for": training.saver.identity(),
            "offer": offer,
            "position": vars(training.at),
            "optimizer": rest,
            "loss_sum": loss_sum,
            "tensors": layout,
        }
        data, file = membership.memory.begin(description, max(end, 1))
        target = self._targets.get(file)
        if target is None or not target.fits(layout, data):
            target = self._targets[file] = _Target(layout, data)
        same_best = self._versions.get(file) == training.at.best_epoch and training.at.best_epoch > 0
        views = iter(target.views)
        for group, tensors in groups.items():
            for tensor, view in zip(tensors.values(), views, strict=False):
                if not (group == "best" and same_best):
                    view.copy_(tensor)
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


def commit_distance(step_s: float, cost_s: float, wanted: int) -> int:
    """Steps from one commit to the next: ``wanted``, or where that is 0 as many as make commits cost ``_COST`` of the time, at most ``_MOST_BETWEEN_S``.

    Args:
        step_s: seconds of a step.
        cost_s: seconds of a commit.
    """
    return wanted or max(1, min(math.ceil(cost_s / _COST / step_s), int(_MOST_BETWEEN_S / step_s)))
