"""Names, the index of what was imported, sources in object stores, and the stage."""

from __future__ import annotations

import os
import shutil
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from infra.context import StageContext
from infra.datasets import importer, names, sources
from infra.datasets.card import DatasetRef
from infra.datasets.dataset import open_dataset
from infra.datasets.derived import derive
from infra.datasets.importer import import_source, source_fingerprint
from infra.errors import DatasetNotFoundError, InvalidOptionError, InvalidSourceError, SourceNotFoundError
from infra.store import Store, open_store
from tasks.ingest import default_name, ingest
from tests.faulty_proxy import FaultyProxy


@pytest.fixture(params=["folder", "memory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "folder":
        return open_store(str(tmp_path / "store"))
    if request.param == "memory":
        return open_store(f"memory://{uuid.uuid4().hex}")
    return open_store(request.getfixturevalue("s3_workspace"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for label in ("a", "b"):
        (tmp_path / "things" / label).mkdir(parents=True)
        for i in range(5):
            (tmp_path / "things" / label / f"{i}.png").write_bytes(f"{label}{i}".encode())
    return tmp_path / "things"


def ref_of(number: int, name: str = "data") -> DatasetRef:
    return DatasetRef(digest=f"{number:064x}", name=name, kind="table")


def test_what_is_imported_is_found_by_name_by_digest_and_by_its_beginning(store: Store, folder: Path) -> None:
    ref = import_source(store, str(folder), "things")
    assert names.resolve(store, "things") == ref
    assert names.resolve(store, ref.digest).digest == ref.digest
    assert names.resolve(store, ref.digest[:8]).kind == "image"
    assert [card.digest for card in names.list_versions(store)] == [ref.digest]


@pytest.mark.parametrize("name", ["nothing", "0123abc", "0123abcd", "../x", ""])
def test_an_unknown_name_is_told_with_the_known_ones(store: Store, folder: Path, name: str) -> None:
    import_source(store, str(folder), "things")
    with pytest.raises(DatasetNotFoundError, match="Known: things"):
        names.resolve(store, name)


def test_a_name_keeps_its_history(store: Store) -> None:
    for number in (1, 2, 2, 1):
        names.record(store, ref_of(number), "source")
    assert [entry.digest[-1] for entry in names.history(store, "data")] == ["1", "2", "1"]
    assert names.resolve(store, "data") == ref_of(1)


def test_of_many_who_give_a_name_at_once_all_are_recorded(store: Store) -> None:
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda number: names.record(store, ref_of(number), "source"), range(1, 13)))
    assert sorted(int(entry.digest, 16) for entry in names.history(store, "data")) == list(range(1, 13))


def test_an_unchanged_source_is_not_read_again(store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = import_source(store, str(folder), "things")

    def read(*arguments: object) -> None:
        raise AssertionError("the source was read again")

    monkeypatch.setattr(sources, "fetch_source", read)
    assert import_source(store, str(folder), "things") == first
    assert import_source(store, str(folder), "other").digest == first.digest
    (folder / "a" / "0.png").write_bytes(b"new")
    with pytest.raises(AssertionError, match="read again"):
        import_source(store, str(folder), "things")


def test_the_fingerprint_changes_with_files_and_options(store: Store, folder: Path) -> None:
    before = source_fingerprint(store, str(folder))
    assert source_fingerprint(store, str(folder)) == before
    assert source_fingerprint(store, str(folder), split_seed=1) != before
    (folder / "a" / "0.png").write_bytes(b"xx")
    changed = source_fingerprint(store, str(folder))
    assert changed != before
    (folder / "a" / "0.png").unlink()
    assert source_fingerprint(store, str(folder)) not in (before, changed)


def test_a_version_that_was_deleted_is_imported_again(store: Store, folder: Path) -> None:
    ref = import_source(store, str(folder), "things")
    store.delete(ref.key)
    assert import_source(store, str(folder), "things") == ref
    assert names.list_versions(store)


def test_two_imports_at_once_make_one_version(store: Store, folder: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        refs = list(pool.map(lambda name: import_source(store, str(folder), name), ["one", "two"]))
    assert refs[0].digest == refs[1].digest
    data = open_dataset(store, refs[0], tmp_path / "cache")
    assert sum(table.num_rows for table in data.iter_tables("train")) == data.num_rows("train")


def test_a_failed_import_leaves_nothing_visible(store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise InvalidSourceError("x", ["broken in the middle"])

    monkeypatch.setattr(importer, "write_images", fail)
    with pytest.raises(InvalidSourceError):
        import_source(store, str(folder), "things")
    assert list(store.list("")) == []


@pytest.mark.parametrize("faults", [0.0, 0.05])
def test_a_source_in_a_bucket_is_the_same_version(
    s3_workspace: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, faults: float
) -> None:
    with FaultyProxy(os.environ["AWS_ENDPOINT_URL"], rate=faults, seed=5) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        bucket = s3_workspace.rsplit("/", 1)[0]
        outside = open_store(bucket)
        for path in folder.rglob("*.png"):
            outside.put_file(path, f"raw/things/{path.relative_to(folder).as_posix()}")
        archive = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", folder))
        outside.put_file(archive, "raw/packed.zip")
        store = open_store(s3_workspace)
        local = import_source(store, str(folder), "local")
        assert import_source(store, f"{bucket}/raw/things", "remote").digest == local.digest
        assert import_source(store, f"{bucket}/raw/packed.zip", "packed").digest == local.digest
        with pytest.raises(SourceNotFoundError):
            import_source(store, f"{bucket}/raw/nothing", "nothing")
        assert open_dataset(store, local, tmp_path / "cache").card.num_rows["train"] == 6
        assert (proxy.num_faults > 0) == (faults > 0)


def test_an_address_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSourceError, match=r"https:// addresses; allowed are a path, file://, or s3://"):
        import_source(open_store(str(tmp_path)), "https://host/data.zip", "data")


@pytest.mark.parametrize(
    ("source", "name"),
    [("/data/My Pets!", "my-pets"), ("t.v1.csv", "t.v1"), ("s3://bucket/a/Set.tar.gz", "set"), ("folder/", "folder"), ("/", "data")],
)
def test_a_source_has_a_default_name(source: str, name: str) -> None:
    assert default_name(source) == name
    assert names.check_name(name)


def context_of(tmp_path: Path) -> StageContext:
    context = StageContext.open()
    assert context.store.uri.startswith(str(tmp_path))
    return context


def test_the_stage_takes_a_path_a_uri_a_name_or_a_digest(workspace: Path, folder: Path, tmp_path: Path) -> None:
    context = context_of(tmp_path)
    ref = ingest(str(folder), algorithm_kind="image", context=context)
    assert ref.name == "things"
    for source in (f"file://{folder}", "things", ref.digest, ref.digest[:10]):
        assert ingest(source, algorithm_kind="image", context=context).digest == ref.digest


def test_the_stage_refuses_the_wrong_kind_and_what_is_not_there(workspace: Path, folder: Path, tmp_path: Path) -> None:
    context = context_of(tmp_path)
    with pytest.raises(InvalidSourceError, match="holds pictures, but the algorithm learns from a table"):
        ingest(str(folder), algorithm_kind="table", target="label", context=context)
    with pytest.raises(SourceNotFoundError, match="nowhere"):
        ingest("nowhere", algorithm_kind="image", context=context)


def test_a_name_that_may_not_be_one_is_refused(workspace: Path, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidOptionError):
        ingest(str(folder), name="a b", algorithm_kind="image", context=context_of(tmp_path))


def test_versions_are_listed_with_what_was_derived(store: Store, folder: Path) -> None:
    ref = import_source(store, str(folder), "things")
    derived = derive(store, ref, {"a/0.png"}, "quarantine", {})
    assert [(card.digest, card.lineage.operation) for card in names.list_versions(store)] == [
        (ref.digest, "import"),
        (derived.digest, "quarantine"),
    ]
    assert names.resolve(store, "things") == ref
