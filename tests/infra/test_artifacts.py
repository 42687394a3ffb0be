"""Artifacts: whole or not there, and verified."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from infra.artifacts import MANIFEST, Artifact, fetch, find, publish, read_file
from infra.errors import ArtifactNotFoundError, CorruptArtifactError, StoreUnavailableError
from infra.store import FolderStore, MemoryStore, Store, open_store


@pytest.fixture(params=["folder", "memory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "folder":
        return open_store(str(tmp_path / "store"))
    if request.param == "memory":
        return open_store(f"memory://{uuid.uuid4().hex}")
    return open_store(request.getfixturevalue("s3_workspace"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "made" / "deep").mkdir(parents=True)
    (tmp_path / "made" / "model.onnx").write_bytes(b"weights")
    (tmp_path / "made" / "deep" / "file.txt").write_bytes(b"text")
    return tmp_path / "made"


def _flip(store: Store, key: str) -> None:
    """Damage an object as a broken disk would."""
    data = bytearray(store.read_bytes(key))
    data[0] ^= 1
    store.write_bytes(key, bytes(data))


def test_what_is_published_is_found_and_fetched(store: Store, folder: Path, tmp_path: Path) -> None:
    artifact = publish(store, folder, "runs/1/train", "train")
    assert (artifact.key, artifact.kind) == ("runs/1/train", "train")
    assert find(store, "runs/1/train") == artifact
    local = fetch(store, artifact, tmp_path / "cache")
    assert (local / "model.onnx").read_bytes() == b"weights"
    assert (local / "deep" / "file.txt").read_bytes() == b"text"
    assert read_file(store, artifact, "deep/file.txt") == b"text"
    assert fetch(store, artifact, tmp_path / "cache") == local


def test_the_handle_depends_on_content_only(store: Store, folder: Path) -> None:
    assert publish(store, folder, "a", "train").digest == publish(store, folder, "b", "train").digest
    assert publish(store, folder, "c", "export").digest != publish(store, folder, "a", "train").digest


def test_publishing_the_same_again_changes_nothing(store: Store, folder: Path) -> None:
    artifact = publish(store, folder, "a", "train")
    before = list(store.states(""))
    assert publish(store, folder, "a", "train") == artifact
    assert list(store.states("")) == before


def test_publishing_another_replaces_it_or_keeps_it(store: Store, folder: Path, tmp_path: Path) -> None:
    first = publish(store, folder, "a", "train")
    (folder / "model.onnx").write_bytes(b"other")
    (folder / "deep" / "file.txt").unlink()
    assert publish(store, folder, "a", "train", replace=False) == first
    assert read_file(store, first, "model.onnx") == b"weights"
    second = publish(store, folder, "a", "train")
    assert second != first
    assert read_file(store, second, "model.onnx") == b"other"
    assert list(store.list("a/")) == [f"a/{MANIFEST}", "a/model.onnx"]
    with pytest.raises(CorruptArtifactError, match=MANIFEST):  # the old handle names what is gone
        fetch(store, first, tmp_path / "cache")


def test_an_artifact_without_its_manifest_does_not_exist(store: Store, folder: Path, tmp_path: Path) -> None:
    artifact = publish(store, folder, "a", "train")
    store.delete(f"a/{MANIFEST}")
    assert find(store, "a") is None
    with pytest.raises(ArtifactNotFoundError, match="No artifact 'a'"):
        fetch(store, artifact, tmp_path / "cache")
    assert publish(store, folder, "a", "train") == artifact


def test_a_damaged_file_is_named(store: Store, folder: Path, tmp_path: Path) -> None:
    artifact = publish(store, folder, "a", "train")
    if store.local_path("a") is not None:
        fetch(store, artifact, tmp_path / "cache")  # what was good a moment ago is looked at again
    _flip(store, "a/model.onnx")
    with pytest.raises(CorruptArtifactError, match=r"a/model\.onnx is damaged"):
        fetch(store, artifact, tmp_path / "cache")
    with pytest.raises(CorruptArtifactError, match=r"a/model\.onnx is damaged"):
        read_file(store, artifact, "model.onnx")
    assert read_file(store, artifact, "deep/file.txt") == b"text"


def test_a_damaged_manifest_is_named(store: Store, folder: Path) -> None:
    artifact = publish(store, folder, "a", "train")
    _flip(store, f"a/{MANIFEST}")
    with pytest.raises(CorruptArtifactError, match=MANIFEST):
        read_file(store, artifact, "model.onnx")
    with pytest.raises(CorruptArtifactError, match=MANIFEST):
        find(store, "a")


def test_a_missing_file_is_named(tmp_path: Path, folder: Path) -> None:
    store = FolderStore(tmp_path / "store")
    artifact = publish(store, folder, "a", "train")
    (tmp_path / "store" / "a" / "model.onnx").unlink()
    with pytest.raises(CorruptArtifactError, match=r"model\.onnx"):
        fetch(store, artifact, tmp_path / "cache")


def test_a_name_that_is_not_in_the_manifest_is_not_read(store: Store, folder: Path) -> None:
    artifact = publish(store, folder, "a", "train")
    store.write_bytes("a/extra", b"not published")
    with pytest.raises(ArtifactNotFoundError, match="a/extra"):
        read_file(store, artifact, "extra")


def test_a_damaged_copy_in_the_cache_is_fetched_again(folder: Path, tmp_path: Path) -> None:
    store = open_store(f"memory://{uuid.uuid4().hex}")
    artifact = publish(store, folder, "a", "train")
    local = fetch(store, artifact, tmp_path / "cache")
    (local / "model.onnx").write_bytes(b"damaged")
    assert (fetch(store, artifact, tmp_path / "cache") / "model.onnx").read_bytes() == b"weights"


def test_an_upload_that_breaks_off_is_not_visible(folder: Path) -> None:
    class Breaks(MemoryStore):
        def put_file(self, path: Path, key: str) -> None:
            if key.endswith("model.onnx"):
                raise StoreUnavailableError(self.uri, "gone")
            super().put_file(path, key)

    store = Breaks(f"memory://{uuid.uuid4().hex}")
    with pytest.raises(StoreUnavailableError):
        publish(store, folder, "a", "train")
    assert find(store, "a") is None


def test_an_artifact_is_a_json_value() -> None:
    artifact = Artifact(key="a", kind="train", digest="0" * 64)
    assert Artifact.model_validate_json(artifact.model_dump_json()) == artifact
