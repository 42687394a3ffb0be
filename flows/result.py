"""What a run ends with."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from flows.stages import StageTime
from tasks.tune import Tuned


class RunResult(BaseModel):
    """What a run ends with: a model version, how good it is, and where everything lies."""

    model_config = ConfigDict(frozen=True)

    model: str
    version: int
    aliases: list[str]
    decision: str = Field(description="Why it became champion, or did not.")
    algorithm: str
    dataset: str = Field(description="Digest of the data it was trained on, after quarantine.")
    metrics: dict[str, Any] = Field(description="Of the shipped package on the test split.")
    baseline_metrics: dict[str, Any] = Field(description="Of the trained model before export, same split.")
    trials: dict[str, Any] | None = Field(
        default=None, description="Of the search for options: number, best parameters, best value, and why."
    )
    compression: dict[str, Any] | None = Field(default=None, description="What was tried, its table before and after, what ships and why.")
    advice: list[dict[str, Any]] = Field(default=[], description="What to mend, from rules over the figures: rule, severity, text.")
    profile: dict[str, Any] | None = Field(
        default=None, description="With profile: steps timed, milliseconds a step (step_ms) and of each part (parts_ms)."
    )
    package: str = Field(description="Where the package lies.")
    run_card: str = Field(description="Where the run card lies.")
    stages: list[StageTime]
    seconds: float


def trials_in_words(tuned: Tuned) -> dict[str, Any]:
    """The search in the result's words."""
    return {
        "number": tuned.num_complete + tuned.num_pruned + tuned.num_failed,
        "complete": tuned.num_complete,
        "pruned": tuned.num_pruned,
        "failed": tuned.num_failed,
        "metric": tuned.metric,
        "best_value": tuned.value,
        "best_parameters": tuned.params,
        "best_trial": tuned.trial,
        "reason": tuned.reason,
    }
