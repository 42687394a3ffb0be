"""Importing tables."""

from __future__ import annotations

import datetime
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.datasets import delimited
from infra.datasets.card import SPLITS
from infra.datasets.dataset import Dataset, open_dataset
from infra.datasets.derived import derive
from infra.datasets.importer import import_source
from infra.datasets.tables import class_names
from infra.errors import InvalidSourceError
from infra.store import Store, open_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


def load(store: Store, path: Path, **options: Any) -> Dataset:
    return open_dataset(store, import_source(store, str(path), "data", **options), path.parent / "cache")


def whole(data: Dataset) -> pa.Table:
    """All rows in the source's order."""
    return pa.concat_tables([table for split in SPLITS for table in data.iter_tables(split)]).sort_by("_row")


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def sample(num_rows: int = 300) -> pa.Table:
    rng = np.random.default_rng(0)
    return pa.table(
        {
            "size": rng.normal(size=num_rows).round(3),
            "count": rng.integers(0, 100, num_rows),
            "city": [["Köln", "Paris", None][i % 3] for i in range(num_rows)],
            "open": [[True, False, None][i % 3] for i in range(num_rows)],
            "label": [["yes", "no"][i % 2] for i in range(num_rows)],
        }
    )


def write_csv(path: Path, table: pa.Table, delimiter: str = ",") -> Path:
    lines = [delimiter.join(table.column_names)]
    for row in table.to_pylist():
        lines.append(delimiter.join("" if v is None else str(v).lower() if isinstance(v, bool) else str(v) for v in row.values()))
    return write(path, "\n".join(lines) + "\n")


def write_jsonl(path: Path, table: pa.Table) -> Path:
    return write(path, "".join(json.dumps(row) + "\n" for row in table.to_pylist()))


def write_parquet(path: Path, table: pa.Table, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **options)
    return path


def test_one_table_is_one_version_in_whichever_format_it_comes(store: Store, tmp_path: Path) -> None:
    table = sample()
    paths = [
        write_csv(tmp_path / "t.csv", table),
        write_csv(tmp_path / "semicolons.csv", table, ";"),
        write_csv(tmp_path / "t.tsv", table, "\t"),
        write_jsonl(tmp_path / "t.jsonl", table),
        write_parquet(tmp_path / "t.parquet", table, row_group_size=70),
    ]
    loaded = [load(store, path, target="label") for path in paths]
    assert len({data.card.digest for data in loaded}) == 1
    card = loaded[0].card
    assert {f.name: (f.type, f.nulls) for f in card.features} == {
        "size": ("float", 0),
        "count": ("integer", 0),
        "city": ("string", 100),
        "open": ("boolean", 100),
        "label": ("string", 0),
        "_row": ("integer", 0),
    }
    assert card.classes == ["no", "yes"]
    assert all(abs(card.counts[split]["no"] - card.counts[split]["yes"]) <= 1 for split in SPLITS)
    rows = whole(loaded[0])
    assert rows["_row"].to_pylist() == list(range(300))
    assert rows.drop_columns("_row").to_pylist() == table.to_pylist()


@pytest.mark.parametrize("change", ["value", "column name", "order of rows", "target", "seed"])
def test_what_differs_is_another_version(store: Store, tmp_path: Path, change: str) -> None:
    table = sample()
    before = load(store, write_parquet(tmp_path / "a.parquet", table), target="label")
    options: dict[str, Any] = {"target": "label"}
    if change == "value":
        table = table.set_column(0, "size", pa.array([9.0, *table["size"].to_pylist()[1:]]))
    elif change == "column name":
        table = table.rename_columns(["SIZE", *table.column_names[1:]])
    elif change == "order of rows":
        table = table.take(list(range(299, -1, -1)))
    elif change == "target":
        options = {}
    else:
        options["split_seed"] = 1
    assert load(store, write_parquet(tmp_path / "b.parquet", table), **options).card.digest != before.card.digest


def test_identical_rows_never_fall_into_two_splits(store: Store, tmp_path: Path) -> None:
    text = "a,label\n" + "".join(f"{i % 40},{'xy'[i % 2]}\n" for i in range(400))
    data = load(store, write(tmp_path / "t.csv", text), target="label")
    seen: dict[int, set[str]] = {}
    for split in SPLITS:
        for table in data.iter_tables(split):
            for value in table["a"].to_pylist():
                seen.setdefault(value, set()).add(split)
    assert len(seen) == 40
    assert all(len(splits) == 1 for splits in seen.values())


