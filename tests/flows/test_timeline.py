"""A timeline that could not be written is refused before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.checks import _check_timeline
from flows.request import RunRequest
from infra.errors import InvalidOptionError
from infra.settings import Settings


@pytest.mark.parametrize(("name", "words"), [(".", "is a folder"), ("nowhere/timeline.json", "there is no folder")])
def test_a_timeline_needs_a_file_in_a_folder(name: str, words: str, tmp_path: Path) -> None:
    request = RunRequest(algorithm="image-classification/small-cnn", data=str(tmp_path), workers=2, timeline=str(tmp_path / name))
    with pytest.raises(InvalidOptionError, match=words):
        _check_timeline(request, Settings(workspace=str(tmp_path)))
