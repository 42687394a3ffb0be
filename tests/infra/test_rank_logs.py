"""What ranks print is kept with their run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from infra._rank_task import OUTPUT_BYTES, output_of
from infra.rank_logs import keep_output
from infra.store import open_store


def test_what_a_rank_printed_goes_to_the_store(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    heard: list[dict[str, Any]] = []
    keep = keep_output(store, "runs/abc/trained", heard.append)
    keep("rank-1", "two words\n")
    keep("rank-0", "")
    keep_output(store, "", heard.append)("rank-2", "of no run")
    assert heard == []
    assert store.read_bytes("runs/abc/logs/trained/rank-1.log") == b"two words\n"
    assert list(store.list("runs/abc/logs")) == ["runs/abc/logs/trained/rank-1.log"]


def test_a_log_that_cannot_be_kept_is_told(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file where a folder should be")
    heard: list[dict[str, Any]] = []
    keep_output(open_store(str(tmp_path)), "runs/abc/trained", heard.append)("rank-1", "words")
    assert [event["kind"] for event in heard] == ["log"]
    assert "rank-1 could not be kept" in heard[0]["message"]


def test_of_very_much_output_the_end_is_kept_and_the_rest_is_counted(tmp_path: Path) -> None:
    log = tmp_path / "rank.log"
    log.write_bytes(b"a" * OUTPUT_BYTES + b"the end")
    text = output_of(log)
    assert text.startswith("... 7 bytes before this are left out\n")
    assert text.endswith("the end")
    assert len(text) < OUTPUT_BYTES + 100