def test_types_are_those_of_the_whole_file(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delimited, "_BLOCK", 256)  # so that the end is far from the block that the types are guessed from
    columns = {
        "number": ["1"] * 200 + ["2.5"],
        "code": ["1"] * 200 + ["A7"],
        "late": [""] * 200 + ["true"],
        "day": ["2026-01-05"] * 200 + ["2026-01-05 10:30:00"],
        "flag": ["true"] * 200 + ["maybe"],
        "never": [""] * 201,
    }
    text = ",".join(columns) + "\n" + "".join(",".join(row) + "\n" for row in zip(*columns.values(), strict=True))
    data = load(store, write(tmp_path / "t.csv", text))
    types = {feature.name: feature.type for feature in data.card.features}
    assert types == {
        "number": "float", "code": "string", "late": "boolean", "day": "datetime", "flag": "string", "never": "string", "_row": "integer",
    }  # fmt: skip
    last = whole(data).to_pylist()[-1]
    assert (last["number"], last["code"], last["late"], last["flag"]) == (2.5, "A7", True, "maybe")
    assert last["day"] == datetime.datetime(2026, 1, 5, 10, 30)


def test_quotes_newlines_and_a_byte_order_mark_are_understood(store: Store, tmp_path: Path) -> None:
    text = '\ufeff"name, full",text\n"Doe, Jane","two\nlines"\n"x","say ""hi"""\n' + "".join(f"n{i},t\n" for i in range(10))
    rows = whole(load(store, write(tmp_path / "t.csv", text))).to_pylist()
    assert rows[0] == {"name, full": "Doe, Jane", "text": "two\nlines", "_row": 0}
    assert rows[1]["text"] == 'say "hi"'


def test_parquet_types_become_plain_ones(store: Store, tmp_path: Path) -> None:
    n = 40
    table = pa.table(
        {
            "small": pa.array(range(n), pa.int8()),
            "half": pa.array([1.5] * n, pa.float32()),
            "money": pa.array([Decimal("1.25")] * n),
            "kind": pa.array(["a", "b"] * (n // 2)).dictionary_encode(),
            "when": pa.array([datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)] * n, pa.timestamp("ns", "UTC")),
            "day": pa.array([datetime.date(2026, 1, 1)] * n),
            "hole": pa.array([float("nan")] * n),
        }
    )
    data = load(store, write_parquet(tmp_path / "t.parquet", table), target="kind")
    assert [f.type for f in data.card.features] == ["integer", "float", "float", "string", "datetime", "datetime", "float", "integer"]
    assert data.card.features[6].nulls == n
    assert whole(data)["when"].to_pylist()[0] == datetime.datetime(2026, 1, 1)


def test_several_files_are_one_table_and_types_are_widened(store: Store, tmp_path: Path) -> None:
    write(tmp_path / "parts" / "1.csv", "a,b\n" + "1,x\n" * 5)
    write(tmp_path / "parts" / "2.csv", "b,a\n" + "y,2.5\n" * 5)
    rows = whole(load(store, tmp_path / "parts")).to_pylist()
    assert [row["a"] for row in rows] == [1.0] * 5 + [2.5] * 5
    assert [row["b"] for row in rows] == ["x"] * 5 + ["y"] * 5


def test_files_called_train_and_test_are_given_splits(store: Store, tmp_path: Path) -> None:
    for name, start, count in (("train", 0, 80), ("test", 100, 20)):
        write(tmp_path / "d" / f"{name}.csv", "a,label\n" + "".join(f"{start + i},{'xy'[i % 2]}\n" for i in range(count)))
    data = load(store, tmp_path / "d", target="label")
    assert data.card.split_rule["made"] == ["valid"]
    assert data.card.num_rows["test"] == 20
    assert {row["a"] for table in data.iter_tables("test") for row in table.to_pylist()} == set(range(100, 120))


def test_rows_without_target_are_imported_and_counted_in_no_class(store: Store, tmp_path: Path) -> None:
    events: list[dict[str, Any]] = []
    text = "a,label\n" + "".join(f"{i},{'' if i < 5 else 'xy'[i % 2]}\n" for i in range(50))
    data = load(store, write(tmp_path / "t.csv", text), target="label", report=events.append)
    assert sum(data.card.num_rows.values()) == 50
    assert sum(sum(counts.values()) for counts in data.card.counts.values()) == 45
    assert any("5 of 50 rows have no value in 'label'" in event.get("message", "") for event in events)


def test_a_regression_target_is_spread_evenly_over_the_splits(store: Store, tmp_path: Path) -> None:
    text = "a,price\n" + "".join(f"{i},{i * 1.5}\n" for i in range(1000))
    data = load(store, write(tmp_path / "t.csv", text), target="price", regression=True)
    assert data.card.classes == []
    assert data.card.counts["train"] == {"": 700}
    for split in SPLITS:
        mean = np.concatenate([table["price"].to_numpy() for table in data.iter_tables(split)]).mean()
        assert abs(mean - 749) < 15


def test_class_names_are_plain() -> None:
    assert class_names(pa.array([True, None])).to_pylist() == ["true", None]
    assert class_names(pa.array([1, 2])).to_pylist() == ["1", "2"]
    assert class_names(pa.array([1.0, 1.5, None])).to_pylist() == ["1", "1.5", None]


def test_what_is_derived_lacks_what_was_dropped(store: Store, tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "t.parquet", sample())
    parent = import_source(store, str(path), "data", target="label")
    data = open_dataset(store, derive(store, parent, {0, 3, 299}, "quarantine", {}), tmp_path / "cache")
    assert whole(data)["_row"].to_pylist() == [i for i in range(300) if i not in (0, 3, 299)]
    assert sum(sum(counts.values()) for counts in data.card.counts.values()) == 297
    assert data.card.features[2].nulls == 99


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ("", {}, "the file is empty"),
        ("a,b\n", {}, "no rows"),
        ("a,b\n1,2\n1\n1,2,3\n4,5\n", {}, r"line 3: 1 values instead of 2: 1\n.*line 4: 3 values instead of 2: 1,2,3"),
        ("a,a,b\n1,2,3\n", {}, "2 columns are called 'a'"),
        ("height,label\n1,x\n2,y\n", {"target": "Labels"}, r"no column 'Labels'.*\nDid you mean label"),
        ("a,label\n1,x\n2,x\n", {"target": "label"}, r"only one value, 'x' \(2 rows\)"),
        ("a,label\n1,x\n2,x\n3,y\n", {"target": "label"}, "class 'y' of 'label' has 1 row"),
        ("a,label\n1,\n2,\n", {"target": "label"}, "no value in any of the 2 rows"),
        ("a,label\n1,x\n2,y\n", {"target": "label", "regression": True}, "holds string values; a regression predicts numbers"),
        ("a,b\n1,2\n2,2\n", {"target": "b", "regression": True}, "only one value, 2"),
        (b"a,b\n1,caf\xe9\n", {}, "line 2 has the byte 0xe9, which is not UTF-8"),
        ("a,b\n1,2\n".encode("utf-16"), {}, "it is UTF-16"),
        (b"PK\x00\x00garbage", {}, "NUL byte"),
        ("_row,b\n1,2\n", {}, "'_row' is taken"),
        ('a,b\n1,"2\n3,4\n', {}, "line 2 opens a double quote that is never closed"),
    ],
)
def test_a_csv_that_cannot_be_imported_is_told_why(
    store: Store, tmp_path: Path, text: str | bytes, options: dict[str, Any], words: str
) -> None:
    path = write(tmp_path / "t.csv", text)
    with pytest.raises(InvalidSourceError, match=words):
        import_source(store, str(path), "data", **options)
    assert list(store.list("")) == []


