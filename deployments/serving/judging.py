"""Feedback: a true answer is held against what was predicted, and counted for the version that predicted it."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from deployments.serving.feedback import MOST_ROWS, Signer
from deployments.serving.fleet import Served
from deployments.serving.metrics import Metrics
from deployments.serving.tensors import refuse

True_ = str | float


class Feedback(BaseModel):
    """Body of a feedback."""

    model_config = ConfigDict(extra="forbid")

    prediction: Annotated[str, Field(max_length=8192, description="The header Atelier-Prediction of the answer.")]
    truth: Annotated[list[True_], Field(min_length=1, max_length=MOST_ROWS, description="The true label or value of each row.")]


def judge(signer: Signer, served: Served, metrics: Metrics, name: str, feedback: Feedback) -> dict[str, Any]:
    """Count the feedback; how many rows were right, or the sum of squared errors.

    Raises:
        RequestRefusedError: a token that is none or of another model, another number of rows, or a label that the model does not know.
    """
    model, version, told = signer.read(feedback.prediction)
    if model != name:
        raise refuse(f"this prediction is one of the model {model!r}, not of {name!r}")
    if len(told) != len(feedback.truth):
        raise refuse(f"the prediction had {len(told)} rows, the truth has {len(feedback.truth)}")
    counted = metrics.of(name, version)
    if isinstance(told[0], str):
        labels = served.live.labels
        if unknown := [value for value in feedback.truth if value not in labels]:
            raise refuse(f"{unknown[0]!r} is no label of {name!r}; it has {', '.join(labels[:20])}")
        right = [one == true for one, true in zip(told, feedback.truth, strict=True)]
        for one in right:
            counted.judged(correct=one, squared_error=None)
        return {"version": version, "rows": len(right), "correct": sum(right)}
    if wrong := [value for value in feedback.truth if not isinstance(value, (int, float)) or not math.isfinite(value)]:
        raise refuse(f"the truth must be finite numbers, {wrong[0]!r} is none")
    errors = [(float(one) - float(true)) ** 2 for one, true in zip(told, feedback.truth, strict=True)]
    if not math.isfinite(sum(errors)):
        raise refuse("the truth is out of all range")
    for error in errors:
        counted.judged(correct=None, squared_error=error)
    return {"version": version, "rows": len(errors), "squared_error": sum(errors)}
