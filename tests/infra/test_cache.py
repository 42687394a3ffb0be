"""The local cache: bounded, shared, and never pulling a file from under somebody."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from infra.cache import Cache, verified
from infra.errors import StoreAccessError


def _make(data: bytes, calls: list[str] | None = None) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        if calls is not None:
            calls.append(path.name)
        path.write_bytes(data)

    return make


def test_an_entry_is_made_once(tmp_path: Path) -> None:
    calls: list[str] = []
    cache = Cache(tmp_path, 1 << 20)
    for _ in range(3):
        assert cache.get("files/a", _make(b"x", calls)).read_bytes() == b"x"
    assert len(calls) == 1


def test_threads_that_want_the_same_entry_make_it_once(tmp_path: Path) -> None:
    calls: list[str] = []
    started = threading.Barrier(4)

    def want(_: int) -> bytes:
        started.wait()

        def make(path: Path) -> None:
            calls.append(path.name)
            time.sleep(0.05)
            path.write_bytes(b"x")

        return Cache(tmp_path, 1 << 20).get("files/a", make).read_bytes()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(want, range(4))) == [b"x"] * 4
    assert len(calls) == 1


def test_a_damaged_entry_is_made_again(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 1 << 20)
    path = cache.get("files/a", _make(b"good"))
    path.write_bytes(b"bad!")
    assert cache.get("files/a", _make(b"good"), is_good=lambda p: p.read_bytes() == b"good").read_bytes() == b"good"


def test_a_damaged_folder_is_made_again_even_while_another_process_uses_it(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from infra.cache import Cache; Cache(Path(sys.argv[1]), 1000).get('sets/a', Path.mkdir)\n"
    code += "print('ready', flush=True); sys.stdin.read()"
    other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdout is not None
    try:
        assert other.stdout.readline() == b"ready\n"

        def make(path: Path) -> None:
            path.mkdir()
            (path / "file").write_bytes(b"x")

        path = Cache(tmp_path, 1 << 20).get("sets/a", make, is_good=lambda path: (path / "file").exists())
        assert (path / "file").read_bytes() == b"x"
    finally:
        other.communicate(b"")


def test_a_failed_making_leaves_nothing(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        path.write_bytes(b"half")
        raise ValueError("broken")

    cache = Cache(tmp_path, 1 << 20)
    with pytest.raises(ValueError, match="broken"):
        cache.get("files/a", fail)
    assert list(cache.entries()) == []
    assert not list((tmp_path / ".staging").iterdir())


# Another process fills the cache and ends, so that its locks are gone.
FILL = """
import os, sys
from pathlib import Path
from infra.cache import Cache
cache = Cache(Path(sys.argv[1]), 10_000)
for i, name in enumerate(sys.argv[2:]):
    path = cache.get(f"files/{name}", lambda path: path.write_bytes(bytes(1000)))
    os.utime(Path(sys.argv[1]) / ".locks" / f"files~{name}", ns=(10**18 + i, 10**18 + i))
"""


def _fill(folder: Path, *names: str) -> None:
    subprocess.run([sys.executable, "-c", FILL, str(folder), *names], check=True)


def test_the_least_recently_used_goes_first(tmp_path: Path) -> None:
    _fill(tmp_path, "a", "b", "c")
    cache = Cache(tmp_path, 3000)
    cache.get("files/a", _make(b""))
    cache.get("files/d", _make(bytes(1000)))
    assert sorted(name for name, _ in cache.entries()) == ["files/a", "files/c", "files/d"]


def test_what_this_process_uses_stays_even_above_the_limit(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 1500)
    paths = [cache.get(f"files/{i}", _make(bytes(1000))) for i in range(4)]
    assert all(path.exists() for path in paths)


def test_what_another_process_uses_stays(tmp_path: Path) -> None:
    code = FILL + "print('ready', flush=True); sys.stdin.read()"
    other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path), "theirs"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdin is not None
    assert other.stdout is not None
    try:
        assert other.stdout.readline() == b"ready\n"
        cache = Cache(tmp_path, 500)
        cache.get("files/mine", _make(bytes(1000)))
        assert sorted(name for name, _ in cache.entries()) == ["files/mine", "files/theirs"]
    finally:
        other.communicate(b"")
    cache.get("files/new", _make(bytes(1000)))
    assert "files/theirs" not in dict(cache.entries())


def test_a_file_is_hashed_again_only_when_it_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import infra.cache

    calls: list[Path] = []
    real = infra.cache.sha256_file

    def counted(path: Path) -> str:
        calls.append(path)
        return real(path)

    monkeypatch.setattr(infra.cache, "sha256_file", counted)
    path = tmp_path / "file"
    path.write_bytes(b"one")
    assert verified(path) == verified(path)
    assert len(calls) == 1
    times = path.stat().st_mtime_ns
    path.write_bytes(b"two")  # of the same size, and made to look as old
    os.utime(path, ns=(times, times))
    verified(path)
    assert len(calls) == 2


def test_a_cache_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StoreAccessError):
        Cache(tmp_path / "file", 1000).get("files/a", _make(b"x"))
