"""``retrain``: the next version of a live model, from all that it knew and what came since; it takes over only if it has won."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.context import FlowRunContext
from prefect.exceptions import FlowPauseTimeout
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from pydantic import BaseModel, ConfigDict, Field

from algorithms.catalog import find_algorithm
from flows.artifacts import artifact_key
from flows.embedded import embedded_flow, open_context
from flows.request import make_request
from flows.stages import StageTime, run_stage, stage, stage_context
from flows.training import run_pipeline
from infra._registry_version import parse_ref
from infra.audit import write_down
from infra.context import StageContext
from infra.datasets import names
from infra.datasets.card import DatasetRef
from infra.errors import InvalidOptionError
from infra.keys import content_key
from infra.registry import CHAMPION, ModelVersion, Registry
from tasks._contest import Outcome, Terms
from tasks.contest import contest, enlist
from tasks.ingest import ingest
from tasks.labelled import labelled_requests
from tasks.merge import Merged, merge
from tasks.package import read_json
from tasks.register import Registered

contest_stage = stage(contest)
labelled_stage = stage(labelled_requests, name="labelled")

Promotion = Literal["champion", "challenger", "none"]


class Retrained(BaseModel):
    """What a retraining ends with."""

    model_config = ConfigDict(frozen=True)

    model: str
    version: int | None = Field(description="The new version; none: there was nothing new to learn from.")
    aliases: list[str] = []
    decision: str = Field(description="champion, challenger, registered (it has not won), or nothing new.")
    reason: str
    dataset: str = Field(description="Digest of what it was trained on.")
    num_added: int = Field(description="Samples that the live version's data did not have.")
    labelled: str = Field(default="", description="Digest of the labelled requests among the new data; empty: there were none.")
    outcome: Outcome | None = None
    run_card: str = ""


class Approval(RunInput):
    """What a person answers in Prefect's page."""

    approve: bool = Field(default=False, description="Let the new version take over.")
    comment: str = Field(default="", description="Why; it goes into the registry's log.")


@embedded_flow(name="retrain")
def retrain(
    model: str,
    data: str = "",
    more_data: list[str] | None = None,
    captured_hours: float = 720.0,
    reason: str = "",
    workers: int = 1,
    options: dict[str, Any] | None = None,
    trials: int | None = None,
    warm_start: bool = True,
    promotion: Promotion = "champion",
    min_gain: float = 0.0,
    max_slice_loss: float = 0.05,
    min_slice: int = 20,
    approval: bool = False,
    approval_timeout_s: float = 86_400.0,
) -> Retrained:
    """Train the next version of a model on its old data and on new data, and let it take over if it is better.

    Args:
        model: A model's name in the registry; its champion is where the training starts from.
        data: New data: a path, a URI, or the name or digest of a data set version; empty: what its data set's name means now.
        more_data: Further new data.
        captured_hours: Requests of the last so many hours that were captured, and whose truth came, are new data, too; 0: none.
        reason: Why; for the log.
        workers: Ranks of a distributed training.
        options: Options that differ from the champion's.
        trials: Trials of a search for better options; none: the champion's.
        warm_start: Start from the champion's weights, where it is a network.
        promotion: What it becomes if it wins: champion at once, challenger (a canary has the last word), or none.
        min_gain: How much better it must be, in the main metric, over old and new test data together.
        max_slice_loss: Most that it may lose on a class, on the old or on the new test data.
        min_slice: Slices with fewer test rows are not looked at.
        approval: Pause before it takes over, until a person approves in Prefect's page.
        approval_timeout_s: Longest pause, seconds; then nothing changes.

    Returns:
        The new version, the decision and all its numbers.

    Raises:
        ModelNotFoundError: no such model.
        InvalidSourceError: the new data does not fit the old.
    """
    if not 0 <= captured_hours <= 24 * 3660:
        raise InvalidOptionError("retrain", [f"captured_hours: {captured_hours:g}: expected 0 to 87,840 (ten years)"])
    try:
        terms = Terms(min_gain=min_gain, max_slice_loss=max_slice_loss, min_slice=min_slice)
    except ValueError as error:
        raise InvalidOptionError("retrain", [str(error)]) from None
    with open_context(workers=workers) as context, stage_context(context), _one_at_a_time(model, context):
        registry = Registry(context.settings, context.store)
        champion = registry.get(model)
        merged, labelled = gather(champion, [one for one in (data, *(more_data or [])) if one], captured_hours, context)
        if merged.num_added == 0:
            why = f"no sample that {champion.ref} has not learned from or been judged on already"
            write_down(context.store, "retrain", champion.ref, decision="nothing new", reason=why, because=reason)
            return Retrained(model=champion.name, version=None, decision="nothing new", reason=why, dataset=champion.dataset, num_added=0)
        request = make_request(
            algorithm=champion.algorithm,
            data=merged.data.digest,
            name=champion.name,
            workers=workers,
            trials=trials,
            options=start_options(champion, options or {}, warm_start=warm_start, free=trials is not None, context=context),
        )
        kept: list[Outcome] = []

        def decide(inner: StageContext, times: list[StageTime], registration: dict[str, Any]) -> Registered:
            outcome = _judge(inner, times, champion, registration, terms)
            kept.append(outcome)
            wanted, words = promotion, [f"{reason}: " if reason else "", outcome.reason]
            if approval and outcome.winner == "challenger":
                wanted, answer = _ask(champion, outcome, promotion, approval_timeout_s)
                words.append(f"; {answer}")
            values = {key: value for key, value in registration.items() if key != "min_gain"}
            return enlist(**values, outcome=outcome.model_copy(update={"reason": "".join(words)}), promotion=wanted, context=inner)

        result = run_pipeline(request, context, decide)
        _show(result.model, kept[0])
        decision = "champion" if CHAMPION in result.aliases else (result.aliases or ["registered"])[0]
        told = f"{result.model}/{result.version}"
        write_down(context.store, "retrain", told, decision=decision, reason=result.decision, because=reason, added=merged.num_added)
        return Retrained(
            model=result.model,
            version=result.version,
            aliases=result.aliases,
            decision=decision,
            reason=result.decision,
            dataset=result.dataset,
            num_added=merged.num_added,
            labelled=labelled.digest if labelled else "",
            outcome=kept[0],
            run_card=result.run_card,
        )


