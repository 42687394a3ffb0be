"""``canary`` as a flow: a version that was put forward goes on trial on the running servers, promoted or rolled back by itself."""

from __future__ import annotations

import os
from typing import Literal

from prefect.artifacts import create_markdown_artifact
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from deployments.serving.canary import Judge, fetch_metrics
from deployments.serving.verdict import Bars
from deployments.stack.addresses import read_addresses
from flows.artifacts import artifact_key
from flows.embedded import embedded_flow, open_context
from infra.context import StageContext
from infra.errors import InvalidOptionError
from infra.registry import CHALLENGER, CHAMPION, Registry

USUAL_SERVER = "http://127.0.0.1:8080"


class Tried(BaseModel):
    """What became of a version on trial."""

    model_config = ConfigDict(frozen=True)

    model: str
    version: int
    outcome: Literal["promoted", "rolled back", "not tried"]
    reason: str = Field(description="Why.")


@embedded_flow(name="canary")
def canary(
    model: str,
    version: int | None = None,
    servers: list[str] | None = None,
    steps: list[float] | None = None,
    min_requests: int = 100,
    min_feedback: int = 0,
    significance: float = 0.01,
    latency_factor: float = 1.5,
    max_shift: float = 0.2,
    max_accuracy_loss: float = 0.0,
    look_s: float = 5.0,
    step_s: float = 3600.0,
) -> Tried:
    """Give a version a growing share of the requests; promote it at the end, or roll it back as soon as a test speaks against it.

    Args:
        model: A model's name in the registry.
        version: The version; none: its challenger.
        servers: URLs of the inference servers; none: that of the local stack.
        steps: Shares of the requests, per cent, growing; none: 1, 10, 50, 100.
        min_requests: Requests that it must answer in each step.
        min_feedback: True answers that must have come before it is promoted.
        significance: Chance to send back one that is as good.
        latency_factor: How much slower it may be.
        max_shift: How far its predictions may lie from the live version's, 0 to 1.
        max_accuracy_loss: Accuracy that it may lose.
        look_s: Seconds between looks.
        step_s: Longest time of a step, seconds; too few requests until then: rolled back.

    Returns:
        What became of it, and why; the registry's log has it, too.

    Raises:
        ServiceError: the servers do not answer.
    """
    try:
        bars = Bars(
            significance=significance,
            min_requests=min_requests,
            min_feedback=min_feedback,
            latency_factor=latency_factor,
            max_shift=max_shift,
            max_accuracy_loss=max_accuracy_loss,
        )
    except ValidationError as error:
        raise InvalidOptionError("canary", [f"{one['loc'][0]}: {one['msg']}" for one in error.errors()]) from None
    with open_context() as context:
        registry = Registry(context.settings, context.store)
        candidate = registry.get(f"{model}/{version}" if version else f"{model}@{CHALLENGER}")
        if CHAMPION in candidate.aliases:
            return Tried(model=model, version=candidate.version, outcome="not tried", reason=f"{candidate.ref} is live already")
        urls = servers or [_local_server(context)]
        key = os.environ.get("ATELIER_API_KEY", "")
        judge = Judge(
            registry,
            context.store,
            lambda: [fetch_metrics(url, key) for url in urls],
            bars=bars,
            steps=steps or (1.0, 10.0, 50.0, 100.0),
            look_s=look_s,
            step_s=step_s,
            say=lambda text: context.report({"kind": "log", "message": text}),
        )
        found = judge.run(candidate.name, candidate.version)
        create_markdown_artifact(markdown=f"# {candidate.ref} {found.outcome}\n\n{found.reason}", key=artifact_key(model, "canary"))
        return Tried(model=model, version=candidate.version, outcome=found.outcome, reason=found.reason)


def _local_server(context: StageContext) -> str:
    """The inference server of ``atelier up``, if one runs on this workspace."""
    return read_addresses(context.settings).get("serving", USUAL_SERVER).removesuffix("/docs")
