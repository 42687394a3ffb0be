"""Watching as a flow: compare what is served with what was learned, show the report, and say so where it has drifted."""

from __future__ import annotations

import re
from typing import Any

from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from pydantic import ValidationError

from flows.artifacts import artifact_key
from flows.embedded import embedded_flow, open_context
from flows.request import explain
from flows.stages import StageTime, run_stage, stage, stage_context
from infra.context import StageContext
from infra.errors import InvalidOptionError
from infra.events import MODEL_DRIFTED, QUALITY_DROPPED, emit
from infra.registry import Registry
from tasks._drift import Bars
from tasks.monitor import PAGE, Watched
from tasks.monitor import monitor as watch

monitor_stage = stage(watch, name="monitor")


def make_bars(values: dict[str, Any]) -> Bars:
    """The bars from outside values.

    Raises:
        InvalidOptionError: all faults at once.
    """
    try:
        return Bars(**values)
    except ValidationError as error:
        raise InvalidOptionError("monitoring", explain(error, list(Bars.model_fields))) from None


@embedded_flow(name="monitor")
def monitor(model: str, hours: float = 24.0, until: str = "", bars: dict[str, Any] | None = None, candidates: int = 100) -> Watched:
    """Compare what a live version was asked with its training data; tells the triggers if it has drifted.

    Args:
        model: NAME (its champion), NAME@ALIAS or NAME/VERSION.
        hours: How far back to look.
        until: End of that time, ISO 8601; empty: now.
        bars: What counts as drift, by name: min_rows, max_distance, max_prediction_distance, max_missing, max_drifted_share, significance,
            min_feedback, max_quality_loss; what is left out has its default.
        candidates: Most rows to put up for labelling; 0: none.

    Returns:
        What was found, and where report and candidates lie.

    Raises:
        InputError: no such model, or its training data is not in this workspace.
    """
    held_to = make_bars(bars or {})
    problems = [] if 0 < hours <= 24 * 366 else [f"hours: must be above 0 and at most 8784, a year (got {hours:g})"]
    problems += [] if 0 <= candidates <= 10_000 else [f"candidates: must be 0 to 10,000 (got {candidates})"]
    if problems:
        raise InvalidOptionError("monitoring", problems)
    times: list[StageTime] = []
    with open_context() as context, stage_context(context):
        version = Registry(context.settings, context.store).get(model)
        found: Watched = run_stage(
            monitor_stage,
            times,
            True,  # again: what was served meanwhile is no part of the key
            model=version.name,
            version=version.version,
            package=version.package,
            dataset=version.dataset,
            metrics=version.metrics,
            hours=hours,
            until=until,
            bars=held_to,
            num_candidates=candidates,
        )
        _show(found, context)
        tell(found, context)
    return found


def tell(found: Watched, context: StageContext) -> None:
    """The events that follow; the same rows looked at again are the same event."""
    payload: dict[str, Any] = {
        "model": found.model,
        "version": found.version,
        "rows": found.num_rows,
        "reasons": found.verdict.reasons,
        "reason": f"{found.model}/{found.version} drifted",
        "columns": [column.name for column in found.columns if column.drifted],
        "candidates": found.candidates.key if found.candidates else "",
        "report": found.report.key if found.report else "",
    }
    key = f"{found.version}-{found.num_rows}"
    if found.verdict.drifted:
        emit(MODEL_DRIFTED, f"model:{found.model}", payload, store=context.store, key=key, at=found.until)
    if found.verdict.quality_dropped:
        assert found.quality is not None
        told = {
            **payload,
            "reason": f"the quality of {found.model}/{found.version} dropped",
            "quality": found.quality.model_dump(mode="json"),
        }
        emit(QUALITY_DROPPED, f"model:{found.model}", told, store=context.store, key=f"{key}-{found.quality.num}", at=found.until)


def _show(found: Watched, context: StageContext) -> None:
    """The report in Prefect's UI."""
    name = f"{found.model}-monitor"
    heads = ["drifted" if found.verdict.drifted else "no drift" if found.verdict.enough else "too few rows for a verdict"]
    heads += ["quality dropped"] if found.verdict.quality_dropped else []
    lines = [f"# {found.model}/{found.version}: {', '.join(heads)}", "", f"{found.num_rows:,} served rows since {found.since}.", ""]
    lines += [f"- {_plain(reason)}" for reason in found.verdict.reasons]
    if found.report is not None:
        where = context.store.local_path(f"{found.report.key}/{PAGE}") or f"{context.store.uri}/{found.report.key}/{PAGE}"
        lines += ["", f"Report: `{where}`"]
        if "://" in str(where):
            create_link_artifact(link=str(where), key=artifact_key(name, "page"), link_text="report")
    create_markdown_artifact(markdown="\n".join(lines), key=artifact_key(name))
    if found.columns:
        rows = [column.model_dump(include={"name", "role", "distance", "p_value", "missing", "drifted"}) for column in found.columns]
        create_table_artifact(table=rows, key=artifact_key(name, "columns"), description=f"{found.model}/{found.version}")


def _plain(text: str) -> str:
    """Names come from data: nothing in them is markup."""
    return re.sub(r"([\\`*_{}\[\]<>#|!])", r"\\\1", text)