def test_lines_are_counted_as_an_editor_counts_them(store: Store, tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", 'a,b\n"two\nlines",1\n\n2,3,4\n')
    with pytest.raises(InvalidSourceError, match="line 5: 3 values instead of 2"):
        import_source(store, str(path), "data")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": 1}\nnonsense\n', "line 2: not JSON"),
        ('{"a": [1, 2]}\n', "line 1: 'a' is a list"),
        ("[1, 2]\n", "line 1: not an object"),
        ("\n\n", "no rows"),
    ],
)
def test_json_lines_that_cannot_be_imported_are_told_why(store: Store, tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InvalidSourceError, match=words):
        import_source(store, str(write(tmp_path / "t.jsonl", text)), "data")


def test_json_lines_may_lack_keys_and_mix_types(store: Store, tmp_path: Path) -> None:
    text = '{"a": 1}\n{"a": 2.5, "b": "x"}\n{"b": 7}\n{"c": 12345678901234567890, "b": true}\n'
    rows = whole(load(store, write(tmp_path / "t.jsonl", text))).to_pylist()
    assert [row["a"] for row in rows] == [1.0, 2.5, None, None]
    assert [row["b"] for row in rows] == [None, "x", "7", "true"]
    assert rows[3]["c"] == 12345678901234567890.0


def test_files_with_other_columns_are_told(store: Store, tmp_path: Path) -> None:
    write(tmp_path / "d" / "1.csv", "a,b\n1,2\n")
    write(tmp_path / "d" / "2.csv", "a,c\n1,2\n")
    with pytest.raises(InvalidSourceError, match=r"2\.csv has other columns than 1\.csv"):
        import_source(store, str(tmp_path / "d"), "data")


def test_a_parquet_file_that_is_none_or_has_lists_is_told(store: Store, tmp_path: Path) -> None:
    with pytest.raises(InvalidSourceError, match="not a Parquet file"):
        import_source(store, str(write(tmp_path / "t.parquet", "hello")), "data")
    path = write_parquet(tmp_path / "u.parquet", pa.table({"a": [[1], [2]]}))
    with pytest.raises(InvalidSourceError, match="column 'a' has the type list"):
        import_source(store, str(path), "data")


def test_a_number_as_classes_is_pointed_to_regression(store: Store, tmp_path: Path) -> None:
    text = "a,price\n" + "".join(f"{i},{i * 1.5}\n" for i in range(50))
    with pytest.raises(InvalidSourceError, match="tabular-regression"):
        import_source(store, str(write(tmp_path / "t.csv", text)), "data", target="price")
