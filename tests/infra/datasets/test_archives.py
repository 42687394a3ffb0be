"""Archives, good ones and hostile ones."""

from __future__ import annotations

import io
import shutil
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from infra.datasets.archives import Limits, unpack
from infra.datasets.importer import import_source
from infra.errors import InvalidSourceError, UnsafeArchiveError
from infra.store import Store, open_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for label in ("a", "b"):
        (tmp_path / "things" / label).mkdir(parents=True)
        for i in range(4):
            (tmp_path / "things" / label / f"{i}.png").write_bytes(f"{label}{i}".encode())
    return tmp_path / "things"


@pytest.mark.parametrize("form", ["zip", "tar", "gztar", "xztar", "bztar"])
@pytest.mark.parametrize("wrapped", [True, False])
def test_an_archive_of_a_folder_is_the_same_version_as_the_folder(
    store: Store, folder: Path, tmp_path: Path, form: str, wrapped: bool
) -> None:
    root, base = (folder.parent, folder.name) if wrapped else (folder, ".")
    archive = shutil.make_archive(str(tmp_path / "packed"), form, root, base)
    assert import_source(store, archive, "packed").digest == import_source(store, str(folder), "folder").digest


def test_a_zipped_table_is_imported(store: Store, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "t.zip", "w") as file:
        file.writestr("data/t.csv", "a,b\n" + "1,2\n3,4\n" * 5)
    (tmp_path / "t.csv").write_text("a,b\n" + "1,2\n3,4\n" * 5)
    assert import_source(store, str(tmp_path / "t.zip"), "t").digest == import_source(store, str(tmp_path / "t.csv"), "t").digest


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("../evil.png", "climbs out"),
        ("a/../../evil.png", "climbs out"),
        ("..\\evil.png", "climbs out"),
        ("/etc/evil.png", "absolute path"),
        ("C:\\evil.png", "absolute path"),
    ],
)
@pytest.mark.parametrize("form", ["zip", "tar"])
def test_a_path_out_of_the_folder_is_refused(store: Store, tmp_path: Path, form: str, name: str, words: str) -> None:
    path = tmp_path / f"evil.{form}"
    if form == "zip":
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("a/good.png", "x")
            file.writestr(name, "x")
    else:
        with tarfile.open(path, "w") as tar:
            member = tarfile.TarInfo(name)
            member.size = 1
            tar.addfile(member, io.BytesIO(b"x"))
    with pytest.raises(UnsafeArchiveError, match=words):
        import_source(store, str(path), "evil")
    assert not list(tmp_path.rglob("evil.png"))
    assert list(store.list("")) == []
    assert not list((tmp_path / "store" / ".staging").iterdir())


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_in_a_tar_are_refused(tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "evil.tar", "w") as tar:
        member = tarfile.TarInfo("a/link.png")
        member.type, member.linkname = kind, "/etc/passwd"
        tar.addfile(member)
    with pytest.raises(UnsafeArchiveError, match=r"is a link|neither a file"):
        unpack(tmp_path / "evil.tar", tmp_path / "out", "evil.tar")


def test_links_in_a_zip_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as file:
        member = zipfile.ZipInfo("a/link.png")
        member.external_attr = (stat.S_IFLNK | 0o777) << 16
        file.writestr(member, "/etc/passwd")
    with pytest.raises(UnsafeArchiveError, match="is a link"):
        unpack(tmp_path / "evil.zip", tmp_path / "out", "evil.zip")


@pytest.mark.parametrize("form", ["zip", "gztar"])
@pytest.mark.parametrize(
    "limits", [Limits(max_bytes=100_000), Limits(max_ratio=10, free_bytes=1000), Limits(max_files=2)], ids=["bytes", "ratio", "files"]
)
def test_a_bomb_is_refused(tmp_path: Path, form: str, limits: Limits) -> None:
    (tmp_path / "bomb").mkdir()
    for i in range(3):
        (tmp_path / "bomb" / f"{i}.csv").write_bytes(bytes(200_000))
    archive = Path(shutil.make_archive(str(tmp_path / "bomb"), form, tmp_path / "bomb"))
    with pytest.raises(UnsafeArchiveError, match="are allowed"):
        unpack(archive, tmp_path / "out", "bomb", limits)
    assert sum(path.stat().st_size for path in tmp_path.joinpath("out").rglob("*") if path.is_file()) <= 400_000


def test_a_member_that_comes_twice_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "twice.tar", "w") as tar:
        for data in (b"x", b"y"):
            member = tarfile.TarInfo("a.csv")
            member.size = 1
            tar.addfile(member, io.BytesIO(data))
    with pytest.raises(UnsafeArchiveError, match="comes twice"):
        unpack(tmp_path / "twice.tar", tmp_path / "out", "twice.tar")


@pytest.mark.parametrize("name", ["broken.zip", "broken.tar.gz", "broken.tar"])
def test_what_is_no_archive_is_told(store: Store, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"this is no archive at all" * 100)
    with pytest.raises(InvalidSourceError, match="archive cannot be read"):
        import_source(store, str(tmp_path / name), "broken")


def test_an_archive_that_was_cut_off_is_told(store: Store, folder: Path, tmp_path: Path) -> None:
    archive = Path(shutil.make_archive(str(tmp_path / "packed"), "gztar", folder))
    archive.write_bytes(archive.read_bytes()[:-30])
    with pytest.raises(InvalidSourceError, match="archive cannot be read"):
        import_source(store, str(archive), "packed")
