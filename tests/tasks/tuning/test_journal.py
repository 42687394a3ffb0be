"""Where studies are kept: a file that is mended at its end, objects in a store, a database; one contract for all."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from infra.errors import DamagedStudyError, ServiceError
from infra.store import open_store
from tasks._tuning.journal import FILE, mend, open_storage, whole_lines


def _silent(message: str) -> None:
    raise AssertionError(message)


def _use(storage: Any) -> None:
    import optuna

    study = optuna.create_study(study_name="s", storage=storage, load_if_exists=True)
    trial = study.ask({"x": optuna.distributions.FloatDistribution(0, 1)})
    trial.report(0.5, 1)
    study.tell(trial, 0.25)


@pytest.fixture(params=["file", "memory", "s3", "sqlite"])
def open_again(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Any]:
    """Opens one and the same storage anew, as a later process would."""
    url = f"sqlite:///{tmp_path}/studies.db" if request.param == "sqlite" else ""
    uris = {"file": str(tmp_path), "sqlite": str(tmp_path), "memory": f"memory://{tmp_path.name}"}
    uri = request.getfixturevalue("s3_workspace") if request.param == "s3" else uris[request.param]
    return lambda: open_storage(url, open_store(uri), "tuning/abc", _silent)


def test_what_was_written_is_there_when_it_is_opened_again(open_again: Callable[[], Any]) -> None:
    import optuna

    _use(open_again())
    _use(open_again())
    trials = optuna.load_study(study_name="s", storage=open_again()).trials
    assert [trial.number for trial in trials] == [0, 1]
    assert [trial.value for trial in trials] == [0.25, 0.25]
    assert all(trial.intermediate_values == {1: 0.5} for trial in trials)


def test_two_that_write_to_one_store_do_not_lose_a_record(tmp_path: Path) -> None:
    import optuna

    store = open_store(f"memory://{tmp_path.name}-two")
    first, second = open_storage("", store, "t", _silent), open_storage("", store, "t", _silent)
    for _ in range(3):
        _use(first)
        _use(second)
    assert len(optuna.load_study(study_name="s", storage=first).trials) == 6


@pytest.mark.parametrize(
    "torn", [b'{"op_code":', b'{"op_code": 4, "wor\n', b"\x00\x00\x00", b"\x00\x00\n", b"\xff\n{half\n\n\x00", b"{}\n"]
)
def test_a_torn_end_is_dropped_and_told(tmp_path: Path, torn: bytes) -> None:
    import optuna

    store = open_store(str(tmp_path))
    _use(open_storage("", store, "t", _silent))
    path = tmp_path / "t" / FILE
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    told: list[str] = []
    storage = open_storage("", store, "t", told.append)
    assert path.read_bytes() == whole
    assert len(told) == 1
    assert f"{len(torn)} bytes" in told[0]
    assert len(optuna.load_study(study_name="s", storage=storage).trials) == 1


def test_damage_before_the_end_is_refused_with_its_line(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    _use(open_storage("", store, "t", _silent))
    path = tmp_path / "t" / FILE
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], b"{half\n", *lines[2:]]))
    with pytest.raises(DamagedStudyError, match="line 3") as caught:
        open_storage("", store, "t", _silent)
    assert caught.value.file == str(path)


def test_a_lock_of_a_killed_process_does_not_hold_up_the_next(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    _use(open_storage("", store, "t", _silent))
    (tmp_path / "t" / (FILE + ".lock")).symlink_to(tmp_path / "t" / FILE)
    begin = time.monotonic()
    _use(open_storage("", store, "t", _silent))
    assert time.monotonic() - begin < 15, "Optuna alone would wait 30 s"


def test_an_empty_or_missing_journal_needs_no_mending(tmp_path: Path) -> None:
    mend(tmp_path / "none", _silent)
    (tmp_path / "empty").write_bytes(b"")
    mend(tmp_path / "empty", _silent)
    assert whole_lines(json.dumps({"op_code": 1}).encode() + b"\n") == (15, None)


def test_a_database_that_does_not_answer_is_said_in_words(tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match="ATELIER_OPTUNA_STORAGE"):
        open_storage(f"sqlite:///{tmp_path}/no/such/folder.db", open_store(str(tmp_path)), "t", _silent)
