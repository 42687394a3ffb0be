"""Repair: a new version of a data set with what can be mended mended, each repair listed; the version that it comes from stays as it is."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from infra.artifacts import Artifact, find, publish, read_file
from infra.context import StageContext
from infra.datasets.card import SPLITS, DatasetRef
from infra.datasets.dataset import Dataset, RowGroup, open_dataset
from infra.datasets.derived import find_rewritten, rewrite
from infra.keys import content_key
from tasks._look import BUNDLE_ROWS, bundles, each_bundle, open_here
from tasks._mend_pictures import LARGEST_SIDE, mend_picture
from tasks._mend_tables import TableRepairs, find_table_repairs, mend_rows

if TYPE_CHECKING:
    from infra.datasets.card import Feature

REPORT = "repairs.json"
VERSION = 2  # of what is mended and how; raise it when the same data may become another


class Repair(BaseModel):
    """What was done to one sample, or to one column of a table."""

    model_config = ConfigDict(frozen=True)

    id: str = Field(description="Path of a picture; column of a table.")
    to: str = Field(default="", description="Its new path, if that changed.")
    what: list[str]


class Repaired(BaseModel):
    """Data after repair."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: DatasetRef = Field(description="The new version; the one that was given if there was nothing to mend.")
    report: Artifact = Field(description="repairs.json: every repair.")
    num_repaired: int = Field(description="Pictures, or columns of a table, that were mended.")


def repair(data: DatasetRef, *, target: str | None = None, largest: int = LARGEST_SIDE, context: StageContext) -> Repaired:
    """Mend what can be mended.

    Pictures: a suffix that is not that of the format, channels other than grey and RGB of 8 bits, an EXIF turn, sides over ``largest`` pixels,
    and damaged files that still show half of their rows or more. Tables: numbers kept as text, blanks around text, and wrongly decoded letters.

    Args:
        data: the version to mend; its splits and labels stay.
        target: tables: a column that stays text, as its values are classes.
    """
    key = f"repairs/{content_key({'version': VERSION, 'dataset': data.digest, 'target': target, 'largest': largest})}"
    report = None if context.fresh else find(context.store, key)
    if report is not None:
        answer = json.loads(read_file(context.store, report, REPORT))
        if find(context.store, DatasetRef(**answer["data"]).key) is not None:
            return _repaired(answer, report, data)
    dataset = open_dataset(context.store, data, context.settings.cache_path)
    mended, repairs = _repair_pictures(dataset, largest, context) if data.kind == "image" else _repair_table(dataset, target, context)
    answer = {
        "source": data.digest,
        "data": mended.model_dump(mode="json"),
        "summary": summarise_repairs(repairs),
        "repairs": [one.model_dump(mode="json") for one in repairs],
    }
    with tempfile.TemporaryDirectory(prefix="atelier-repair-") as scratch:
        (Path(scratch) / REPORT).write_text(json.dumps(answer, indent=1) + "\n", encoding="utf-8")
        report = publish(context.store, Path(scratch), key, kind="repair")
    told = "; ".join(f"{kind} ({count})" for kind, count in answer["summary"].items()) or "nothing to mend"
    context.report({"kind": "log", "message": f"repair: {told}"})
    return _repaired(answer, report, data)


def _repaired(answer: Mapping[str, Any], report: Artifact, data: DatasetRef) -> Repaired:
    mended = DatasetRef(digest=answer["data"]["digest"], name=data.name, kind=data.kind)
    return Repaired(data=mended, report=report, num_repaired=len(answer["repairs"]))


Found = dict[str, tuple[str, str, tuple[str, ...]]]  # by path: digest of the new bytes or "", new suffix or "", repairs


def _find_task(uri: str, ref: DatasetRef, cache: Path, groups: Sequence[RowGroup], largest: int) -> list[Found]:
    """What is to be mended in each row group; the mended bytes are made again when they are written, so that none has to be held."""
    dataset = open_here(uri, ref, cache)
    return [_find(dataset.read(group, ["path", "image"]), largest) for group in groups]


def _find(table: pa.Table, largest: int) -> Found:
    found: Found = {}
    images = table.column("image")
    for row, path in enumerate(table.column("path").to_pylist()):
        mended = mend_picture(path, images[row].as_py(), largest)
        if mended is not None:
            digest = "" if mended.data is None else hashlib.sha256(mended.data).hexdigest()
            found[path] = (digest, mended.suffix, mended.repairs)
    return found


def _mend_task(
    uri: str, ref: DatasetRef, cache: Path, groups: Sequence[RowGroup], largest: int, names: Mapping[str, str]
) -> list[pa.Table | None]:
    """The rows of each row group that has something to mend; None for the others, which whoever asks reads where they lie."""
    dataset = open_here(uri, ref, cache)
    tables = []
    for group in groups:
        paths = set(dataset.read(group, ["path"]).column("path").to_pylist())
        tables.append(_mend(dataset.read(group), largest, names) if not paths.isdisjoint(names) else None)
    return tables


