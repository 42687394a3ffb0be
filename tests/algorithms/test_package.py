"""Packages: written with digests, verified, compared with their model, and predicted with onnxruntime, numpy and Pillow alone."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from algorithms.package import Package, check_parity, decode_picture, record_metrics, write_package
from infra.errors import ArtifactNotFoundError, CorruptArtifactError, InvalidOptionError, ParityError
from tests.packages import COLOURS, colour_model, write_colours, write_sums

RGB = {"red": (200, 10, 10), "green": (10, 200, 10), "blue": (10, 10, 200)}
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_colours(tmp_path_factory.mktemp("colours"))


@pytest.fixture(scope="module")
def sums(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sums(tmp_path_factory.mktemp("sums"))


def picture(path: Path, colour: str = "red", size: tuple[int, int] = (8, 8), mode: str = "RGB") -> Path:
    Image.new("RGB", size, RGB[colour]).convert(mode).save(path)
    return path


def encoded(colour: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (5, 5), RGB[colour]).save(file, "PNG")
    return file.getvalue()


def reference(pixels: np.ndarray) -> np.ndarray:
    logits = pixels.astype(np.float64).mean(axis=(1, 2))[:, [2, 1, 0]] / 10
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def test_the_description_tells_all_and_the_same_package_has_the_same_bytes(colours: Path, tmp_path: Path) -> None:
    again = write_colours(tmp_path / "again")
    assert (again / "package.json").read_bytes() == (colours / "package.json").read_bytes()
    told = json.loads((colours / "package.json").read_text())
    assert told["labels"] == COLOURS
    assert told["onnx"]["opset"] == {"ai.onnx": 18, "ai.onnx.ml": 3}
    assert told["onnx"]["inputs"] == [{"name": "image", "type": "tensor(uint8)", "shape": ["N", "H", "W", 3]}]
    assert told["files"]["model.onnx"]["size"] == len(colour_model())
    assert {"onnx", "python"} <= told["versions"].keys()
    keys = {
        "format",
        "task",
        "algorithm",
        "labels",
        "inputs",
        "outputs",
        "preprocessing",
        "calibration",
        "lineage",
        "config",
        "metrics",
        "versions",
        "onnx",
        "files",
    }
    assert told.keys() == keys


def test_metrics_are_recorded_without_touching_the_rest(tmp_path: Path) -> None:
    folder = write_colours(tmp_path, metrics={})
    record_metrics(folder, {"accuracy": 0.5})
    assert Package.load(folder).metrics == {"accuracy": 0.5}
    with pytest.raises(ValueError, match="not JSON compliant"):
        record_metrics(folder, {"accuracy": float("nan")})
    assert Package.load(folder).metrics == {"accuracy": 0.5}


def test_pictures_of_all_sorts_are_predicted_in_order(colours: Path, tmp_path: Path) -> None:
    inputs: list[Any] = [
        picture(tmp_path / "a.png", "red", (4, 6)),
        picture(tmp_path / "b.jpg", "green", (9, 9)),
        str(picture(tmp_path / "c.bmp", "blue", (4, 6))),
        encoded("green"),
        picture(tmp_path / "d.gif", "red", (4, 6), "P"),
        picture(tmp_path / "e.png", "blue", (4, 6), "RGBA"),
    ]
    found = Package.load(colours).predict(inputs, batch_size=3)
    assert [result["label"] for result in found] == ["red", "green", "blue", "green", "red", "blue"]
    assert [result["input"] for result in found] == [str(tmp_path / "a.png"), str(tmp_path / "b.jpg"), inputs[2], 3, *map(str, inputs[4:])]
    assert all(list(result["scores"]) == COLOURS and sum(result["scores"].values()) == pytest.approx(1) for result in found)
    assert json.loads(json.dumps(found)) == found


def test_what_cannot_be_read_is_an_error_of_its_own(colours: Path, tmp_path: Path) -> None:
    whole = picture(tmp_path / "whole.jpg", "red", (64, 64)).read_bytes()
    for name, data in {"text.png": b"hello", "empty.png": b"", "cut.jpg": whole[: len(whole) // 2]}.items():
        (tmp_path / name).write_bytes(data)
    names = ["whole.jpg", "text.png", "empty.png", "cut.jpg", "nowhere.png", ".", "whole.jpg"]
    found = Package.load(colours).predict([*(tmp_path / name for name in names), {"a": 1}])
    assert ["error" in result for result in found] == [False, True, True, True, True, True, False, True]
    assert found[4] == {"input": str(tmp_path / "nowhere.png"), "error": "there is no such file"}
    assert [found[place]["error"] for place in (1, 2, 3, 5)] == [
        "its bytes are in no known picture format",
        "it is empty",
        "it is truncated: its bytes end too early",
        "it cannot be read: Is a directory",
    ]
    assert "takes pictures" in found[7]["error"]


def test_exif_orientation_is_left_as_it_is(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (7, 3)).save(tmp_path / "turned.jpg", exif=exif)
    assert decode_picture(tmp_path / "turned.jpg").shape == (3, 7, 3)


def test_rows_are_converted_by_the_schema(sums: Path) -> None:
    rows: list[Any] = [
        {"size": 1.5, "count": 2, "kind": "big", "new": True, "made": "1970-01-03", "unused": object()},
        {"size": "1.5", "count": "2", "kind": "small", "new": "no", "made": "1970-01-02T12:00:00+00:00"},
        {"size": None, "count": 2.0, "kind": ""},
        {"size": "", "count": np.int64(3), "kind": None, "new": "", "made": None},
    ]
    assert [result["value"] for result in Package.load(sums).predict(rows)] == [
        1.5 + 2 + 1000 + 1 + 2,
        1.5 + 2 + 1.5,
        100 + 2 + 500,
        100 + 3 + 500,
    ]


def test_all_faults_of_a_row_are_told_at_once_and_the_others_go_on(sums: Path) -> None:
    rows: list[Any] = [
        {"size": "tall", "count": 1.5, "new": "maybe", "made": "soon", "kind": "x"},
        {"size": 1},
        {"size": 1, "count": None, "kind": "x"},
        {"size": 1, "count": 1, "kind": "x"},
        b"picture",
    ]
    found = Package.load(sums).predict(rows)
    for word in (
        "'size': expected a number, got 'tall'",
        "'count': expected a whole number",
        "'new': expected true or false",
        "'made': expected a date",
    ):
        assert word in found[0]["error"]
    assert found[1]["error"] == "missing columns: count, kind"
    assert found[2]["error"] == "column 'count' is empty"
    assert found[3] == {"input": 3, "value": 2.0}
    assert "not pictures" in found[4]["error"]


def test_tables_are_read_from_csv_json_lines_and_parquet_alike(sums: Path, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"size": 1.5, "count": 2, "kind": "big"}, {"size": None, "count": 3, "kind": "small, or not"}]
    (tmp_path / "t.csv").write_text('size,count,kind\n1.5,2,big\n,3,"small, or not"\n', encoding="utf-8-sig")
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n\n" for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    package = Package.load(sums)
    for name in ("t.csv", "t.jsonl", "t.parquet"):
        found = package.predict([tmp_path / name], batch_size=1)
        assert [result["value"] for result in found] == [1003.5, 103.0]
        assert [result["input"] for result in found] == [f"{tmp_path / name}:1", f"{tmp_path / name}:2"]


def test_a_file_that_breaks_off_gives_its_rows_and_an_error(sums: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text("size,count,kind\n1,2,x\n1,2,x,4\n1,2,x\n")
    (tmp_path / "bad.jsonl").write_text('{"size": 1, "count": 2, "kind": "x"}\n[1]\n')
    (tmp_path / "bad.parquet").write_text("no")
    found = Package.load(sums).predict([tmp_path / "bad.csv", tmp_path / "bad.jsonl", tmp_path / "bad.parquet", tmp_path / "none.csv"])
    assert ["error" in result for result in found] == [False, True, False, True, True, True]
    assert "line 3: more values" in found[1]["error"]
    assert "line 2: expected a JSON object" in found[3]["error"]


def test_arrays_of_any_sizes_are_predicted_in_their_order(colours: Path, sums: Path) -> None:
    random = np.random.default_rng(0)
    pictures = [random.integers(0, 255, (size, 5, 3), dtype=np.uint8) for size in (3, 4, 3, 3, 5, 4)]
    expected = np.concatenate([reference(pixels[None]) for pixels in pictures])
    package = Package.load(colours)
    for batch_size in (1, 2, 64):
        assert package.predict_arrays(pictures, batch_size) == pytest.approx(expected, abs=1e-5)
    assert package.predict_arrays([]).shape == (0, 3)
    columns = {"size": [1, np.nan], "count": [1, 2], "new": [0, 0], "made": [0, 0], "kind": ["big", ""]}
    assert Package.load(sums).predict_arrays({name: np.asarray(value) for name, value in columns.items()}, 1).tolist() == [1002.0, 602.0]


def test_a_package_equal_to_its_model_passes_and_another_does_not(colours: Path, sums: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 255, (9, 4, 4, 3), dtype=np.uint8)
    expected = reference(pixels)
    assert check_parity(colours, pixels, expected) < 1e-5
    for wrong in (expected + 0.01, expected[:, :2], np.where(expected > 2, 0, np.nan)):
        with pytest.raises(ParityError):
            check_parity(colours, pixels, wrong)
    with pytest.raises(InvalidOptionError, match="3 samples"):
        check_parity(colours, pixels[:3], expected[:3])


def test_the_tolerance_of_values_is_a_share_of_the_largest(sums: Path) -> None:
    rows = {"size": np.full(8, 2e6), "count": np.zeros(8), "new": np.zeros(8), "made": np.zeros(8), "kind": np.full(8, "x", dtype=object)}
    assert check_parity(sums, rows, np.full(8, 2e6 + 100), tolerance=1e-3) == pytest.approx(5e-5, rel=0.1)
    with pytest.raises(ParityError):
        check_parity(sums, rows, np.full(8, 2e6 + 10_000), tolerance=1e-3)


def test_parity_is_checked_at_every_batch_size(tmp_path: Path) -> None:
    from onnx import TensorProto, helper, numpy_helper

    # Divides by the batch's largest value, so that each picture's answer depends on its neighbours.
    nodes = [
        helper.make_node("Cast", ["image"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats", "axes"], ["mean"], keepdims=0),
        helper.make_node("ReduceMax", ["mean"], ["largest"], keepdims=0),
        helper.make_node("Div", ["mean", "largest"], ["scores"]),
    ]
    inputs = [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", "H", "W", 3])]
    outputs = [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 3])]
    graph = helper.make_graph(nodes, "bad", inputs, outputs, [numpy_helper.from_array(np.array([1, 2], np.int64), "axes")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString()
    folder = write_colours(tmp_path, onnx_model_bytes=model)
    pixels = np.random.default_rng(2).integers(1, 255, (8, 4, 4, 3), dtype=np.uint8)
    one_by_one = Package.load(folder).predict_arrays(pixels, batch_size=1)
    assert check_parity(folder, pixels, one_by_one, batch_sizes=(1,)) == 0
    with pytest.raises(ParityError) as caught:
        check_parity(folder, pixels, one_by_one)
    assert caught.value.batch_size == 8


def test_a_changed_or_missing_file_is_named(tmp_path: Path) -> None:
    folder = write_colours(tmp_path / "p")
    (folder / "model.onnx").write_bytes(colour_model()[:-1] + b"x")
    with pytest.raises(CorruptArtifactError, match=r"model\.onnx"):
        Package.load(folder)
    (folder / "model.onnx").unlink()
    with pytest.raises(ArtifactNotFoundError, match=r"model\.onnx"):
        Package.load(folder)
    (folder / "package.json").write_text("{")
    with pytest.raises(CorruptArtifactError, match=r"package\.json"):
        Package.load(folder)
    with pytest.raises(ArtifactNotFoundError, match=r"package\.json"):
        Package.load(tmp_path)


def test_a_package_of_a_newer_format_is_refused(tmp_path: Path) -> None:
    folder = write_colours(tmp_path)
    told = json.loads((folder / "package.json").read_text())
    (folder / "package.json").write_text(json.dumps({**told, "format": 99}))
    with pytest.raises(InvalidOptionError, match="99"):
        Package.load(folder)


def test_other_files_of_the_package_are_protected_too(tmp_path: Path) -> None:
    (tmp_path / "README.txt").write_text("hello")
    folder = write_colours(tmp_path)
    (folder / "README.txt").write_text("hallo")
    with pytest.raises(CorruptArtifactError, match=r"README\.txt"):
        Package.load(folder)


def test_a_description_that_is_not_json_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_colours(tmp_path, metrics={"accuracy": float("inf")})
    assert not (tmp_path / "package.json").exists()
    assert write_package.__doc__


BARE = """
    import sys

    ALLOWED = {"onnxruntime", "numpy", "PIL", "algorithms", "infra"} | set(sys.stdlib_module_names)

    class Forbid:
        def find_spec(self, name, path=None, target=None):
            # What onnxruntime itself asks for and can do without is answered with "not there", as on a bare machine.
            if name.partition(".")[0] not in ALLOWED:
                raise ModuleNotFoundError(f"No module named {name!r} (forbidden by the test)", name=name)
            return None

    sys.meta_path.insert(0, Forbid())
    from algorithms.package import Package

    results = Package.load(sys.argv[1]).predict(sys.argv[3:4]) + Package.load(sys.argv[2]).predict(sys.argv[4:5])
    own = {name.partition(".")[0] for name in sys.modules} - set(sys.stdlib_module_names) - {"__main__"}
    print([result.get("label", result.get("value")) for result in results])
    print(sorted(name for name in own if not name.startswith("_")))
"""


def test_prediction_needs_nothing_but_onnxruntime_numpy_and_pillow(colours: Path, sums: Path, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("size,count,kind\n1.5,2,big\n")
    picture(tmp_path / "a.png", "red")
    arguments = [str(colours), str(sums), str(tmp_path / "a.png"), str(tmp_path / "t.csv")]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(BARE), *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stderr == ""
    first, second = done.stdout.splitlines()
    assert first == "['red', 1003.5]"
    assert set(eval(second)) <= {"PIL", "algorithms", "infra", "numpy", "onnxruntime"}
