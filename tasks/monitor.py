"""Watching a version that is served: drift of its inputs and predictions, its quality where the truth came, and what a person should label.

monitor/MODEL/TIME/      index.html, report.json, and evidently.html where there was enough to compare
candidates/MODEL/TIME/   candidates.parquet; pictures/LABEL/NUMBER.png, or rows.csv: correct the labels, then import it as data
"""

from __future__ import annotations

import csv
import hashlib
import json
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from infra.artifacts import Artifact, fetch, publish
from infra.context import StageContext
from infra.datasets.card import DatasetRef, Kind
from infra.errors import InvalidOptionError
from tasks._drift import (
    Bars,
    ColumnDrift,
    Quality,
    Verdict,
    decide,
    judge_accuracy,
    judge_columns,
    judge_errors,
    measure,
    pair,
)
from tasks._evidently import MOST_COLUMNS, Sample
from tasks._evidently import Kind as ColumnKind
from tasks._evidently import report as evidently_report
from tasks._hard_examples import Pick, margin, pick_outlying, pick_unsure
from tasks._monitor_page import page
from tasks._reference import INPUT, PICTURE_COLUMNS, open_package, reference
from tasks._served import CAPTURES, FEEDBACK, FILE, ROW, last_told, pictures_of, read_rows

if TYPE_CHECKING:
    import pyarrow as pa

    from algorithms.package import Package

MOST_SERVED, MOST_FEEDBACK = 20_000, 100_000
REPORT, PAGE, EVIDENTLY, CANDIDATES = "report.json", "index.html", "evidently.html", "candidates.parquet"


class _Column(NamedTuple):
    name: str
    kind: ColumnKind
    role: Literal["input", "prediction"]
    served: list[Any]
    learned: list[Any]


class Watched(BaseModel):
    """What was found of one version."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    version: int
    since: str
    until: str = Field(description="Time of the newest row that was looked at; the window's end if there was none.")
    num_rows: int
    columns: list[ColumnDrift] = Field(default_factory=list)
    quality: Quality | None = None
    verdict: Verdict
    num_candidates: int = 0
    candidates: Artifact | None = None
    report: Artifact | None = Field(default=None, description="index.html and report.json; none where nothing was served.")


def monitor(
    model: str,
    version: int,
    package: Artifact,
    dataset: str,
    metrics: dict[str, float],
    hours: float = 24.0,
    until: str = "",
    bars: Bars | None = None,
    num_candidates: int = 100,
    *,
    context: StageContext,
) -> Watched:
    """Compare what was served with what the version learned from.

    Args:
        dataset: digest of the data that it was trained on.
        metrics: of the version, on the test split.
        hours: how far back to look.
        until: end of that time, ISO 8601; empty: now.
        num_candidates: most rows to put up for labelling; 0: none.

    Raises:
        InvalidOptionError: a time that is none.
        DatasetNotFoundError: the training data is not in this workspace.
    """
    bars = bars or Bars()
    end = _moment(until)
    since = end - timedelta(hours=hours)
    opened = open_package(str(fetch(context.store, package, context.settings.cache_path)))
    served = read_rows(context.store, CAPTURES, model, version, since, end, MOST_SERVED)
    quality = _quality(context, opened, model, version, since, end, metrics, bars)
    compared: list[_Column] = []
    columns: list[ColumnDrift] = []
    candidates: Artifact | None = None
    picks: list[Pick] = []
    num_rows = 0 if served is None else served.num_rows
    newest = end
    if served is not None:
        kind: Kind = "image" if opened.is_image else "table"
        learned = reference(package, DatasetRef(digest=dataset, kind=kind), context=context)
        compared = _columns(opened, served, learned)
        columns = judge_columns([measure(*one) for one in compared], bars)
        newest = served.column("time")[-1].as_py()
        picks = _pick(opened, served, learned, num_candidates)
        candidates = _put_up(opened, served, picks, f"candidates/{model}/{_stamp(end)}-v{version}", context)
    found = Watched(
        model=model,
        version=version,
        since=since.isoformat(timespec="seconds"),
        until=newest.astimezone(UTC).isoformat(timespec="microseconds"),
        num_rows=num_rows,
        columns=columns,
        quality=quality,
        verdict=decide(columns, num_rows, quality, bars),
        num_candidates=len(picks),
        candidates=candidates,
    )
    if served is None and quality is None:
        return found
    key = f"monitor/{model}/{_stamp(end)}-v{version}"
    pages = {PAGE: page(found, bars, served, learned if served is not None else None)}
    if columns and found.verdict.enough:
        pages[EVIDENTLY] = _evidently_page(compared, columns, bars)
    return found.model_copy(update={"report": _publish(found, bars, pages, key, context)})


def _moment(text: str) -> datetime:
    if not text:
        return datetime.now(UTC)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidOptionError("monitor", [f"until: {text!r} is no time (ISO 8601, such as 2026-11-20T16:30)"]) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _stamp(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y%m%dT%H%M%S.%fZ}"


def _values(table: pa.Table, name: str) -> list[Any]:
    return table.column(name).to_pylist() if name in table.column_names else [None] * table.num_rows


def _columns(opened: Package, served: pa.Table, learned: pa.Table) -> list[_Column]:
    """Inputs beside the train split; predictions beside those of the test split, since a model is surer of what it has learned."""
    import pyarrow.compute as pc

    train, test = (learned.filter(pc.equal(learned.column("split"), split)) for split in ("train", "test"))

    def given(name: str, kind: ColumnKind, key: str) -> _Column:
        return _Column(name, kind, "input", _values(served, key), _values(train, key))

    def predicted(name: str, kind: ColumnKind) -> _Column:
        return _Column(name, kind, "prediction", _values(served, name), _values(test, name))

    if opened.is_image:
        found = [given(name, "number", name) for name in PICTURE_COLUMNS]
    else:
        found = [given(name, "class" if kind == "string" else "number", INPUT + name) for name, kind in opened.columns]
    if opened.output == "value":
        return [*found, predicted("value", "number")]
    return [*found, predicted("label", "class"), predicted("confidence", "number")]


def _evidently_page(compared: list[_Column], columns: list[ColumnDrift], bars: Bars) -> str:
    """Those that are furthest away first."""
    samples: list[Sample] = []
    held_to: list[float] = []
    for one, _ in sorted(zip(compared, columns, strict=True), key=lambda both: -both[1].distance):
        name = one.name if one.role == "input" else f"{one.name} (predicted)"
        if len(samples) < MOST_COLUMNS and (sample := pair(name, one.kind, one.served, one.learned)) is not None:
            samples.append(sample)
            held_to.append(bars.max_distance if one.role == "input" else bars.max_prediction_distance)
    return evidently_report(samples, held_to)


def _quality(
    context: StageContext, opened: Package, model: str, version: int, since: datetime, end: datetime, metrics: dict[str, float], bars: Bars
) -> Quality | None:
    """None where no truth came, or nothing is known to hold it against."""
    expected = metrics.get("rmse" if opened.output == "value" else "accuracy")
    told = read_rows(context.store, FEEDBACK, model, version, since, end, MOST_FEEDBACK)
    if told is None or expected is None:
        return None
    told = last_told(told)
    if opened.output == "value":
        return judge_errors([value for value in _values(told, "squared_error") if value is not None], expected, bars)
    right = [value for value in _values(told, "correct") if value is not None]
    return judge_accuracy(sum(right), len(right) - sum(right), expected, bars)


def _pick(opened: Package, served: pa.Table, learned: pa.Table, most: int) -> list[Pick]:
    if most <= 0:
        return []
    if opened.output == "value":
        return pick_outlying(_oddness(opened, served, learned), most)
    margins = [margin(json.loads(text)) for text in _values(served, "scores")]
    return pick_unsure(_values(served, "label"), margins, most)


def _oddness(opened: Package, served: pa.Table, learned: pa.Table) -> Sequence[float]:
    """Largest distance of each row's numbers from their mean in training, in standard deviations."""
    import numpy as np

    names = list(PICTURE_COLUMNS) if opened.is_image else [INPUT + name for name, kind in opened.columns if kind != "string"]
    worst = np.zeros(served.num_rows)
    for name in names:
        then = np.array(_values(learned, name), dtype=np.float64)
        now = np.array(_values(served, name), dtype=np.float64)
        spread = float(np.nanstd(then)) if np.isfinite(then).any() else 0.0
        if spread > 0:
            worst = np.fmax(worst, np.abs(now - np.nanmean(then)) / spread)
    return [float(value) for value in worst]


