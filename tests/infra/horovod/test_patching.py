"""The strict patch: it fits or it changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.horovod.build import PATCH
from infra.horovod.patching import PatchError, apply_patch

TEXT = "".join(f"line {number}\n" for number in range(1, 21))
TWO_HUNKS = """Why this is changed.

--- a/folder/file.txt
+++ b/folder/file.txt
@@ -2,3 +2,4 @@
 line 2
-line 3
+line three
+line three and a half
 line 4
@@ -10,2 +11,1 @@
 line 10
-line 11
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file.txt").write_text(TEXT)
    return tmp_path


def test_every_hunk_is_applied_at_its_place(folder: Path) -> None:
    assert apply_patch(TWO_HUNKS, folder) == ["folder/file.txt"]
    lines = (folder / "folder" / "file.txt").read_text().splitlines()
    assert lines[:5] == ["line 1", "line 2", "line three", "line three and a half", "line 4"]
    assert "line 11" not in lines
    assert lines[-1] == "line 20"
    assert len(lines) == 20


def test_a_patch_that_does_not_fit_changes_nothing(folder: Path) -> None:
    with pytest.raises(PatchError, match="line 10"):
        apply_patch(TWO_HUNKS.replace("-line 11", "-line eleven"), folder)
    assert (folder / "folder" / "file.txt").read_text() == TEXT


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(PatchError, match=r"folder/file\.txt"):
        apply_patch(TWO_HUNKS, tmp_path)


def test_a_text_without_a_change_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PatchError, match="changes no file"):
        apply_patch("only words\n", tmp_path)


def test_a_patch_that_was_cut_short_is_refused(folder: Path) -> None:
    with pytest.raises(PatchError, match="middle of a hunk"):
        apply_patch(TWO_HUNKS.rsplit("\n", 2)[0], folder)


def test_horovods_patch_gives_a_reason_for_each_file() -> None:
    reasons, _, hunks = PATCH.read_text(encoding="utf-8").partition("--- a/")
    changed = [line[6:] for line in ("--- a/" + hunks).splitlines() if line.startswith("+++ b/")]
    assert changed == [
        "CMakeLists.txt",
        "cmake/Modules/FindPytorch.cmake",
        "horovod/common/gloo/gloo_context.cc",
        "horovod/common/gloo/http_store.cc",
        "horovod/common/gloo/http_store.h",
        "horovod/torch/CMakeLists.txt",
    ]
    headings = [line for line in reasons.splitlines() if line and not line.startswith(" ")]
    assert all(any(name in line or Path(name).name in line.split(", ") for line in headings) for name in changed)
