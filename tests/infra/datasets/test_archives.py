"""Archives, good ones and hostile ones."""

from __future__ import annotations

import errno
import io
import random
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


@pytest.mark.parametrize("form", ["zip", "gztar", "bztar", "xztar", "bzip2 in zip", "lzma in zip"])
def test_an_archive_with_damaged_bytes_is_told(tmp_path: Path, form: str) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "a.bin").write_bytes(random.Random(0).randbytes(50_000))  # not compressible, so stored as it is: only the checksum tells
    if " in " in form:
        archive = tmp_path / "packed.zip"
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_BZIP2 if "bzip2" in form else zipfile.ZIP_LZMA) as file:
            file.write(source / "a.bin", "a.bin")
    else:
        archive = Path(shutil.make_archive(str(tmp_path / "packed"), form, source))
    data = bytearray(archive.read_bytes())
    for number, place in enumerate((200, len(data) // 2, len(data) - 3000)):
        damaged = tmp_path / f"damaged{number}{''.join(archive.suffixes)}"
        damaged.write_bytes(data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :])
        with pytest.raises(InvalidSourceError, match="archive cannot be read") as caught:
            unpack(damaged, tmp_path / f"out{number}", damaged.name)
        assert caught.value.exit_status == 2


def test_a_zip_that_points_before_its_start_is_told(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("a.csv", "a,b\n1,2\n")
    data = bytearray((tmp_path / "a.zip").read_bytes())
    data[-10:-6] = (1000).to_bytes(4, "little")  # the size of the central directory
    data[-6:-2] = (0).to_bytes(4, "little")
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(InvalidSourceError, match="archive cannot be read"):
        unpack(tmp_path / "a.zip", tmp_path / "out", "a.zip")


def test_an_error_of_the_disk_is_not_the_archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("a.csv", "a,b\n1,2\n")

    def broken(*_: object) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(zipfile.ZipExtFile, "read", broken)
    with pytest.raises(OSError, match="Input/output error"):
        unpack(tmp_path / "a.zip", tmp_path / "out", "a.zip")