def gather(champion: ModelVersion, sources: list[str], captured_hours: float, context: StageContext) -> tuple[Merged, DatasetRef | None]:
    """The champion's data, the new data and the labelled requests as one version; and the labelled requests."""
    old = names.resolve(context.store, champion.dataset)
    kind = find_algorithm(champion.algorithm)
    target = _description(champion, context)["config"].get("target")
    if not sources:
        sources = [old.name] if old.name else []
    new = [
        ingest(
            source,
            name=f"{champion.name}-new",
            algorithm_kind=kind.modality,
            target=target,
            regression=kind.task.endswith("regression"),
            context=context,
        )
        for source in sources
    ]
    regression = kind.task.endswith("regression")
    labelled: DatasetRef | None = None
    if captured_hours:
        # A stage: requests go on coming, and a run that begins again must find what it found, or it would train from the start.
        values = {
            "model": champion.name,
            "old": old,
            "target": target,
            "hours": captured_hours,
            "until": _begun(),
            "regression": regression,
        }
        labelled = run_stage(labelled_stage, [], **values)
    return merge(old, [*new, labelled] if labelled else new, f"{champion.name}-all", context=context), labelled


@contextmanager
def _one_at_a_time(model: str, context: StageContext) -> Iterator[None]:
    """Retrainings of a model on this machine follow each other; the lock ends with its process."""
    lock = FileLock(context.settings.state_dir / "locks" / f"retrain-{content_key(parse_ref(model)[0])}.lock")
    Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        context.report({"kind": "log", "message": f"waits for another retraining of {model}, which is running or paused"})
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _begun() -> str:
    """When this flow run was made, also where it begins again; ISO 8601."""
    running = FlowRunContext.get()
    made = running.flow_run.created if running is not None and running.flow_run is not None else None
    return (made or datetime.now(UTC)).isoformat()


def start_options(champion: ModelVersion, given: dict[str, Any], *, warm_start: bool, free: bool, context: StageContext) -> dict[str, Any]:
    """The champion's options, and its weights to start from.

    Args:
        given: they win.
        free: leave the options that a search may change to the search.
    """
    algorithm = find_algorithm(champion.algorithm)
    config = {key: value for key, value in _description(champion, context)["config"].items() if key in algorithm.config_type.model_fields}
    if free:
        config = {key: value for key, value in config.items() if key not in algorithm.search_space}
    if "pretrained" in algorithm.config_type.model_fields:
        config["pretrained"] = _weights(champion, context) if warm_start else ""
    return {**config, **given}


def _weights(champion: ModelVersion, context: StageContext) -> str:
    """Where the champion's weights are; empty: they are gone, or it was imported."""
    parts = champion.run_card.split("/")
    key = f"runs/{parts[1]}/trained/model.safetensors" if parts[0] == "runs" and len(parts) > 2 else ""
    if not key or not context.store.exists(key):
        return ""
    path = context.store.local_path(key)
    return str(path) if path is not None else f"{context.store.uri}/{key}"


def _description(version: ModelVersion, context: StageContext) -> dict[str, Any]:
    found: dict[str, Any] = read_json(context, version.package, "package.json")
    return found


def _judge(context: StageContext, times: list[StageTime], champion: ModelVersion, registration: dict[str, Any], terms: Terms) -> Outcome:
    return run_stage(
        contest_stage,
        times,
        challenger=registration["package"],
        champion=champion.package,
        data=registration["data"],
        old=names.resolve(context.store, champion.dataset),
        terms=terms,
    )


def _ask(champion: ModelVersion, outcome: Outcome, promotion: Promotion, timeout_s: float) -> tuple[Promotion, str]:
    """Wait for a person; what the challenger becomes then, and the answer in words."""
    text = f"# {champion.name}: may the new version take over from {champion.version}?\n\n{outcome.reason}\n\n{slices_table(outcome)}"
    create_markdown_artifact(markdown=text, key=artifact_key(champion.name, "approval"))
    try:
        answer = pause_flow_run(Approval.with_initial_data(description=text), timeout=int(timeout_s), poll_interval=2, key="approval")
    except FlowPauseTimeout:
        return "none", f"nobody approved it in {timeout_s:g} s"
    said = f" ({answer.comment})" if answer.comment else ""
    return (promotion, f"approved{said}") if answer.approve else ("none", f"not approved{said}")


def slices_table(outcome: Outcome) -> str:
    """The slices as Markdown."""
    rows = [f"| {one.name} | {one.num_rows:,} | {one.champion:.4g} | {one.challenger:.4g} | {-one.loss:+.3g} |" for one in outcome.slices]
    return "\n".join([f"| slice | rows | champion {outcome.metric} | challenger | gain |", "| --- | --- | --- | --- | --- |", *rows])


def _show(name: str, outcome: Outcome) -> None:
    create_markdown_artifact(
        markdown=f"# {name}: the {outcome.winner} wins\n\n{outcome.reason}\n\n{slices_table(outcome)}", key=artifact_key(name, "contest")
    )
    create_table_artifact(table=[one.model_dump() for one in outcome.slices], key=artifact_key(name, "slices"), description=outcome.reason)
