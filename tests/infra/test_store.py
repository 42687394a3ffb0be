"""One contract for all stores, and what is special to each."""

from __future__ import annotations

import errno
import io
import multiprocessing
import os
import pickle
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import pytest

from infra import _folder, _s3
from infra.errors import ArtifactNotFoundError, InvalidSettingError, StoreAccessError, StoreUnavailableError
from infra.store import FolderStore, MemoryStore, Store, open_store
from tests.faulty_proxy import FaultyProxy

KINDS = ("folder", "memory", "s3", "s3 with faults")


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    if request.param == "folder":
        yield open_store(str(tmp_path / "store"))
    elif request.param == "memory":
        yield open_store(f"memory://{uuid.uuid4().hex}")
    else:
        uri = request.getfixturevalue("s3_workspace")
        if request.param == "s3":
            yield open_store(uri)
            return
        with FaultyProxy(os.environ["AWS_ENDPOINT_URL"], rate=0.05, seed=1) as proxy:
            monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
            yield open_store(uri)


def test_a_store_is_what_its_protocol_says(store: Store) -> None:
    assert isinstance(store, Store)


def test_what_was_written_is_read(store: Store) -> None:
    store.write_bytes("a/b.bin", b"one")
    assert (store.read_bytes("a/b.bin"), store.size("a/b.bin"), store.exists("a/b.bin")) == (b"one", 3, True)
    store.write_bytes("a/b.bin", b"")
    assert (store.read_bytes("a/b.bin"), store.size("a/b.bin")) == (b"", 0)


def test_a_key_is_listed_with_its_size_and_when_it_was_written(store: Store) -> None:
    begin = time.time()
    store.write_bytes("runs/a", b"12345")
    store.create("runs/b/c", b"1")
    found = list(store.written("runs/"))
    assert [(key, size) for key, size, _ in found] == [("runs/a", 5), ("runs/b/c", 1)]
    assert all(begin - 5 < at < time.time() + 5 for _, _, at in found)  # S3 counts in whole seconds, by a clock of its own
    assert list(store.written("other/")) == []


def test_a_key_that_is_not_there_is_an_error_that_names_it(store: Store, tmp_path: Path) -> None:
    store.write_bytes("a/b", b"x")
    for read in (store.read_bytes, store.open, store.size, lambda key: store.get_file(key, tmp_path / "x")):
        for key in ("a/c", "a", "a/b/c"):
            with pytest.raises(ArtifactNotFoundError, match=f"No artifact '{key}'"):
                read(key)
    assert not store.exists("a/c")
    assert not store.exists("a")
    assert not (tmp_path / "x").exists()


def test_create_puts_only_once(store: Store) -> None:
    assert store.create("lock/1", b"mine")
    assert not store.create("lock/1", b"yours")
    assert store.read_bytes("lock/1") == b"mine"


def test_of_many_who_create_one_succeeds(store: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda i: store.create("lock/2", b"%d" % i), range(16)))
    assert won.count(True) == 1
    assert store.read_bytes("lock/2") == b"%d" % won.index(True)


def test_listing_shows_all_keys_of_a_prefix_sorted(store: Store) -> None:
    keys = ["a/b/1", "a/b.txt", "a/b-2", "ab/c", "a/b/2/3", "z"]
    for key in keys:
        store.write_bytes(key, b"x")
    assert list(store.list("")) == sorted(keys)
    assert list(store.list("a/b")) == ["a/b-2", "a/b.txt", "a/b/1", "a/b/2/3"]
    assert list(store.list("a/b/")) == ["a/b/1", "a/b/2/3"]
    assert list(store.list("nothing/here")) == []


def test_the_state_of_a_key_changes_with_its_bytes(store: Store) -> None:
    store.write_bytes("k", b"one")
    before = dict(store.states("k"))
    assert dict(store.states("k")) == before
    store.write_bytes("k", b"two")
    assert dict(store.states("k")) != before


def test_delete_removes_a_key_or_a_folder_and_nothing_else(store: Store) -> None:
    for key in ("a/b", "a/c/d", "ab"):
        store.write_bytes(key, b"x")
    store.delete("a/c")
    store.delete("nothing")
    assert list(store.list("")) == ["a/b", "ab"]
    store.delete("a/b")
    store.delete("a")
    assert list(store.list("")) == ["ab"]


