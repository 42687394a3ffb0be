"""Importing folders of pictures."""

from __future__ import annotations

import hashlib
import io
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from infra.datasets import images, importer, shards
from infra.datasets.card import SPLITS, Card, DatasetRef, Shard
from infra.datasets.dataset import Dataset, open_dataset
from infra.datasets.derived import derive
from infra.datasets.importer import import_source
from infra.errors import CorruptArtifactError, InvalidOptionError, InvalidSourceError, SourceNotFoundError
from infra.store import Store, open_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


def picture(number: int) -> bytes:
    data = io.BytesIO()
    Image.fromarray(np.random.default_rng(number).integers(0, 256, (8, 8), np.uint8)).save(data, "PNG")
    return data.getvalue()


def fill(folder: Path, counts: dict[str, int], first: int = 0) -> Path:
    """``counts`` pictures in each class folder, all different."""
    for label, count in counts.items():
        (folder / label).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            (folder / label / f"{i}.png").write_bytes(picture(first := first + 1))
    return folder


def opened(store: Store, ref: DatasetRef, tmp_path: Path) -> Dataset:
    return open_dataset(store, ref, tmp_path / "cache")


def rows(data: Dataset) -> dict[str, tuple[str, str]]:
    """Split and class of every path."""
    return {
        row["path"]: (split, data.card.classes[row["label"]])
        for split in SPLITS
        for table in data.iter_tables(split, ["path", "label"])
        for row in table.to_pylist()
    }


def test_an_image_folder_is_imported_whole(store: Store, tmp_path: Path) -> None:
    folder = fill(tmp_path / "pets", {"cats": 20, "dogs": 10, "newts": 3})
    data = opened(store, import_source(store, str(folder), "pets"), tmp_path)
    card = data.card
    assert (card.kind, card.name, card.classes, card.target) == ("image", "pets", ["cats", "dogs", "newts"], "label")
    assert card.num_rows == {"train": 22, "valid": 5, "test": 6}
    assert card.counts["train"] == {"cats": 14, "dogs": 7, "newts": 1}
    assert [card.counts[split]["newts"] for split in SPLITS] == [1, 1, 1]
    assert card.source.uri == str(folder)
    found = rows(data)
    assert set(found) == {path.relative_to(folder).as_posix() for path in folder.rglob("*.png")}
    assert all(path.split("/")[0] == label for path, (_, label) in found.items())
    table = data.read(data.row_groups("train")[0])
    assert table.column_names == ["path", "sha256", "label", "image"]
    for row in table.to_pylist():
        assert row["image"] == (folder / row["path"]).read_bytes()
        assert row["sha256"] == hashlib.sha256(row["image"]).hexdigest()


def test_the_same_pictures_are_the_same_version_whatever_their_folder_is_called(store: Store, tmp_path: Path) -> None:
    one = fill(tmp_path / "one", {"a": 8, "b": 9})
    other = tmp_path / "deep" / "other"
    for path in sorted(one.rglob("*.png"), reverse=True):  # made in another order
        (other / path.relative_to(one)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, other / path.relative_to(one))
    first, second = import_source(store, str(one), "one"), import_source(store, str(other), "other")
    assert first.digest == second.digest
    assert (first.name, second.name) == ("one", "other")
    assert len([key for key in store.list("datasets/") if key.endswith("card.json")]) == 1


@pytest.mark.parametrize("change", ["bytes", "name", "class", "seed", "ratios"])
def test_what_differs_is_another_version(store: Store, tmp_path: Path, change: str) -> None:
    folder = fill(tmp_path / "data", {"a": 30, "b": 30})
    before = import_source(store, str(folder), "data")
    if change == "bytes":
        (folder / "a" / "0.png").write_bytes(picture(1000))
    elif change == "name":
        (folder / "a" / "0.png").rename(folder / "a" / "new.png")
    elif change == "class":
        (folder / "a" / "0.png").rename(folder / "b" / "new.png")
    after = import_source(
        store,
        str(folder),
        "data",
        split_seed=1 if change == "seed" else 0,
        ratios=(0.5, 0.25, 0.25) if change == "ratios" else (0.7, 0.15, 0.15),
    )
    assert before.digest != after.digest


def test_given_splits_are_kept(store: Store, tmp_path: Path) -> None:
    fill(tmp_path / "data" / "train", {"a": 6, "b": 6})
    fill(tmp_path / "data" / "val", {"a": 2, "b": 2}, first=100)
    fill(tmp_path / "data" / "test", {"a": 3, "b": 3}, first=200)
    data = opened(store, import_source(store, str(tmp_path / "data"), "data"), tmp_path)
    assert data.card.split_rule == {"given": True}
    assert data.card.num_rows == {"train": 12, "valid": 4, "test": 6}
    assert all(split == {"val": "valid"}.get(path.split("/")[0], path.split("/")[0]) for path, (split, _) in rows(data).items())


