"""Looking at the data: one task for each row group on the Dask cluster's slots, and all results put together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pandas as pd

from algorithms.spec import Expectation
from infra.context import StageContext
from infra.datasets.card import SPLITS, DatasetRef
from infra.datasets.dataset import Dataset, RowGroup, open_dataset
from infra.store import open_store
from tasks import _gx
from tasks._fan_out import in_order
from tasks._near_duplicates import describe_duplicates, show_pictures
from tasks._pictures import THUMB, join_profiles, profile_pictures, summarise_pictures
from tasks._profiles import class_profile, column_profile
from tasks._table_judge import TableJudge, as_rule
from tasks._table_pass import DRIFT_SAMPLE, Plan, TablePart, empty_part, measure_chunk

if TYPE_CHECKING:
    import pyarrow as pa

Part = TypeVar("Part")
BUNDLE_ROWS = (
    200  # pictures of a task: small row groups go together, so that the scheduling of many short tasks does not cost more than they do
)


@dataclass
class Look:
    """What was found.

    Attributes:
        outcomes: of the expectations about samples.
        invalid: broken samples and why, in the order of the data; not all of them when there are far more than may be set aside.
        num_invalid: how many are broken.
        rules: the types of the expectations that each broken sample breaks.
        dropped: broken samples of each split.
        classes, columns: the tables that the other expectations speak of.
        summary: further numbers for the report.
        duplicates: pictures that look the same, see ``tasks._near_duplicates``; None for tables.
    """

    outcomes: list[_gx.Outcome]
    invalid: dict[Any, list[str]] = field(default_factory=dict)
    num_invalid: int = 0
    rules: dict[Any, list[str]] = field(default_factory=dict)
    dropped: Counter[str] = field(default_factory=Counter)
    classes: pd.DataFrame | None = None
    columns: pd.DataFrame | None = None
    summary: dict[str, Any] = field(default_factory=dict)
    duplicates: dict[str, Any] | None = None

    def set_aside(self) -> None:
        """Collect the broken samples from the outcomes."""
        for outcome in self.outcomes:
            if outcome.success or not outcome.expectation.per_sample or outcome.expectation.severity != "error":
                continue
            for sample, reason in zip(outcome.ids, outcome.reasons, strict=True):
                self.invalid.setdefault(sample, []).append(reason)
                self.rules.setdefault(sample, []).append(outcome.expectation.type)
            self.num_invalid = max(self.num_invalid, outcome.num_unexpected)
        self.num_invalid = max(self.num_invalid, len(self.invalid))


@lru_cache(maxsize=4)
def open_here(uri: str, ref: DatasetRef, cache: Path) -> Dataset:
    """A worker's own, kept between tasks, so that a card is read and a shard verified once."""
    return open_dataset(open_store(uri), ref, cache)


def _pictures_task(uri: str, ref: DatasetRef, cache: Path, groups: Sequence[RowGroup]) -> list[pa.Table]:
    dataset = open_here(uri, ref, cache)
    columns = ["path", "sha256", "label", "image"]
    return [profile_pictures(dataset.read(group, columns), group.split, dataset.card.classes) for group in groups]


def _table_task(uri: str, ref: DatasetRef, cache: Path, groups: Sequence[RowGroup], plan: Plan) -> TablePart:
    (group,) = groups
    return measure_chunk(open_here(uri, ref, cache).read(group, [*plan.types, "_row"]), group.split, plan)


def bundles(dataset: Dataset, rows: int) -> Iterator[list[RowGroup]]:
    """All row groups in order, as many together as it takes to have ``rows`` rows or more."""
    bundle: list[RowGroup] = []
    for group in (group for split in SPLITS for group in dataset.row_groups(split)):
        bundle.append(group)
        if sum(one.num_rows for one in bundle) >= rows:
            yield bundle
            bundle = []
    if bundle:
        yield bundle


def each_bundle(
    context: StageContext, dataset: Dataset, rows: int, task: Callable[..., Part], *arguments: Any, phase: str = "validate"
) -> Iterator[Part]:
    """The task's result for every bundle of row groups, in order; on all slots, a few ahead, reporting progress. Stops its tasks when it is left."""
    groups = list(bundles(dataset, rows))
    calls = [(context.store.uri, dataset.ref, dataset.cache_dir, bundle, *arguments) for bundle in groups]
    yield from in_order(context, task, calls, [sum(group.num_rows for group in bundle) for bundle in groups], phase=phase)


