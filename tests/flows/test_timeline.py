"""A timeline that could not be written is refused before anything runs; one that can is written by Horovod."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from flows.checks import _check_timeline
from flows.request import RunRequest
from infra.context import StageContext
from infra.errors import InvalidOptionError
from infra.settings import Settings


@pytest.mark.parametrize(("name", "words"), [(".", "is a folder"), ("nowhere/timeline.json", "there is no folder")])
def test_a_timeline_needs_a_file_in_a_folder(name: str, words: str, tmp_path: Path) -> None:
    request = RunRequest(algorithm="image-classification/small-cnn", data=str(tmp_path), workers=2, timeline=str(tmp_path / name))
    with pytest.raises(InvalidOptionError, match=words):
        _check_timeline(request, Settings(workspace=str(tmp_path)))


@pytest.mark.parametrize("asked", ["auto", "torch"])
@pytest.mark.parametrize("timeline", ["", "timeline.json"])
def test_auto_is_horovod_where_a_timeline_is_wanted_and_that_is_said(
    asked: Any, timeline: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launch = mock.Mock()
    monkeypatch.setattr("infra.elastic.launch.launch_elastic", launch)
    events: list[dict[str, Any]] = []
    with StageContext.open(Settings(workspace=str(tmp_path)), workers=2, backend=asked, timeline=timeline) as context:
        context.use_cluster(mock.Mock())
        context.launch_ranks(RunRequest(algorithm="a", data="d"), num_ranks=2, on_event=events.append, rank_preload=())
    chosen = asked == "auto" and timeline != ""
    assert launch.call_args.kwargs["backend"] == ("horovod" if chosen else asked)
    assert ["The ranks use Horovod" in event["message"] for event in events] == [True] * chosen
