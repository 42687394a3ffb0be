"""Feedback: a true answer is held against what was predicted, and counted for the version that predicted it.

A request's truth may be told again: it is kept, and the last one holds for whoever reads what was kept (monitoring, retraining). The running
counts, which only grow, take the first.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from deployments.serving.counted import CountedOnce
from deployments.serving.feedback import MOST_ROWS, Signer
from deployments.serving.fleet import Served
from deployments.serving.metrics import Metrics
from deployments.serving.tensors import refuse
from deployments.serving.truths import TruthWriter, as_truths

True_ = str | float


class Feedback(BaseModel):
    """Body of a feedback."""

    model_config = ConfigDict(extra="forbid")

    prediction: Annotated[str, Field(max_length=8192, description="The header Atelier-Prediction of the answer.")]
    truth: Annotated[list[True_], Field(min_length=1, max_length=MOST_ROWS, description="The true label or value of each row.")]


def judge(
    signer: Signer, served: Served, metrics: Metrics, truths: TruthWriter, counted: CountedOnce, name: str, feedback: Feedback
) -> dict[str, Any]:
    """Count the feedback and keep it; how many rows were right, or the sum of squared errors.

    Raises:
        RequestRefusedError: a token that is none or of another model, another number of rows, or a label that the model does not know.
    """
    said = signer.read(feedback.prediction)
    model, version, told, request = said
    if model != name:
        raise refuse(f"this prediction is one of the model {model!r}, not of {name!r}")
    if len(told) != len(feedback.truth):
        raise refuse(f"the prediction had {len(told)} rows, the truth has {len(feedback.truth)}")
    of_version = metrics.of(name, version)
    if isinstance(told[0], str):
        labels = served.live.labels
        if unknown := [value for value in feedback.truth if value not in labels]:
            raise refuse(f"{unknown[0]!r} is no label of {name!r}; it has {', '.join(labels[:20])}")
        right = [one == true for one, true in zip(told, feedback.truth, strict=True)]
        again = bool(request) and not counted.first(request)
        for one in [] if again else right:
            of_version.judged(correct=one, squared_error=None)
        truths.put(as_truths(said, feedback.truth))
        return {"version": version, "rows": len(right), "correct": sum(right), "again": again}
    if wrong := [value for value in feedback.truth if not isinstance(value, (int, float)) or not math.isfinite(value)]:
        raise refuse(f"the truth must be finite numbers, {wrong[0]!r} is none")
    errors = [(float(one) - float(true)) ** 2 for one, true in zip(told, feedback.truth, strict=True)]
    if not math.isfinite(sum(errors)):
        raise refuse("the truth is out of all range")
    again = bool(request) and not counted.first(request)
    for error in [] if again else errors:
        of_version.judged(correct=None, squared_error=error)
    truths.put(as_truths(said, feedback.truth))
    return {"version": version, "rows": len(errors), "squared_error": sum(errors), "again": again}
