"""The level of the cache that several machines share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from infra.cache import Cache
from infra.shared_cache import shared


def maker(calls: list[str]) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        calls.append(path.name)
        path.write_bytes(b"decoded")

    return make


@pytest.mark.parametrize("kind", ["folder", "s3"])
def test_a_second_machine_fetches_what_the_first_made(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    uri = str(tmp_path / "shared") if kind == "folder" else request.getfixturevalue("s3_workspace")
    calls: list[str] = []
    for machine in ("first", "second"):
        entry = Cache(tmp_path / machine, 1 << 20).get("pictures/a", shared(uri, "pictures/a", maker(calls)))
        assert entry.read_bytes() == b"decoded"
    assert len(calls) == 1


def test_damaged_bytes_are_made_anew_and_replaced(tmp_path: Path) -> None:
    store, calls = tmp_path / "shared", list[str]()
    Cache(tmp_path / "first", 1 << 20).get("pictures/a", shared(str(store), "pictures/a", maker(calls)))
    (store / "shared-cache" / "pictures" / "a").write_bytes(b"damaged")
    for machine in ("second", "third"):
        entry = Cache(tmp_path / machine, 1 << 20).get("pictures/a", shared(str(store), "pictures/a", maker(calls)))
        assert entry.read_bytes() == b"decoded"
    assert len(calls) == 2


def test_a_store_that_cannot_be_used_costs_only_the_making(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    calls: list[str] = []
    entry = Cache(tmp_path / "machine", 1 << 20).get("pictures/a", shared(str(tmp_path / "file" / "below"), "pictures/a", maker(calls)))
    assert entry.read_bytes() == b"decoded"
    assert len(calls) == 1
    assert shared("", "pictures/a", maker(calls)).__name__ == "make"
