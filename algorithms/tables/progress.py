"""Rounds of an estimator: reported while they happen, kept as history, and saved so that a killed training goes on."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from algorithms.run import Run
from infra.errors import CorruptArtifactError

MOST_ENTRIES = 200
REPORT_EVERY_S = 0.5
NUM_METRICS = 20
LEAST_FALL = 1e-3
STATE = ("rounds", "best_round", "best_loss", "last_fall", "fallen_to")
CHECKPOINT_EVERY_S = 15.0


@dataclass
class Progress:
    """Follows one training.

    Attributes:
        metric: name of the metric on the valid split; histories show it as ``valid_<metric>``.
        metric_scale: what an error in the unit of learning is multiplied with to be in the target's unit.
        rounds: one entry a round, from 1.
        checkpoint_every_s: seconds between two saved states.
    """

    run: Run
    metric: str
    metric_scale: float = 1.0
    rounds: list[dict[str, Any]] = field(default_factory=list)
    best_round: int = 0
    best_loss: float = float("inf")
    last_fall: int = 0
    fallen_to: float = float("inf")
    checkpoint_every_s: float = field(default_factory=lambda: CHECKPOINT_EVERY_S)
    _begin: float = field(default_factory=time.monotonic)
    _reported: float = float("-inf")
    _saved: float = field(default_factory=time.monotonic)

    def add(self, num_rounds: int, **values: float) -> None:
        """Note a round: ``train_loss``, ``valid_loss``, ``valid_<metric>``, ... any may be absent."""
        now = time.monotonic()
        number = len(self.rounds) + 1
        if self.metric == "rmse":
            values = {name: value * self.metric_scale if name == "valid_rmse" else value for name, value in values.items()}
        self.rounds.append({"epoch": number, **values, "seconds": round(now - self._begin, 4)})
        self._begin = now
        loss = values.get("valid_loss", values.get("train_loss"))
        if loss is not None and ("valid_loss" not in values or loss < self.best_loss):
            self.best_loss, self.best_round = loss, number
        if loss is not None and loss < self.fallen_to * (1 - LEAST_FALL):
            self.fallen_to, self.last_fall = loss, number
        # Metrics by number and not by time: a pruner that sees them must see the same ones every time.
        if number == num_rounds or number % max(1, num_rounds // NUM_METRICS) == 0:
            self.run.report({"kind": "metrics", "step": number, "values": values})
        if now - self._reported < REPORT_EVERY_S and number < num_rounds:
            return
        self._reported = now
        event = {"kind": "progress", "phase": "train", "epoch": number, "epochs": num_rounds, "metric_name": self.metric}
        event |= {"loss": loss, "metric": values.get(f"valid_{self.metric}")}
        self.run.report({key: value for key, value in event.items() if value is not None})

    def is_exhausted(self, patience: int) -> bool:
        """Whether the loss on the valid split has not fallen by a thousandth within ``patience`` rounds (0: never)."""
        return 0 < patience <= len(self.rounds) - self.last_fall

    def history(self) -> dict[str, Any]:
        """Of ``history.json``: at most ``MOST_ENTRIES`` rounds, always with the first, the best and the last."""
        last = len(self.rounds)
        step = max(1, -(-last // (MOST_ENTRIES - 2)))
        kept = [entry for entry in self.rounds if entry["epoch"] % step == 0 or entry["epoch"] in (1, self.best_round, last)]
        return {"epochs": kept, "best_epoch": self.best_round, "metric": self.metric}

    def save(self, model: Callable[[], bytes], *, force: bool = False) -> None:
        """Keep the model so far and the rounds behind it in the store, every ``checkpoint_every_s`` seconds."""
        if not self.run.spec.checkpoints or not (force or time.monotonic() - self._saved >= self.checkpoint_every_s):
            return
        state = json.dumps({name: getattr(self, name) for name in STATE}).encode()
        body = len(state).to_bytes(8, "big") + state + model()
        self.run.store.write_bytes(self._key, hashlib.sha256(body).hexdigest().encode() + body)
        self._saved = time.monotonic()

    def resume(self) -> bytes | None:
        """The model of an earlier attempt at this training, whose rounds are taken over; None if there is none.

        Raises:
            CorruptArtifactError: the saved state does not match its digest.
        """
        if not self.run.spec.checkpoints or not self.run.store.exists(self._key):
            return None
        saved = self.run.store.read_bytes(self._key)
        digest, body = saved[:64].decode("ascii", "replace"), saved[64:]
        found = hashlib.sha256(body).hexdigest()
        if digest != found:
            raise CorruptArtifactError(self._key, digest, found)
        size = int.from_bytes(body[:8], "big")
        state = json.loads(body[8 : 8 + size])
        for name in STATE:
            setattr(self, name, state[name])
        self.run.report({"kind": "log", "message": f"Going on after round {len(self.rounds)} of an earlier attempt."})
        return body[8 + size :]

    @property
    def _key(self) -> str:
        return f"{self.run.spec.checkpoints.rstrip('/')}/estimator.state"
