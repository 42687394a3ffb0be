"""A real server over HTTP: what it answers, and what it answers to what is wrong."""

from __future__ import annotations

import base64
import http.client
import io
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from algorithms.package import Package
from deployments.serving.tensors import parse_infer
from infra.errors import RequestRefusedError
from infra.registry import Registry
from tests.deployments.serving.conftest import LABELS, Answer, Running

RED = np.full((1, 4, 4, 3), (200, 10, 10), dtype=np.uint8)
ROW = {"size": 1.5, "count": 2, "new": True, "made": None, "kind": "big"}


def png(colour: tuple[int, int, int] = (200, 10, 10), size: int = 6) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (size, size), colour).save(file, "PNG")
    return file.getvalue()


def tensor(array: np.ndarray, **more: Any) -> dict[str, Any]:
    return {"name": "image", "datatype": "UINT8", "shape": list(array.shape), "data": array.ravel().tolist(), **more}


def test_importing_the_server_loads_no_torch_and_no_mlflow() -> None:
    code = "import deployments.serving.worker, sys; print(sorted({m.split('.')[0] for m in sys.modules} & {'torch','mlflow','sklearn','prefect','pandas'}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"


def test_health_and_metadata_follow_the_protocol(server: Running) -> None:
    assert server.ask("/v2/health/live").json == {"live": True}
    assert server.ask("/v2/health/ready").status == 200
    assert server.ask("/v2").json["extensions"] == ["binary_tensor_data"]
    about = server.ask("/v2/models/colours").json
    assert (about["name"], about["versions"], about["parameters"]["version"]) == ("colours", ["1", "2"], "1")
    assert about["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, -1, -1, 3]}]
    assert about["outputs"] == [{"name": "scores", "datatype": "FP32", "shape": [-1, 3]}]
    sums = server.ask("/v2/models/sums/versions/1").json
    assert [(one["name"], one["datatype"]) for one in sums["inputs"]] == [
        ("size", "FP32"),
        ("count", "INT64"),
        ("new", "FP32"),
        ("made", "FP32"),
        ("kind", "BYTES"),
    ]
    assert server.ask("/v2/models/colours/versions/2/ready").json["ready"] is True


def test_the_server_says_what_predict_says(server: Running, registry: Registry, tmp_path: Path) -> None:
    package = Package.load(registry.package_folder(registry.get("colours/1")))
    path = tmp_path / "red.png"
    path.write_bytes(png())
    (wanted,) = package.predict([path])
    (plain,) = server.ask("/v2/models/colours/predict", png(), content_type="image/png").json["predictions"]
    assert plain == {name: value for name, value in wanted.items() if name != "input"}
    pixels = np.asarray(Image.open(path))[None]
    answer = server.ask("/v2/models/colours/infer", {"id": "seven", "inputs": [tensor(pixels)]}).json
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("colours", "1", "seven")
    (scores,) = answer["outputs"]
    assert (scores["name"], scores["datatype"], scores["shape"]) == ("scores", "FP32", [1, 3])
    assert dict(zip(LABELS, scores["data"], strict=True)) == pytest.approx(wanted["scores"], abs=1e-6)
    rows = Package.load(registry.package_folder(registry.get("sums"))).predict([ROW])
    assert server.ask("/v2/models/sums/predict", [ROW]).json["predictions"] == [{"value": rows[0]["value"]}]


def test_tensors_travel_as_bytes_both_ways(server: Running) -> None:
    images = np.concatenate([RED, RED[..., ::-1]])
    entry = {"name": "image", "datatype": "UINT8", "shape": list(images.shape), "parameters": {"binary_data_size": images.nbytes}}
    outputs = [{"name": "scores", "parameters": {"binary_data": True}}, {"name": "label"}]
    head = json.dumps({"inputs": [entry], "outputs": outputs}).encode()
    answer = server.ask("/v2/models/colours/infer", head + images.tobytes(), inference_header_content_length=str(len(head)))
    assert answer.status == 200
    size = int(answer.headers["inference-header-content-length"])
    scores, labels = json.loads(answer.body[:size])["outputs"]
    assert np.frombuffer(answer.body[size:], np.float32).reshape(scores["shape"]).argmax(axis=1).tolist() == [2, 0]
    assert (labels["datatype"], labels["data"]) == ("BYTES", ["red", "blue"])


def test_tables_take_tensors_with_texts_and_missing_values(server: Running) -> None:
    inputs = [
        {"name": "size", "datatype": "FP64", "shape": [2, 1], "data": [1.0, None]},
        {"name": "count", "datatype": "INT64", "shape": [2, 1], "data": [[1], [2]]},
        {"name": "kind", "datatype": "BYTES", "shape": [2], "data": ["big", "other"]},
    ]
    answer = server.ask("/v2/models/sums/infer", {"inputs": inputs}).json
    assert answer["outputs"][0]["data"] == [1 + 1 + 1000, 100 + 2]


def test_pictures_come_as_a_form_as_base64_and_as_they_are(server: Running) -> None:
    boundary = b"----x"
    parts = [
        b"--"
        + boundary
        + b'\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
        + data
        + b"\r\n"
        for data in (png(), png((10, 10, 200), size=9))
    ]
    form = b"".join(parts) + b"--" + boundary + b"--\r\n"
    answer = server.ask("/v2/models/colours/predict", form, content_type="multipart/form-data; boundary=----x").json
    assert [one["label"] for one in answer["predictions"]] == ["red", "blue"]
    encoded = base64.b64encode(png((10, 200, 10))).decode()
    assert server.ask("/v2/models/colours/predict", {"image": encoded}).json["predictions"][0]["label"] == "green"
    assert server.ask("/v2/models/colours/versions/2/predict", png(), content_type="image/png").json["predictions"][0]["label"] == "blue"


WRONG: dict[str, tuple[str, Any, dict[str, str], int, str]] = {
    "malformed JSON": ("colours/infer", b'{"inputs": [', {}, 400, "not JSON"),
    "no JSON": ("colours/infer", b"\xff\xfe", {}, 400, "not JSON"),
    "NaN": ("colours/infer", b'{"inputs": [NaN]}', {}, 400, "not JSON"),
    "empty body": ("colours/infer", b"", {}, 400, "empty"),
    "a list": ("colours/infer", [], {}, 400, "object"),
    "no inputs": ("colours/infer", {"inputs": []}, {}, 400, "inputs"),
    "wrong name": ("colours/infer", {"inputs": [tensor(RED, name="picture")]}, {}, 400, "'image'"),
    "wrong type": ("colours/infer", {"inputs": [tensor(RED, datatype="FP32")]}, {}, 400, "UINT8"),
    "unknown type": ("colours/infer", {"inputs": [tensor(RED, datatype="INT4")]}, {}, 400, "INT4"),
    "wrong shape": ("colours/infer", {"inputs": [tensor(RED, shape=[1, 4, 4])]}, {}, 400, "16 values, 48 came"),
    "wrong channels": ("colours/infer", {"inputs": [tensor(RED, shape=[1, 4, 12, 1])]}, {}, 400, "[N, H, W, 3]"),
    "nothing in it": ("colours/infer", {"inputs": [tensor(RED[:0])]}, {}, 400, "none of it 0"),
    "negative shape": ("colours/infer", {"inputs": [tensor(RED, shape=[-1, 4, 4, 3])]}, {}, 400, "whole numbers"),
    "huge shape": ("colours/infer", {"inputs": [tensor(RED, shape=[2**40, 2**40, 4, 3])]}, {}, 400, "values"),
    "out of range": ("colours/infer", {"inputs": [tensor(RED, data=[256] * 48)]}, {}, 400, "0 to 255"),
    "texts": ("colours/infer", {"inputs": [tensor(RED, data=["a"] * 48)]}, {}, 400, "0 to 255"),
    "ragged": ("colours/infer", {"inputs": [tensor(RED, data=[[1, 2], [3]])]}, {}, 400, "shape"),
    "deep": ("colours/infer", {"inputs": [tensor(RED, data=json.loads("[" * 300 + "]" * 300))]}, {}, 400, "shape"),
    "unknown output": ("colours/infer", {"inputs": [tensor(RED)], "outputs": [{"name": "logits"}]}, {}, 400, "logits"),
    "twice": ("colours/infer", {"inputs": [tensor(RED), tensor(RED)]}, {}, 400, "twice"),
    "header too long": ("colours/infer", {"inputs": [tensor(RED)]}, {"inference_header_content_length": "999999"}, 400, "bytes"),
    "header no number": ("colours/infer", {"inputs": [tensor(RED)]}, {"inference_header_content_length": "-1"}, 400, "whole number"),
    "bytes too few": ("colours/infer", {"inputs": [{**tensor(RED), "parameters": {"binary_data_size": 9}}]}, {}, 400, "0 came"),
    "unknown model": ("colour/infer", {}, {}, 404, "nearest: colours"),
    "unknown version": ("colours/versions/9/infer", {}, {}, 404, "loaded: 1, 2"),
    "version no number": ("colours/versions/x/infer", {}, {}, 404, "not loaded"),
    "too many rows": ("sums/predict", [ROW] * 2000, {}, 413, "1024"),
    "truncated picture": ("colours/predict", png(size=64)[:80], {"content_type": "image/png"}, 400, "cannot be decoded"),
    "no picture": ("colours/predict", b"GIF89a", {"content_type": "image/gif"}, 400, "cannot be decoded"),
    "empty picture": ("colours/predict", b"", {"content_type": "image/png"}, 400, "empty"),
    "no base64": ("colours/predict", {"image": "***"}, {}, 400, "base64"),
    "rows for pictures": ("colours/predict", [ROW], {}, 400, "image"),
    "pictures for rows": ("sums/predict", png(), {"content_type": "image/png"}, 415, "rows"),
    "strange type": ("colours/predict", b"x", {"content_type": "application/pdf"}, 415, "application/pdf"),
    "broken form": ("colours/predict", b"x", {"content_type": "multipart/form-data"}, 400, "form"),
    "missing column": ("sums/predict", [{"size": 1}], {}, 400, "missing columns: count, kind"),
    "wrong value": ("sums/predict", [ROW, {**ROW, "count": "many"}], {}, 400, "row 1: column 'count'"),
    "nested value": ("sums/predict", [{**ROW, "kind": {}}], {}, 400, "'kind'"),
    "infinite value": ("sums/predict", [{**ROW, "size": 1e300}], {}, 400, "infinite"),
    "too large a number": ("sums/predict", [{**ROW, "count": 2**64 - 1}], {}, 400, "64 bits"),
    "no rows": ("sums/predict", [], {}, 400, "no row"),
    "a number for a row": ("sums/predict", 3, {}, 400, "got int"),
    "no answer": ("sums/predict", [{**ROW, "size": 3e38, "made": 3e38}], {}, 422, "not a finite number"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_refused_with_a_reason(server: Running, case: str) -> None:
    path, body, headers, status, words = WRONG[case]
    answer = server.ask(f"/v2/models/{path}", body, **headers)
    assert (answer.status, words in answer.error) == (status, True), answer.error


def test_a_wrong_method_is_named(server: Running) -> None:
    answer = server.ask("/v2/models/colours/infer")
    assert (answer.status, answer.headers["allow"]) == (405, "POST")


def test_a_body_that_is_too_large_is_refused_before_it_is_read(server: Running) -> None:
    address = urlsplit(server.url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)
    connection.putrequest("POST", "/v2/models/colours/infer")
    connection.putheader("Content-Length", str(100 << 20))
    connection.endheaders()
    for _ in range(100):  # a client that writes all before it reads
        connection.send(bytes(1 << 20))
    answer = connection.getresponse()
    assert (answer.status, "8 MiB" in json.loads(answer.read())["error"]) == (413, True)
    connection.close()
    chunked = http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)
    chunked.request(
        "POST",
        "/v2/models/colours/infer",
        (bytes(1 << 20) for _ in range(9)),
        encode_chunked=True,
        headers={"Transfer-Encoding": "chunked"},
    )
    assert chunked.getresponse().status == 413
    chunked.close()
    assert server.ask("/v2/health/live").status == 200


def test_metrics_tell_the_parts_of_each_version(server: Running) -> None:
    before = server.metrics()
    server.ask("/v2/models/colours/infer", {"inputs": [tensor(RED)]})
    server.ask("/v2/models/colours/infer", {"inputs": []})
    after = server.metrics()

    def grown(name: str) -> float:
        return after[name] - before.get(name, 0.0)

    assert grown('atelier_requests_total{model="colours",outcome="ok",version="1"}') == 1
    assert grown('atelier_requests_total{model="colours",outcome="refused",version="1"}') == 1
    for part in ("queue", "preprocess", "model", "postprocess"):
        assert grown(f'atelier_part_seconds_count{{model="colours",part="{part}",version="1"}}') == 1
    assert grown('atelier_predictions_total{label="red",model="colours",version="1"}') == 1


def test_feedback_is_counted_for_the_version_that_predicted(server: Running) -> None:
    def tell(answer: Answer, truth: list[Any], name: str = "colours") -> Answer:
        return server.ask(f"/v2/models/{name}/feedback", {"prediction": answer.headers["atelier-prediction"], "truth": truth})

    right = server.ask("/v2/models/colours/predict", png(), content_type="image/png")
    wrong = server.ask("/v2/models/colours/versions/2/predict", png(), content_type="image/png")
    counter = 'atelier_feedback_total{correct="true",model="colours",version="1"}'
    before = server.metrics().get(counter, 0)
    assert tell(right, ["red"]).json == {"version": 1, "rows": 1, "correct": 1, "again": False}
    assert tell(right, ["red"]).json == {"version": 1, "rows": 1, "correct": 1, "again": True}
    assert server.metrics()[counter] == before + 1, "told twice, counted once"
    assert tell(wrong, ["red"]).json == {"version": 2, "rows": 1, "correct": 0, "again": False}
    value = server.ask("/v2/models/sums/predict", [ROW])
    assert tell(value, [1003.5], "sums").json["squared_error"] == pytest.approx((value.json["predictions"][0]["value"] - 1003.5) ** 2)
    for answer, words in (
        (tell(right, ["purple"]), "no label"),
        (tell(right, ["red", "red"]), "1 rows"),
        (tell(right, [1.0], "sums"), "not of 'sums'"),
        (server.ask("/v2/models/colours/feedback", {"prediction": "AAAA.BBBB", "truth": ["red"]}), "token"),
        (server.ask("/v2/models/colours/feedback", {"truth": []}), "prediction"),
    ):
        assert (answer.status, words in answer.error) == (400, True), answer.error


def test_a_missing_value_is_null_in_json_and_nan_in_bytes() -> None:
    def said(data: str, datatype: str = "FP32") -> bytes:
        return f'{{"inputs": [{{"name": "a", "datatype": "{datatype}", "shape": [1, 1], {data}}}]}}'.encode()

    assert np.isnan(parse_infer(said('"data": [null]')).inputs["a"]).all()
    head = said('"parameters": {"binary_data_size": 4}')
    assert np.isnan(parse_infer(head + np.float32("nan").tobytes(), len(head)).inputs["a"]).all()
    assert parse_infer(said('"data": [null]', "BYTES")).inputs["a"].tolist() == [[""]]
    for body in (said('"data": [NaN]'), said('"data": [null]', "INT64")):
        with pytest.raises(RequestRefusedError):
            parse_infer(body)


def test_the_page_works_without_anything_from_outside(server: Running) -> None:
    page = server.ask("/docs").body.decode()
    assert "http" not in page.replace("html", "").replace("http-equiv", "")
    for file in ("docs/swagger-ui.css", "docs/swagger-ui-bundle.js"):
        assert file in page
        assert server.ask(f"/{file}").status == 200
    paths = server.ask("/openapi.json").json["paths"]
    assert {"/v2/models/{name}/infer", "/v2/models/{name}/versions/{version}/predict", "/v2/health/ready", "/metrics"} <= set(paths)


def test_captured_requests_are_kept_as_parquet(server: Running, registry: Registry, settings: Any) -> None:
    import pyarrow.parquet as pq

    server.ask("/v2/models/sums/predict", [ROW], atelier_key="anna")
    server.ask("/v2/models/colours/predict", png(), content_type="image/png", atelier_key="berta")
    folder = Path(settings.workspace_uri) / "captures"

    def kept(model: str, key: str) -> list[dict[str, Any]]:
        return [row for path in (folder / model).rglob("*.parquet") for row in pq.read_table(path).to_pylist() if row["key"] == key]

    wait_until(lambda: bool(kept("sums", "anna") and kept("colours", "berta")))
    rows, pictures = kept("sums", "anna"), kept("colours", "berta")
    assert (rows[-1]["version"], rows[-1]["input.kind"], rows[-1]["input.size"], rows[-1]["input.made"]) == (1, "big", 1.5, None)
    assert rows[-1]["value"] == server.ask("/v2/models/sums/predict", [ROW]).json["predictions"][0]["value"]
    assert (pictures[-1]["label"], pictures[-1]["image"], pictures[-1]["width"]) == ("red", png(), 6)
    assert pictures[-1]["brightness"] == pytest.approx((200 + 10 + 10) / 3)


def wait_until(test: Callable[[], bool], most_s: float = 60.0) -> None:
    end = time.monotonic() + most_s
    while not test():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.05)
