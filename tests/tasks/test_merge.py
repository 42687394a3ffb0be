"""Merging: old and new data as the next version; nothing twice, nothing from a test split into a training split."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from infra.context import StageContext
from infra.datasets import names
from infra.datasets.card import SPLITS, DatasetRef
from infra.datasets.dataset import open_dataset
from infra.errors import InvalidSourceError
from infra.events import DATASET_CREATED, pending
from tasks.ingest import ingest
from tasks.merge import merge

pytestmark = pytest.mark.usefixtures("workspace")


def rows(context: StageContext, ref: DatasetRef, column: str) -> dict[str, list[object]]:
    data = open_dataset(context.store, ref, context.settings.cache_path)
    return {split: [value for table in data.iter_tables(split) for value in table[column].to_pylist()] for split in SPLITS}


def folder_of(source: Path, target: Path, start: int, stop: int, classes: str = "0123") -> str:
    for name in classes:
        (target / name).mkdir(parents=True)
        for file in sorted((source / name).iterdir())[start:stop]:
            shutil.copy(file, target / name)
    return str(target)


def test_pictures_join_once_and_keep_their_split(few_digits: Path, tmp_path: Path) -> None:
    with StageContext.open() as context:
        old = ingest(folder_of(few_digits, tmp_path / "old", 0, 20), name="old", algorithm_kind="image", context=context)
        new = ingest(folder_of(few_digits, tmp_path / "new", 10, 30), name="new", algorithm_kind="image", context=context)
        merged = merge(old, [new], "all", context=context)
        digests, before = rows(context, merged.data, "sha256"), rows(context, old, "sha256")
        every = [one for split in SPLITS for one in digests[split]]
        assert len(every) == len(set(every))
        assert merged.num_added == len(every) - sum(map(len, before.values()))
        assert merged.num_added == len(
            {one for part in rows(context, new, "sha256").values() for one in part} - {o for p in before.values() for o in p}
        )
        for split in SPLITS:
            assert digests[split][: len(before[split])] == before[split], "old rows come first, in the split that they had"
        assert names.resolve(context.store, "all").digest == merged.data.digest
        assert "dataset:all" in [one.resource for one in pending(context.store) if one.event == DATASET_CREATED]
        assert merge(old, [new], "all", context=context) == merged
        assert merge(merged.data, [new], "all", context=context).num_added == 0
        card = open_dataset(context.store, merged.data, context.settings.cache_path).card
        assert (card.lineage.operation, card.lineage.parents) == ("merge", [old.digest])


def test_a_class_that_the_model_does_not_know_ends_it(few_digits: Path, tmp_path: Path) -> None:
    with StageContext.open() as context:
        old = ingest(folder_of(few_digits, tmp_path / "old", 0, 20, "01"), name="old", algorithm_kind="image", context=context)
        new = ingest(folder_of(few_digits, tmp_path / "new", 20, 40, "012"), name="new", algorithm_kind="image", context=context)
        with pytest.raises(InvalidSourceError, match="classes 2"):
            merge(old, [new], "all", context=context)


def test_rows_join_once_and_are_numbered_on(wine_table: Path, tmp_path: Path) -> None:
    frame = pd.read_csv(wine_table).sample(frac=1, random_state=0)
    frame[:120].to_csv(tmp_path / "old.csv", index=False)
    frame[100:].to_csv(tmp_path / "new.csv", index=False)
    with StageContext.open() as context:
        old, new = (
            ingest(str(tmp_path / f"{name}.csv"), name=name, algorithm_kind="table", target="kind", context=context)
            for name in ("old", "new")
        )
        merged = merge(old, [new], "all", context=context)
        assert merged.num_added == len(frame) - 120
        numbers = [one for part in rows(context, merged.data, "_row").values() for one in part]
        assert len(set(numbers)) == len(numbers) == len(frame)
        for split, before in rows(context, old, "_row").items():
            assert rows(context, merged.data, "_row")[split][: len(before)] == before


def test_a_table_without_a_column_ends_it(wine_table: Path, tmp_path: Path) -> None:
    frame = pd.read_csv(wine_table)
    frame.drop(columns="alcohol").to_csv(tmp_path / "new.csv", index=False)
    with StageContext.open() as context:
        old = ingest(str(wine_table), name="old", algorithm_kind="table", target="kind", context=context)
        new = ingest(str(tmp_path / "new.csv"), name="new", algorithm_kind="table", target="kind", context=context)
        with pytest.raises(InvalidSourceError, match="no column alcohol"):
            merge(old, [new], "all", context=context)