@pytest.mark.parametrize("size", [0, 5, (1 << 20) + 7])
def test_a_file_goes_up_and_comes_back(store: Store, tmp_path: Path, size: int) -> None:
    (tmp_path / "up").write_bytes(data := os.urandom(size))
    store.put_file(tmp_path / "up", "files/up")
    store.get_file("files/up", tmp_path / "new" / "down")
    assert (tmp_path / "new" / "down").read_bytes() == data
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["down"]


def test_a_file_in_parts_goes_up_and_comes_back(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_s3, "PART_BYTES", 5 << 20)  # the smallest that S3 allows
    (tmp_path / "up").write_bytes(data := os.urandom((13 << 20) + 11))
    store.put_file(tmp_path / "up", "files/large")
    store.get_file("files/large", tmp_path / "down")
    assert (tmp_path / "down").read_bytes() == data


def test_open_reads_ranges(store: Store) -> None:
    store.write_bytes("ranges", data := os.urandom((2 << 20) + 5))
    with store.open("ranges") as file:
        file.seek(-5, io.SEEK_END)
        assert file.read() == data[-5:]
        file.seek(1 << 20)
        assert file.read(100) == data[1 << 20 : (1 << 20) + 100]
        file.seek(0)
        assert file.read() == data
        assert file.read() == b""


def test_a_reader_sees_the_old_bytes_or_the_new(store: Store) -> None:
    versions = [bytes([i]) * 50_000 for i in range(20)]
    store.write_bytes("k", versions[0])
    done = threading.Event()
    seen: list[bytes] = []

    def read() -> None:
        while not done.is_set():
            seen.append(store.read_bytes("k"))

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        for version in versions:
            store.write_bytes("k", version)
        done.set()
        for reader in readers:
            reader.result()
    assert seen
    assert set(seen) <= set(versions)


def test_a_store_pickles_by_its_uri(store: Store) -> None:
    store.write_bytes("k", b"x")
    copy = pickle.loads(pickle.dumps(store))
    assert (copy.uri, copy.read_bytes("k")) == (store.uri, b"x")


def _write_in_child(store: Store) -> None:
    store.write_bytes("from the child", store.read_bytes("k"))
    os._exit(0)  # past the exit hooks of whatever else this test process has loaded


def test_a_store_works_in_a_forked_process(store: Store) -> None:
    store.write_bytes("k", b"x")
    if isinstance(store, MemoryStore):
        pytest.skip("memory is not shared between processes")
    child = multiprocessing.get_context("fork").Process(target=_write_in_child, args=(store,))
    child.start()
    child.join(30)
    assert child.exitcode == 0
    assert store.read_bytes("from the child") == b"x"


@pytest.mark.parametrize("key", ["", "/a", "a//b", "../a", "a/../b", "a/.", "a/", ".staging/x"])
def test_what_is_no_key_is_refused(store: Store, key: str) -> None:
    with pytest.raises(ValueError, match="is not a key"):
        store.write_bytes(key, b"x")


def test_an_unknown_scheme_is_refused_with_what_is_allowed() -> None:
    with pytest.raises(InvalidSettingError, match=r"'ftp'.*s3://"):
        open_store("ftp://host/folder")


def test_a_file_uri_is_a_folder(tmp_path: Path) -> None:
    open_store(f"file://{tmp_path}/with%20space").write_bytes("k", b"x")
    assert (tmp_path / "with space" / "k").read_bytes() == b"x"


def test_a_failed_write_leaves_nothing_visible(tmp_path: Path) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError(errno.ENOSPC, "No space left on device")

    store = FolderStore(tmp_path / "store")
    with pytest.raises(StoreAccessError, match="disk is full"):
        store._write("k", Broken())
    assert list(store.list("")) == []
    assert not list((tmp_path / "store" / ".staging").iterdir())


def test_a_full_disk_is_told_with_what_to_do() -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    with pytest.raises(OSError) as caught, full.open("wb", buffering=0) as file:
        file.write(b"x")
    error = _folder.folder_error("/workspace", caught.value)
    assert isinstance(error, StoreAccessError)
    assert "free some space" in str(error)


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StoreAccessError, match="ATELIER_WORKSPACE"):
        FolderStore(tmp_path / "file" / "store").write_bytes("k", b"x")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir(mode=0o555)
    with pytest.raises(StoreAccessError, match="writable"):
        FolderStore(tmp_path / "store").write_bytes("k", b"x")