def test_a_missing_valid_split_is_taken_out_of_train(store: Store, tmp_path: Path) -> None:
    fill(tmp_path / "data" / "train", {"a": 20, "b": 20})
    fill(tmp_path / "data" / "test", {"a": 5, "b": 5}, first=100)
    data = opened(store, import_source(store, str(tmp_path / "data"), "data"), tmp_path)
    assert data.card.split_rule["made"] == ["valid"]
    assert data.card.num_rows["test"] == 10
    assert data.card.counts["valid"] == {"a": 4, "b": 4}
    assert all(path.startswith("test/") for path, (split, _) in rows(data).items() if split == "test")


def test_a_class_may_be_called_train(store: Store, tmp_path: Path) -> None:
    folder = fill(tmp_path / "vehicles", {"train": 5, "plane": 5})
    assert opened(store, import_source(store, str(folder), "vehicles"), tmp_path).card.classes == ["plane", "train"]


def test_identical_pictures_never_fall_into_two_splits(store: Store, tmp_path: Path) -> None:
    folder = fill(tmp_path / "data", {"a": 20, "b": 20})
    for i in range(20):
        shutil.copy(folder / "a" / f"{i}.png", folder / "a" / f"twin-{i}.png")
        shutil.copy(folder / "b" / f"{i}.png", folder / "a" / f"wrong-{i}.png")
    found = rows(opened(store, import_source(store, str(folder), "data"), tmp_path))
    for i in range(20):
        assert found[f"a/{i}.png"][0] == found[f"a/twin-{i}.png"][0]
        assert found[f"b/{i}.png"][0] == found[f"a/wrong-{i}.png"][0]


def test_files_that_are_no_samples_are_listed(store: Store, tmp_path: Path) -> None:
    folder = fill(tmp_path / "data", {"a": 3, "b": 3})
    for name in (".DS_Store", "a/Thumbs.db", "b/notes.txt", "stray.png", "a/._0.png"):
        (folder / name).write_bytes(b"x")
    (folder / "empty class").mkdir()
    source = opened(store, import_source(store, str(folder), "data"), tmp_path).card.source
    assert source.ignored == [".DS_Store", "a/._0.png", "a/Thumbs.db", "b/notes.txt", "empty class/", "stray.png"]
    assert source.num_ignored == 6


def test_broken_pictures_are_imported_as_they_are(store: Store, tmp_path: Path) -> None:
    folder = fill(tmp_path / "data", {"a": 3, "b": 3})
    (folder / "a" / "text.png").write_text("not a picture")
    (folder / "a" / "empty.jpg").write_bytes(b"")
    data = opened(store, import_source(store, str(folder), "data"), tmp_path)
    found = {row["path"]: row["image"] for split in SPLITS for table in data.iter_tables(split) for row in table.to_pylist()}
    assert (found["a/text.png"], found["a/empty.jpg"]) == (b"not a picture", b"")


def test_names_of_any_language_and_case_are_kept(store: Store, tmp_path: Path) -> None:
    folder = fill(tmp_path / "data", {"Käfer äöü": 3, "鳥": 3})
    (folder / "鳥" / "0.png").rename(folder / "鳥" / "UPPER.PNG")
    found = rows(opened(store, import_source(store, str(folder), "data"), tmp_path))
    assert "鳥/UPPER.PNG" in found


def _empty(folder: Path) -> None:
    folder.mkdir()


def _flat(folder: Path) -> None:
    folder.mkdir()
    (folder / "1.png").write_bytes(picture(1))


def _one_class(folder: Path) -> None:
    fill(folder, {"cats": 5})


def _alone(folder: Path) -> None:
    fill(folder, {"cats": 5, "dogs": 1, "newts": 1})


def _flat_splits(folder: Path) -> None:
    fill(folder, {"train": 3, "test": 3})


def _texts(folder: Path) -> None:
    folder.mkdir()
    (folder / "a.txt").write_text("x")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_empty, "the folder is empty"),
        (_flat, "1 pictures lie directly in it, not in a folder for each class"),
        (_one_class, r"one class only: cats \(5 pictures\)"),
        (_alone, "class 'dogs' has 1 picture\n  - class 'newts' has 1 picture\nA class needs at least 2"),
        (_flat_splits, "6 pictures lie directly in train/"),
        (_texts, "none is a picture or a table"),
    ],
)
def test_a_folder_that_is_no_image_data_set_is_refused(store: Store, tmp_path: Path, make: Callable[[Path], None], words: str) -> None:
    make(tmp_path / "data")
    with pytest.raises(InvalidSourceError, match=words):
        import_source(store, str(tmp_path / "data"), "data")
    assert list(store.list("")) == []


