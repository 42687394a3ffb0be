"""What a run shows in Prefect's UI: progress while it trains, and in the end its data, figures and run card, to read there."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from contextvars import copy_context
from typing import Any

from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from flows.progress import describe, share_done
from infra.datasets.card import Card
from tasks._card.gallery import gallery_markdown

Listener = Callable[[dict[str, Any]], None]

EVERY_S = 2.0


def artifact_key(*parts: str) -> str:
    """An artifact key as Prefect allows it: small letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")


def show_progress(name: str, report: Listener) -> Listener:
    """A listener that keeps one progress artifact of the current flow run up to date, at most every two seconds."""
    artifact_id: Any = create_progress_artifact(progress=0.0, key=artifact_key(name, "progress"), description="waiting for the first step")
    given_up = False
    context, lock, last = copy_context(), threading.Lock(), [0.0, 0.0]

    def listen(event: dict[str, Any]) -> None:
        nonlocal given_up
        share = share_done(event) if event.get("kind") == "progress" and event.get("phase") == "train" else None
        if share is None or given_up:
            return
        with lock:
            now = time.monotonic()
            if now - last[0] < EVERY_S and share < 1:
                return
            last[0] = now
            try:
                # The event comes in a thread of Dask's, which does not know which server the flow talks to.
                context.copy().run(
                    update_progress_artifact, artifact_id=artifact_id, progress=round(share * 100, 1), description=describe(event)
                )
            except Exception as error:  # noqa: BLE001 - a server that hiccups must not end a training
                given_up = True
                report({"kind": "log", "message": f"Prefect does not take the progress any more: {error}"})

    return listen


def show_data(name: str, card: Card, num_invalid: int, report: str) -> None:
    """The data: samples of each class in each split, what was set aside, where the Data Docs are."""
    splits = list(card.num_rows)
    classes = card.classes or [""]
    rows = [{"class": one or "(all)", **{split: card.counts.get(split, {}).get(one, 0) for split in splits}} for one in classes[:200]]
    create_table_artifact(
        table=rows,
        key=artifact_key(name, "data"),
        description=f"Data {card.name} {card.digest[:12]}: {sum(card.num_rows.values()):,} samples",
    )
    if num_invalid:
        text = f"{num_invalid} samples were set aside; each is listed with its reason in {report}"
        create_markdown_artifact(markdown=text, key=artifact_key(name, "quarantine"))


def show_gallery_page(name: str, gallery: dict[str, Any]) -> None:
    """Training pictures before and after augmentation."""
    create_markdown_artifact(markdown=gallery_markdown(gallery), key=artifact_key(name, "augmentation"))


def show_result(name: str, summary: dict[str, Any], metrics: dict[str, Any], baseline: dict[str, Any], run_card: str) -> None:
    """The figures of the shipped package beside the trained model's, and the way to the run card."""
    keys = [key for key, value in metrics.items() if isinstance(value, int | float)]
    rows = [{"metric": key, "package": metrics[key], "trained model": baseline.get(key)} for key in keys]
    create_table_artifact(table=rows, key=artifact_key(name, "metrics"), description=f"{summary['model']} version {summary['version']}")
    lines = [f"# {summary['model']} version {summary['version']}", "", summary["decision"], ""]
    lines += [f"- **{key}**: {value}" for key, value in summary.items() if key not in ("model", "version", "decision")]
    create_markdown_artifact(markdown="\n".join(lines), key=artifact_key(name, "result"))
    if "://" in run_card:
        create_link_artifact(link=run_card, key=artifact_key(name, "run-card"), link_text="run card")
