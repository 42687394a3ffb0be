"""Batch prediction: one row for each input whatever it is, in order; the same bytes however often it was killed; any store."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from infra.artifacts import Artifact, publish
from infra.context import StageContext
from infra.errors import InvalidOptionError, InvalidSourceError, SourceNotFoundError
from infra.registry import Registry
from infra.settings import load_settings
from infra.store import open_store
from tasks._batch_parts import cut, list_inputs, read_rows
from tasks.predict_batch import Predicted, _picture, predict_batch
from tests.packages import write_colours, write_sums
from tests.processes import marked

if TYPE_CHECKING:
    from distributed import Client

RGB = {"red": (200, 10, 10), "green": (10, 200, 10), "blue": (10, 10, 200)}
MARK, LIMIT_S = "ATELIER_TEST_BATCH", 150.0


@pytest.fixture
def context(workspace: Path, cluster: Client) -> StageContext:
    settings = load_settings()
    context = StageContext(settings, open_store(settings.workspace_uri))
    context.use_cluster(cluster)
    return context


@pytest.fixture
def colours(context: StageContext, tmp_path: Path) -> Artifact:
    return publish(context.store, write_colours(tmp_path / "package"), "packages/colours", "export")


@pytest.fixture
def sums(context: StageContext, tmp_path: Path) -> Artifact:
    return publish(context.store, write_sums(tmp_path / "package"), "packages/sums", "export")


def paint(folder: Path, number: int) -> list[str]:
    """Pictures in alternating colours; the colour of each in the order of their names."""
    names = [list(RGB)[index % 3] for index in range(number)]
    for index, name in enumerate(names):
        path = folder / f"{index // 100:02d}" / f"{index:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8 + index % 2, 8), RGB[name]).save(path)
    return names


def rows_of(result: Predicted) -> list[dict[str, Any]]:
    """The output, whatever its format, as text."""
    path = Path(result.output)
    if path.suffix == ".csv":
        return list(csv.DictReader(io.StringIO(path.read_text(), newline="")))
    return pq.read_table(path).to_pylist()


def test_every_picture_gets_one_row_in_order_and_broken_ones_say_why(context: StageContext, colours: Artifact, tmp_path: Path) -> None:
    names = paint(tmp_path / "in", 25)
    (tmp_path / "in" / "00" / "00003.png").write_bytes(b"no picture")
    (tmp_path / "in" / "00" / "00004.png").write_bytes(b"")
    (tmp_path / "in" / "00" / os.fsdecode(b"z\xe9.png")).write_bytes(
        (tmp_path / "in" / "00" / "00000.png").read_bytes()
    )  # a name that is not UTF-8
    (tmp_path / "in" / "notes.txt").write_text("not an input")
    (tmp_path / "in" / ".hidden.png").write_bytes(b"not an input")
    result = predict_batch(colours, [str(tmp_path / "in")], str(tmp_path / "out.parquet"), 4, context=context)
    rows = rows_of(result)
    assert [Path(row["input"]).stem for row in rows] == [*(f"{index:05d}" for index in range(25)), "z?"]
    assert rows.pop()["label"] == names[0]
    assert [row["label"] for index, row in enumerate(rows) if index not in (3, 4)] == [n for i, n in enumerate(names) if i not in (3, 4)]
    assert [row["error"] for row in rows[3:5]] == ["its bytes are in no known picture format", "it is empty"]
    assert all(row["label"] is None for row in rows[3:5])
    assert (result.num_inputs, result.num_failed, result.num_parts) == (26, 2, 7)
    assert rows[0]["confidence"] == rows[0]["score_red"] > 0.99


def test_a_picture_that_the_disk_does_not_give_tells_no_folder_of_this_machine(tmp_path: Path) -> None:
    told = str(_picture(str(tmp_path), "a" * 300 + ".png"))
    assert told == "it cannot be read: File name too long"


CSV = (
    "size,count,kind,new,made\r\n"
    '1.5,2,"a ""big"" one, with a comma",,\r\n'
    '3,4,"two\n\nlines",true,\r\n'
    "\r\n"
    "x,4,big,,\r\n"
    "1,2,big,,,,too many\r\n"
    "1,2\r\n"
    ",7,big,,1970-01-03\r\n"
)
VALUES = [3.5, 8.0, None, None, 503.0, 1109.0]


def test_csv_rows_with_quotes_line_breaks_and_faults(context: StageContext, sums: Artifact, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("\ufeff" + CSV, newline="")
    outputs = []
    for rows_per_part in (1, 2, 100):
        result = predict_batch(sums, [str(tmp_path / "in.csv")], str(tmp_path / f"out-{rows_per_part}.csv"), rows_per_part, context=context)
        outputs.append(Path(result.output).read_bytes())
        rows = rows_of(result)
        assert [float(row["value"]) if row["value"] else None for row in rows] == VALUES
        assert [row["input"].rpartition(":")[2] for row in rows] == ["1", "2", "3", "4", "5", "6"]
        assert "expected a number, got 'x'" in rows[2]["error"]
        assert "7 values, but the header has 5 columns" in rows[3]["error"]
    assert outputs[0] == outputs[1] == outputs[2]


def test_all_kinds_of_tables_give_the_same(context: StageContext, sums: Artifact, tmp_path: Path) -> None:
    rows = [{"size": float(index), "count": index, "kind": "big" if index % 2 else "small"} for index in range(1000)]
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), folder / "b.parquet", row_group_size=90)
    lines = ["size;count;kind", *(f"{row['size']};{row['count']};{row['kind']}" for row in rows)]
    (folder / "c.csv").write_text("\n".join(lines))
    (folder / "d.tsv").write_text("\n".join(lines).replace(";", "\t") + "\n")
    result = predict_batch(sums, [str(folder)], str(tmp_path / "out.parquet"), 64, context=context)
    values = [row["value"] for row in rows_of(result)]
    assert (len(values), result.num_failed) == (4000, 0)
    assert values[:1000] == values[1000:2000] == values[2000:3000] == values[3000:] == [2 * i + 1000 * (i % 2) for i in range(1000)]


def test_lines_that_are_not_json_or_not_utf8_are_rows_with_an_error(context: StageContext, sums: Artifact, tmp_path: Path) -> None:
    good = b'{"size": 1, "count": 2, "kind": "big"}\n'
    (tmp_path / "in.jsonl").write_bytes(good + b"{nonsense\n\n[1]\n" + b'{"size": 1, "count": 2, "kind": "\xe9"}\n' + good)
    result = predict_batch(sums, [str(tmp_path / "in.jsonl")], str(tmp_path / "out.csv"), 2, context=context)
    assert [(bool(row["value"]), row["error"][:8]) for row in rows_of(result)] == [
        (True, ""),
        (False, "not JSON"),
        (False, "expected"),
        (False, "it is no"),
        (True, ""),
    ]


def test_the_parts_of_a_file_hold_every_row_once(tmp_path: Path) -> None:
    text = "a,b\n" + "".join(f'{index},"x{chr(10) * (index % 3)}{index}"\n' for index in range(500))
    (tmp_path / "t.csv").write_text(text)
    whole = list(csv.DictReader(io.StringIO(text)))
    for rows in (1, 7, 499, 500, 1000):
        parts = cut(list_inputs([str(tmp_path / "t.csv")]), False, rows)
        assert [row for part in parts for row in read_rows(part)] == whole
        assert [part.first for part in parts] == list(range(1, 501, rows))


def test_inputs_in_s3_and_an_output_there(context: StageContext, colours: Artifact, s3_workspace: str, tmp_path: Path) -> None:
    names = paint(tmp_path / "in", 6)
    bucket = open_store(s3_workspace.rpartition("/")[0])
    for path in (tmp_path / "in").rglob("*.png"):
        bucket.put_file(path, f"pictures/{path.name}")
    root = bucket.uri
    result = predict_batch(colours, [f"{root}/pictures"], f"{root}/pictures/out.parquet", 4, context=local(context))
    again = predict_batch(colours, [f"{root}/pictures"], f"{root}/pictures/out.parquet", 4, context=local(context))
    rows = pq.read_table(io.BytesIO(bucket.read_bytes("pictures/out.parquet"))).to_pylist()
    assert [row["label"] for row in rows] == names
    assert (result.num_done_before, again.num_done_before) == (0, 2), "what it writes there is no input"


def local(context: StageContext) -> StageContext:
    """A cluster in this process, which knows the test's credentials; the session's worker processes do not."""
    from concurrent.futures import ThreadPoolExecutor

    class Here:
        def __init__(self) -> None:
            self.pool = ThreadPoolExecutor(1)
            self.scheduler = None

        def submit(self, function: Any, *call: Any, **_: Any) -> Any:
            future: Any = self.pool.submit(function, *call)
            future.release = lambda: None
            return future

    context._starting = None
    context.use_cluster(Here())  # type: ignore[arg-type]
    return context


def test_wrong_requests_are_answered_before_anything_is_predicted(context: StageContext, colours: Artifact, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    for inputs, output, error in (
        ([str(tmp_path / "nowhere")], "out.csv", SourceNotFoundError),
        ([str(tmp_path / "t.csv")], "out.xlsx", InvalidOptionError),
        ([str(tmp_path)], "out.csv", InvalidSourceError),
        (["ftp://host/x"], "out.csv", InvalidSourceError),
    ):
        with pytest.raises(error):
            predict_batch(colours, inputs, str(tmp_path / output), context=context)
    assert not list(context.store.list("batches/"))
    assert not list(tmp_path.glob("out*"))


def test_two_columns_of_one_name_and_a_line_without_end_are_refused(context: StageContext, sums: Artifact, tmp_path: Path) -> None:
    for text, words in (("a,a\n1,2\n", "two columns"), ("\n1\n", "first line is empty"), ('a,b\n1,"' + "x" * 200_000, "field larger")):
        (tmp_path / "t.csv").write_text(text)
        with pytest.raises(InvalidSourceError, match=words):
            predict_batch(sums, [str(tmp_path / "t.csv")], str(tmp_path / "out.csv"), context=context)


@pytest.mark.slow
def test_killed_twice_in_the_middle_it_gives_the_same_bytes(
    run_environment: dict[str, str], workspace: Path, tmp_path: Path, prefect_api: str, context: StageContext, colours: Artifact
) -> None:
    paint(tmp_path / "in", 400)
    (tmp_path / "in" / "00" / "00050.png").write_bytes(b"broken")
    undisturbed = predict_batch(colours, [str(tmp_path / "in")], str(tmp_path / "undisturbed.parquet"), 2, context=context)
    context.store.delete("batches")
    Registry(context.settings, context.store).register(
        "colours", colours, algorithm="image-classification/small-cnn", dataset="d" * 64, metrics={"accuracy": 0.9}
    )
    mark = uuid.uuid4().hex
    environment = {**run_environment, MARK: mark, "PREFECT_API_URL": prefect_api, "ATELIER_SLOTS": "1"}
    output = tmp_path / "out.parquet"
    command = [sys.executable, "-m", "deployments.cli", "batch-predict", "colours", str(tmp_path / "in"), "--output", str(output)]

    def start() -> subprocess.Popen[bytes]:
        with (tmp_path / "out").open("wb") as out, (tmp_path / "err").open("wb") as err:
            return subprocess.Popen([*command, "--rows-per-part", "2", "--json"], env=environment, stdout=out, stderr=err)

    for enough in (5, 40):
        process = start()
        limit = time.monotonic() + LIMIT_S
        while len(list(workspace.glob("batches/*/*.parquet"))) < enough:
            assert process.poll() is None, (tmp_path / "err").read_text()
            assert time.monotonic() < limit, (tmp_path / "err").read_text()
            time.sleep(0.005)
        os.kill(process.pid, 9)
        process.wait()
        while marked(MARK, mark):
            assert time.monotonic() < limit, "workers outlive the command"
            time.sleep(0.05)
        assert not output.exists()
        assert len(list(workspace.glob("batches/*/*.parquet"))) < 200, "killed too late to show anything"
    process = start()
    assert process.wait(LIMIT_S) == 1, (tmp_path / "err").read_text()  # one picture is broken
    told = json.loads((tmp_path / "out").read_text())
    assert (told["num_inputs"], told["num_failed"]) == (400, 1)
    assert told["num_done_before"] >= 40
    assert output.read_bytes() == Path(undisturbed.output).read_bytes()
    assert marked(MARK, mark) == []