def test_what_a_killed_process_left_is_swept(tmp_path: Path) -> None:
    code = """if True:
        import os, signal, sys
        from infra.store import FolderStore
        with FolderStore(sys.argv[1]).staging_folder() as folder:
            (folder / "half").write_text("x")
            os.kill(os.getpid(), signal.SIGKILL)
    """
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert killed.returncode == -9
    assert len(list((tmp_path / ".staging").iterdir())) == 1
    store = FolderStore(tmp_path)
    assert list(store.list("")) == []
    store.write_bytes("k", b"x")
    assert not list((tmp_path / ".staging").iterdir())


def test_what_is_being_written_stays_and_what_was_left_goes(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    with store.staging_folder() as live:
        (tmp_path / ".staging" / f"{socket.gethostname()}~left").mkdir()
        (tmp_path / ".staging" / "elsewhere~left").mkdir()
        _folder._swept.clear()
        FolderStore(tmp_path).write_bytes("k", b"x")
        assert live.is_dir()
        assert sorted(path.name for path in (tmp_path / ".staging").iterdir()) == sorted([live.parent.name, "elsewhere~left"])


def test_a_folder_is_published_or_swapped_whole(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    for version, first in (("1", True), ("2", False)):
        with store.staging_folder() as staged:
            store.stage_bytes(version.encode(), staged / "file")
            assert store.put_folder(staged, "a/b") is first
            if not first:
                assert store.swap_folder(staged, "a/b")
        assert store.read_bytes("a/b/file") == version.encode()
    assert not list((tmp_path / ".staging").iterdir())


def test_a_bucket_that_does_not_exist_is_told(s3_server: str) -> None:
    with pytest.raises(StoreAccessError, match="no such bucket"):
        open_store("s3://there-is-no-such/prefix").write_bytes("k", b"x")
    with pytest.raises(StoreAccessError, match="no such bucket"):
        list(open_store("s3://there-is-no-such/prefix").list(""))


def test_wrong_credentials_are_told_at_once(s3_workspace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from moto.core import set_initial_no_auth_action_count

    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    store = open_store(s3_workspace)

    @set_initial_no_auth_action_count(0)
    def try_all() -> None:
        for act in (lambda: store.write_bytes("k", b"x"), lambda: store.exists("k"), lambda: list(store.list(""))):
            with pytest.raises(StoreAccessError, match="AWS_ACCESS_KEY_ID"):
                act()

    try_all()


def test_missing_credentials_are_told(s3_workspace: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(StoreAccessError, match="redentials"):
        open_store(s3_workspace).read_bytes("k")


def test_a_server_that_stays_down_is_told_after_several_tries(free_port: int, s3_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port}")
    monkeypatch.setattr(_s3, "TRIES", 3)
    with pytest.raises(StoreUnavailableError, match="after several tries"):
        open_store("s3://bucket/prefix").read_bytes("k")


@pytest.mark.parametrize("fault", ["status 500 before", "status 500 after", "reset before", "reset after", "reset in the answer"])
def test_every_kind_of_fault_is_survived(s3_workspace: str, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    monkeypatch.setattr(_s3, "FIRST_WAIT_S", 0.01)
    with FaultyProxy(os.environ["AWS_ENDPOINT_URL"], rate=0.4, seed=3, faults=(fault,)) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        store = open_store(s3_workspace)
        for i in range(4):
            assert store.create(f"k/{i}", b"%d" % i)
            assert not store.create(f"k/{i}", b"%d" % i)
            assert store.read_bytes(f"k/{i}") == b"%d" % i
        assert len(list(store.list("k/"))) == 4
        store.delete("k")
        assert list(store.list("")) == []
        assert proxy.num_faults >= 3


def test_an_upload_that_fails_leaves_no_parts_and_no_object(s3_workspace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_s3, "PART_BYTES", 5 << 20)
    (tmp_path / "up").write_bytes(bytes(11 << 20))
    store = open_store(s3_workspace)
    assert isinstance(store, _s3.S3Store)

    def put_part(self: _s3.S3Store, path: Path, key: str, upload: dict[str, str], part_bytes: int, index: int) -> None:
        raise StoreUnavailableError(self.uri, "gone")

    monkeypatch.setattr(_s3.S3Store, "_put_part", put_part)
    with pytest.raises(StoreUnavailableError, match="gone"):
        store.put_file(tmp_path / "up", "large")
    client = boto3.client("s3")
    bucket = s3_workspace.split("/")[2]
    assert "Uploads" not in client.list_multipart_uploads(Bucket=bucket)
    client.close()
    assert not store.exists("large")