def _put_up(opened: Package, served: pa.Table, picks: list[Pick], key: str, context: StageContext) -> Artifact | None:
    """The picked rows as a folder that a person corrects and imports."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not picks:
        return None
    rows = served.take([pick.row for pick in picks])
    pictures = dict(pictures_of(context.store, rows)) if opened.is_image else {}
    told = rows.drop_columns([FILE, ROW]).append_column("reason", pa.array([pick.reason for pick in picks]))
    told = told.append_column("true_label", pa.nulls(told.num_rows, pa.string()))
    with tempfile.TemporaryDirectory(prefix="atelier-monitor-") as scratch:
        folder = Path(scratch)
        pq.write_table(told, folder / CANDIDATES, compression="zstd")
        for place, data in pictures.items():
            if data is not None:
                label = _folder_name(str(_values(rows, "label")[place])) if opened.output != "value" else "unlabelled"
                target = folder / "pictures" / label / f"{hashlib.sha256(data).hexdigest()[:16]}{_suffix(data)}"
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data)
        if not opened.is_image:
            _write_rows(folder / "rows.csv", opened, rows)
        return publish(context.store, folder, key, "candidates")


def _folder_name(label: str) -> str:
    """A class as the name of a folder; one that would lead elsewhere is none."""
    safe = "".join("_" if letter in "/\\\0" else letter for letter in label)
    return safe if safe.strip(".") else "unlabelled"


def _suffix(data: bytes) -> str:
    heads = {
        b"\x89PNG": ".png",
        b"\xff\xd8\xff": ".jpg",
        b"GIF8": ".gif",
        b"BM": ".bmp",
        b"RIFF": ".webp",
        b"II*\0": ".tif",
        b"MM\0*": ".tif",
    }
    return next((suffix for head, suffix in heads.items() if data.startswith(head)), ".png")


def _write_rows(path: Path, opened: Package, rows: pa.Table) -> None:
    """The inputs as they came, with the target's column to fill in, beside what was predicted."""
    target = str(opened.description["config"].get("target") or "target")
    told = "value" if opened.output == "value" else "label"
    names = [name for name, _ in opened.columns]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*names, target, "predicted"])
        inputs = [_values(rows, INPUT + name) for name in names]
        for *values, predicted in zip(*inputs, _values(rows, told), strict=True):
            writer.writerow([*values, "", predicted])


def _publish(found: Watched, bars: Bars, pages: dict[str, str], key: str, context: StageContext) -> Artifact:
    with tempfile.TemporaryDirectory(prefix="atelier-monitor-") as scratch:
        folder = Path(scratch)
        document = {**found.model_dump(mode="json", exclude={"report"}), "bars": bars.model_dump()}
        (folder / REPORT).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        for name, text in pages.items():
            (folder / name).write_text(text, encoding="utf-8")
        return publish(context.store, folder, key, "monitor")
