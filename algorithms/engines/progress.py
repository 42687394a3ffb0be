"""What rank 0 tells while it trains: events about twice a second, metrics at the end of each epoch, TensorBoard files."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from algorithms.engines.batches import Pace
from algorithms.run import Run

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_EVERY_S = 0.5


class Reporter:
    """Progress of one training; silent on ranks other than 0."""

    def __init__(self, run: Run, epochs: int, pace: Pace) -> None:
        self.run, self.epochs, self.pace = run, epochs, pace
        self._started = self._reported = time.monotonic()
        self._done = 0
        self._samples = 0
        self._last_metric: dict[str, Any] = {}
        self._writer: SummaryWriter | None = None

    def seconds_per_step(self) -> float:
        """Mean over this process's steps, validation included."""
        return (time.monotonic() - self._started) / max(self._done, 1)

    def step(self, epoch: int, step: int, loss: Callable[[], float], num_samples: int) -> None:
        """A step is done. ``epoch`` from 0, ``step`` from 1; ``loss`` is only called when it is told, because it waits for a GPU."""
        self._done += 1
        self._samples += num_samples
        now = time.monotonic()
        if not self.run.is_main or now - self._reported < _EVERY_S:
            return
        self._report(epoch, step, now, loss=loss())

    def validating(self, epoch: int) -> None:
        """The training part of an epoch is done."""
        if self.run.is_main and time.monotonic() - self._reported >= _EVERY_S:
            self._report(epoch, self.pace.steps(epoch), time.monotonic())

    def _report(self, epoch: int, step: int, now: float, **more: Any) -> None:
        left = self.pace.total - self.pace.done(epoch, step)
        event = {
            "kind": "progress",
            "phase": "train",
            "epoch": epoch + 1,
            "epochs": self.epochs,
            "step": step,
            "steps": self.pace.steps(epoch),
            "samples_per_s": self._samples / max(now - self._started, 1e-9),
            "eta_s": left * self.seconds_per_step(),
        }
        self.run.report({**event, **self._last_metric, **more})
        self._reported = now

    def epoch(self, entry: dict[str, float]) -> None:
        """An epoch is done: ``entry`` is its line in ``history.json``."""
        if not self.run.is_main:
            return
        name = next((name for name in ("accuracy", "rmse") if f"valid_{name}" in entry), None)
        if name is not None:
            self._last_metric = {"metric": entry[f"valid_{name}"], "metric_name": name}
        done = int(entry["epoch"]) - 1
        self._report(done, self.pace.steps(done), time.monotonic(), loss=entry["train_loss"])
        values = {key: value for key, value in entry.items() if key != "epoch"}
        self.run.report({"kind": "metrics", "step": int(entry["epoch"]), "values": values})
        self._write(entry)

    def _write(self, entry: dict[str, float]) -> None:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self.run.output_dir / "tensorboard"))
        for key, value in entry.items():
            if key != "epoch":
                self._writer.add_scalar(
                    key.replace("_", "/", 1) if key.startswith(("train_", "valid_")) else key, value, int(entry["epoch"])
                )

    def resumed(self, epochs: list[dict[str, float]], epoch: int, step: int) -> None:
        """The training goes on from a checkpoint; the files of TensorBoard get the epochs before it."""
        self.log(f"continues from epoch {epoch + 1} step {step}")
        if self.run.is_main and self._writer is None:
            for entry in epochs:
                self._write(entry)

    def log(self, message: str) -> None:
        if self.run.is_main:
            self.run.report({"kind": "log", "message": message})

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