def look_at_pictures(dataset: Dataset, expectations: Sequence[Expectation], context: StageContext, loading: Future[Any]) -> Look:
    """Decode every picture once, and judge their profile."""
    profiles = [profile for part in each_bundle(context, dataset, BUNDLE_ROWS, _pictures_task) for profile in part]
    loading.result()
    frame = join_profiles(profiles)
    look = Look(_gx.judge_frame(frame, expectations, "path"))
    look.set_aside()
    broken = frame["path"].isin(look.invalid.keys())
    look.invalid = {path: look.invalid[path] for path in frame.loc[broken, "path"]}
    look.dropped = Counter(frame.loc[broken, "split"].tolist())
    kept = frame[~broken]
    counts = {str(split): Counter(group["label"].dropna().tolist()) for split, group in kept.groupby("split")}
    if dataset.card.classes:
        look.classes = pd.DataFrame(class_profile(counts, dataset.card.classes))
    look.duplicates = describe_duplicates(frame, [thumb for profile in profiles for thumb in profile.column(THUMB).to_pylist()])
    show_pictures(look.duplicates, lambda paths: _read_pictures(dataset, profiles, paths))
    near = {f"near_duplicate_{name}": look.duplicates[f"num_{name}"] for name in ("groups", "pictures", "conflicts")}
    look.summary = {"pictures": summarise_pictures(frame) | near}
    return look


def _read_pictures(dataset: Dataset, profiles: Sequence[pa.Table], paths: set[str]) -> dict[str, bytes]:
    """Some pictures by path; only the row groups that hold one are read, one at a time."""
    found: dict[str, bytes] = {}
    groups = [group for split in SPLITS for group in dataset.row_groups(split)]
    for group, profile in zip(groups, profiles, strict=True):
        rows = [row for row, path in enumerate(profile.column("path").to_pylist()) if path in paths]
        if rows:
            images = dataset.read(group, ["image"]).column("image").take(rows).to_pylist()
            found |= {profile.column("path")[row].as_py(): image for row, image in zip(rows, images, strict=True)}
    return found


def look_at_table(
    dataset: Dataset,
    expectations: Sequence[Expectation],
    target: str | None,
    regression: bool,
    used: Collection[str],
    most_ids: int,
    context: StageContext,
    loading: Future[Any],
) -> Look:
    """Pass over every row once, and judge what was added up.

    Args:
        used: columns that the algorithm learns from.
        most_ids: how many broken rows are remembered, at least.
    """
    card = dataset.card
    types = {feature.name: str(feature.type) for feature in card.features if feature.name != "_row"}
    rules = [as_rule(expectation, types) for expectation in expectations]
    strides = {split: max(1, rows // DRIFT_SAMPLE) for split, rows in card.num_rows.items()}
    plan = Plan(types, target, regression, tuple(rule for rule in rules if rule is not None), strides)
    whole = empty_part(plan)
    for part in each_bundle(context, dataset, 1, _table_task, plan):
        whole.add(part, most_ids)
    loading.result()
    look = Look(TableJudge(expectations, rules, types, sum(card.num_rows.values()), dataset).judge(whole))
    look.set_aside()
    look.invalid = dict(sorted(look.invalid.items()))
    where = whole.where | _find_rows(dataset, target, regression, look.invalid.keys() - whole.where.keys())
    look.dropped = Counter(where[row][0] for row in look.invalid)
    look.columns = pd.DataFrame([row for row in column_profile(whole, plan) if row["column"] in used or row["column"] == target])
    if target and not regression:
        classes = sorted(set().union(*whole.classes.values()) | set(card.classes))
        for split, name in (where[row] for row in look.invalid):
            whole.classes[split][str(name)] -= name is not None
        look.classes = pd.DataFrame(class_profile(whole.classes, classes))
    return look


def _find_rows(dataset: Dataset, target: str | None, regression: bool, rows: set[int]) -> dict[int, tuple[str, str | None]]:
    """Split and class of rows that were found broken only after the pass."""
    found: dict[int, tuple[str, str | None]] = {}
    for split in SPLITS if rows else ():
        for table in dataset.iter_tables(split, ["_row", *([target] if target and not regression else [])]):
            labels = table.column(1).cast("string").to_pylist() if table.num_columns > 1 else [None] * table.num_rows
            found |= {row: (split, name) for row, name in zip(table.column("_row").to_pylist(), labels, strict=True) if row in rows}
    return found