def _mend(table: pa.Table, largest: int, names: Mapping[str, str]) -> pa.Table:
    rows = table.to_pydict()
    for row, path in enumerate(rows["path"]):
        mended = mend_picture(path, rows["image"][row], largest) if path in names else None
        if mended is None:
            continue
        rows["path"][row] = names[path]
        if mended.data is not None:
            rows["image"][row] = mended.data
            rows["sha256"][row] = hashlib.sha256(mended.data).hexdigest()
    return pa.table(rows, schema=table.schema)


def new_names(found: Mapping[str, str], taken: set[str]) -> dict[str, str]:
    """The path of each picture after repair: with its new suffix, and a number before it if that is another picture's name.

    Args:
        found: new suffix, or "", by path.
        taken: all paths there are.
    """
    names: dict[str, str] = {}
    taken = set(taken)
    for path, suffix in sorted(found.items()):
        name = path
        if suffix:
            stem = PurePosixPath(path).with_suffix("").as_posix()
            name, number = stem + suffix, 1
            while name in taken:
                name, number = f"{stem}-{number}{suffix}", number + 1
            taken.add(name)
        names[path] = name
    return names


def _repair_pictures(dataset: Dataset, largest: int, context: StageContext) -> tuple[DatasetRef, list[Repair]]:
    found: Found = {}
    for part in each_bundle(context, dataset, BUNDLE_ROWS, _find_task, largest, phase="repair: look"):
        for one in part:
            found |= one
    if not found:
        return dataset.ref, []
    taken = {path for split in SPLITS for table in dataset.iter_tables(split, ["path"]) for path in table.column("path").to_pylist()}
    names = new_names({path: suffix for path, (_, suffix, _) in found.items()}, taken)
    repairs = [Repair(id=path, to=names[path] if names[path] != path else "", what=list(found[path][2])) for path in sorted(found)]
    recipe = {"version": VERSION, "mended": [[path, names[path], found[path][0]] for path in sorted(found)]}
    ref = find_rewritten(context.store, dataset.ref, "repair", recipe)
    if ref is None:
        ref = rewrite(
            context.store, dataset.ref, "repair", recipe, _mended_pictures(dataset, largest, names, context), {"num_repaired": len(repairs)}
        )
    return ref, repairs


def _mended_pictures(dataset: Dataset, largest: int, names: Mapping[str, str], context: StageContext) -> Iterator[tuple[str, pa.Table]]:
    mended = each_bundle(context, dataset, BUNDLE_ROWS, _mend_task, largest, dict(names), phase="repair: write")
    for groups, tables in zip(bundles(dataset, BUNDLE_ROWS), mended, strict=True):
        for group, table in zip(groups, tables, strict=True):
            yield group.split, dataset.read(group) if table is None else table


def _repair_table(dataset: Dataset, target: str | None, context: StageContext) -> tuple[DatasetRef, list[Repair]]:
    plan = find_table_repairs(dataset, target, context)
    # Import had to decode the files already, or there would be no version to mend.
    encodings = dataset.card.lineage.details.get("encodings", {})
    decoded = [Repair(id=file, what=[f"encoding: read as {name}, kept as UTF-8"]) for file, name in encodings.items()]
    if not plan.columns:
        return dataset.ref, decoded
    repairs = decoded + [Repair(id=column.name, what=column.told()) for column in plan.columns]
    recipe = {"version": VERSION, "columns": plan.recipe()}
    ref = find_rewritten(context.store, dataset.ref, "repair", recipe)
    if ref is None:
        details = {"num_repaired": len(repairs), "columns": [column.name for column in plan.columns]}
        ref = rewrite(
            context.store,
            dataset.ref,
            "repair",
            recipe,
            _mended_rows(dataset, plan),
            details,
            features=_features(dataset, plan),
            relabelled=True,
        )
    return ref, repairs


def _mended_rows(dataset: Dataset, plan: TableRepairs) -> Iterator[tuple[str, pa.Table]]:
    for split in SPLITS:
        for table in dataset.iter_tables(split):
            yield split, mend_rows(table, plan)


def _features(dataset: Dataset, plan: TableRepairs) -> list[Feature]:
    types = {column.name: column.becomes for column in plan.columns if column.becomes}
    return [feature.model_copy(update={"type": types.get(feature.name, feature.type)}) for feature in dataset.card.features]


def summarise_repairs(repairs: Sequence[Repair]) -> dict[str, int]:
    """How often each kind of repair was made: the words before what is particular to a sample."""
    kinds = Counter(what.split(":")[0].split("(")[0].split(",")[0].strip() for one in repairs for what in one.what)
    return dict(sorted(kinds.items(), key=lambda pair: (-pair[1], pair[0])))