def test_a_path_that_does_not_exist_is_told(store: Store, tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError, match="nowhere"):
        import_source(store, str(tmp_path / "nowhere"), "data")


def test_a_picture_that_changes_while_it_is_imported_is_told(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fill(tmp_path / "data", {"a": 3, "b": 3})
    write_images = importer.write_images

    def change_first(*arguments: Any) -> list[Shard]:
        (folder / "a" / "1.png").write_bytes(picture(99))
        return write_images(*arguments)

    monkeypatch.setattr(importer, "write_images", change_first)
    with pytest.raises(InvalidSourceError, match=r"a/1\.png changed while it was imported"):
        import_source(store, str(folder), "data")
    assert list(store.list("")) == []


def test_a_name_with_a_slash_is_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(InvalidOptionError, match="name 'a/b'"):
        import_source(store, str(tmp_path), "a/b")


def test_row_groups_are_bounded_by_rows_and_by_bytes(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "GROUP_ROWS", 64)
    monkeypatch.setattr(images, "GROUP_BYTES", 4000)
    monkeypatch.setattr(shards, "SHARD_BYTES", 8000)
    folder = fill(tmp_path / "data", {"a": 100, "b": 100})
    data = opened(store, import_source(store, str(folder), "data"), tmp_path)
    groups = data.row_groups("train")
    assert sum(group.num_rows for group in groups) == data.num_rows("train") == 140
    assert len({group.shard for group in groups}) > 1
    for group in groups:
        table = data.read(group)
        assert table.num_rows == group.num_rows <= 64
        assert table.nbytes < 5000
        assert len(set(table["label"].to_pylist())) == 2  # classes are mixed


def test_a_damaged_shard_is_named(store: Store, tmp_path: Path) -> None:
    ref = import_source(store, str(fill(tmp_path / "data", {"a": 10, "b": 10})), "data")
    data = opened(store, ref, tmp_path)
    group = data.row_groups("train")[0]
    data.read(group)
    path = tmp_path / "store" / ref.key / group.shard
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 255
    path.write_bytes(damaged)
    with pytest.raises(CorruptArtifactError, match=group.shard):
        data.read(group)


def test_what_is_derived_lacks_what_was_dropped_and_nothing_else(store: Store, tmp_path: Path) -> None:
    parent = import_source(store, str(fill(tmp_path / "data", {"a": 20, "b": 20})), "data")
    before = rows(opened(store, parent, tmp_path))
    ref = derive(store, parent, {"a/1.png", "b/2.png"}, "quarantine", {"reasons": {"a/1.png": "cannot be decoded"}})
    data = opened(store, ref, tmp_path)
    assert rows(data) == {path: where for path, where in before.items() if path not in ("a/1.png", "b/2.png")}
    assert data.card.lineage.parents == [parent.digest]
    assert data.card.lineage.operation == "quarantine"
    assert data.card.lineage.details["reasons"] == {"a/1.png": "cannot be decoded"}
    assert sum(data.card.num_rows.values()) == 38
    assert sum(sum(counts.values()) for counts in data.card.counts.values()) == 38
    assert derive(store, parent, ["b/2.png", "a/1.png"], "quarantine", {}) == ref
    assert derive(store, parent, set(), "quarantine", {}) == parent


def test_a_remote_version_reads_through_the_cache(tmp_path: Path) -> None:
    store = open_store(f"memory://{uuid.uuid4().hex}")
    folder = fill(tmp_path / "data", {"a": 10, "b": 10})
    ref = import_source(store, str(folder), "data")
    data = opened(store, ref, tmp_path)
    assert len(rows(data)) == 20
    assert data.local_shard(data.card.shards[0].file).is_relative_to(tmp_path / "cache")
    store.delete(f"{ref.key}/{data.card.shards[0].file}")
    assert len(rows(data)) == 20  # from the cache


def test_a_data_set_pickles_by_its_reference(store: Store, tmp_path: Path) -> None:
    import pickle

    data = opened(store, import_source(store, str(fill(tmp_path / "data", {"a": 4, "b": 4})), "data"), tmp_path)
    copy = pickle.loads(pickle.dumps(data))
    assert isinstance(copy.card, Card)
    assert rows(copy) == rows(data)
    assert len(pickle.dumps(data)) < 2000
