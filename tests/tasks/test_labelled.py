"""What the model got becomes the column it came from; of two truths the last one holds; and a truth is counted once by all workers of a port."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from deployments.serving.counted import CountedOnce
from deployments.serving.feedback import Signer, request_ids
from infra.datasets.card import Feature
from tasks._served import last_told
from tasks.labelled import _is_folder_name, as_column

NOON = datetime(2024, 10, 4, 12)


@pytest.mark.parametrize(
    ("kind", "values", "expected"),
    [
        ("float", [float(np.float32(0.1)), None, float("nan"), "2.5", "x"], [0.1, None, None, 2.5, None]),
        ("integer", [3.0, 2.5, None, "7", "7.0", "a", "inf"], [3, None, None, 7, 7, None, None]),
        ("boolean", [1.0, 0.0, None, "true", "No", ""], [True, False, None, True, False, None]),
        ("datetime", [20000.5, None, "20000"], [NOON, None, NOON - timedelta(hours=12)]),
        ("string", ["a", None, 3], ["a", None, "3"]),
    ],
)
def test_a_captured_value_is_what_it_was(kind: Any, values: list[Any], expected: list[Any]) -> None:
    assert as_column(Feature(name="x", type=kind), values).to_pylist() == expected


@pytest.mark.parametrize("name", ["../x", "a/b", ".hidden", "", "a\\b", "x\0", "n" * 300])
def test_a_class_that_is_no_folders_name_is_not_written(name: str) -> None:
    assert not _is_folder_name(name)
    assert _is_folder_name("größe 7")


def test_the_last_truth_of_a_request_holds_and_nameless_ones_all_stay() -> None:
    begin = datetime(2026, 11, 26, tzinfo=UTC)
    told = [("a", 0, "x", 2), ("b", 0, "x", 1), ("a", 0, "y", 0), ("a", 1, "z", 0), (None, None, "v", 3), (None, None, "w", 4)]
    columns = zip(*told, strict=True)
    requests, rows, truths, seconds = (list(column) for column in columns)
    times = [begin + timedelta(seconds=second) for second in seconds]
    table = pa.table({"time": times, "request": requests, "row": pa.array(rows, pa.int32()), "truth": truths})
    kept = last_told(table).to_pylist()
    assert [(row["request"], row["row"], row["truth"]) for row in kept] == [
        ("a", 1, "z"),
        ("b", 0, "x"),
        ("a", 0, "x"),
        (None, None, "v"),
        (None, None, "w"),
    ]
    assert last_told(table.drop_columns(["request", "row"])).num_rows == len(told), "files of before requests had ids"


def test_a_request_counts_once_for_all_workers_of_a_port(tmp_path: Path) -> None:
    one, other, alone = CountedOnce(str(tmp_path)), CountedOnce(str(tmp_path)), CountedOnce()
    assert len({next(request_ids()) for _ in range(500)}) == 500
    names = [f"r-{number}" for number in range(200)]  # always the same, for two of them may share a slot by chance
    assert all(one.first(name) for name in names[:100])
    assert not any(other.first(name) for name in names[:100])
    assert all(other.first(name) for name in names[100:])
    assert not any(one.first(name) for name in names)
    assert alone.first(names[0])


def test_a_token_of_before_requests_had_ids_is_still_read() -> None:
    import base64

    signer = Signer(b"s" * 32)
    told = signer.read(signer.sign("m", 3, ["a"], "r-1").decode())
    assert told == ("m", 3, ["a"], "r-1")
    old = base64.urlsafe_b64encode(b'["m",3,["a"]]').rstrip(b"=")
    assert signer.read((old + b"." + signer._mac(old)).decode()).request == ""
