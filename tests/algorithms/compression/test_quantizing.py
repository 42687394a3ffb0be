"""Number formats of real exported networks, and of small graphs whose answers are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from algorithms.compression import graphs
from algorithms.compression.calibration import calibration_feeds, feeds
from algorithms.compression.halving import to_half
from algorithms.compression.quantizing import TOLERANCE, output_error, quantize_dynamic, quantize_static
from algorithms.package import Package
from algorithms.run import RunSpec, execute
from infra.artifacts import fetch
from infra.collectives import LocalCollectives
from infra.errors import CompressionError
from infra.settings import load_settings
from tests.algorithms.conftest import Workplace


@pytest.fixture
def package(workplace: Workplace) -> Package:
    """A small network, trained a little."""
    common: dict[str, Any] = {
        "algorithm": "image-classification/small-cnn",
        "config": {"image_size": 16, "epochs": 4, "batch_size": 13},
        "dataset": workplace.ref,
        "workspace": workplace.store.uri,
    }
    trained = execute(RunSpec(verb="train", output="runs/one/train", **common), LocalCollectives())
    exported = execute(RunSpec(verb="export", output="runs/one/export", model=trained, **common), LocalCollectives())
    assert exported is not None
    return Package.load(fetch(workplace.store, exported, load_settings().cache_path), providers=["CPUExecutionProvider"])


def model_of(package: Package) -> bytes:
    return (package.folder / "model.onnx").read_bytes()


def run(model: bytes, batch: dict[str, NDArray[Any]], output: str = "scores") -> NDArray[Any]:
    result: NDArray[Any] = ort.InferenceSession(model, providers=["CPUExecutionProvider"]).run([output], batch)[0]
    return result


def product_model(first: NDArray[Any], second: NDArray[Any]) -> bytes:
    """x [N, F] -> Gemm -> Relu -> Gemm -> Softmax."""
    nodes = [
        helper.make_node("Gemm", ["x", "first"], ["a"], name="one"),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Gemm", ["b", "second"], ["c"], name="two"),
        helper.make_node("Softmax", ["c"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "products",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", first.shape[0]])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", second.shape[1]])],
        [numpy_helper.from_array(first.astype(np.float32), "first"), numpy_helper.from_array(second.astype(np.float32), "second")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    serialized: bytes = model.SerializeToString()
    return serialized


def test_the_network_is_int8_and_the_preprocessing_stays_in_float(package: Package, workplace: Workplace) -> None:
    batches = calibration_feeds(package, workplace.dataset(), seed=0)
    model = model_of(package)
    made = quantize_static(model, batches, "scores")
    assert made.facts["left_in_float"] == []
    assert made.facts["output_error"] <= TOLERANCE
    assert made.facts["calibration_samples"] == workplace.dataset().num_rows("train")
    assert len(made.model) < len(model) / 2.5
    graph = onnx.load_model_from_string(made.model).graph
    rounded = {name for node in graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    layers = [node for node in graph.node if node.op_type in ("Conv", "Gemm")]
    assert len(layers) == 7
    assert all(set(node.input[:2]) <= rounded for node in layers)
    resize = next(node for node in graph.node if node.op_type == "Resize")
    assert not set(resize.input) & rounded
    weights = next(node for node in graph.node if node.op_type == "DequantizeLinear" and node.output[0] == layers[1].input[1])
    scales = next(tensor for tensor in graph.initializer if tensor.name == weights.input[1])
    assert list(scales.dims) == [32]
    assert output_error(run(model, batches[0]), run(made.model, batches[0])) < 2 * TOLERANCE


def test_a_layer_that_the_output_cannot_spare_stays_in_float() -> None:
    random = np.random.default_rng(0)
    first, second = random.normal(size=(8, 16)), random.normal(size=(16, 3))
    first[0] = 0.0
    batch = random.normal(size=(64, 8)).astype(np.float32)
    batch[:, 0] *= 1e5  # carries nothing, and takes all the room of the first layer's input
    model = product_model(first, second)
    made = quantize_static(model, [{"x": batch}], "scores")
    assert made.facts["output_error_all_int8"] > 0.1
    assert made.facts["left_in_float"] == ["one"]
    assert made.facts["sensitivity"]["one"] > 10 * made.facts["sensitivity"]["two"]
    assert made.facts["output_error"] <= TOLERANCE
    assert output_error(run(model, {"x": batch}), run(made.model, {"x": batch})) <= TOLERANCE


def test_products_are_quantized_without_calibration() -> None:
    random = np.random.default_rng(0)
    model = product_model(random.normal(size=(64, 128)), random.normal(size=(128, 10)))
    batch = {"x": random.normal(size=(32, 64)).astype(np.float32)}
    made = quantize_dynamic(model)
    kinds = [node.op_type for node in onnx.load_model_from_string(made.model).graph.node]
    assert kinds.count("MatMulInteger") == 2
    assert len(made.model) < len(model) / 2
    assert output_error(run(model, batch), run(made.model, batch)) < 0.05


def test_a_model_without_layers_is_refused() -> None:
    graph = helper.make_graph(
        [helper.make_node("Softmax", ["x"], ["scores"])],
        "nothing",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()
    for convert in (lambda: quantize_static(model, [], "scores"), lambda: quantize_dynamic(model), lambda: to_half(model)):
        with pytest.raises(CompressionError):
            convert()


def test_half_precision_keeps_inputs_outputs_and_preprocessing(package: Package, workplace: Workplace) -> None:
    model = model_of(package)
    made = to_half(model)
    batch = calibration_feeds(package, workplace.dataset(), seed=0)[0]
    assert output_error(run(model, batch), run(made.model, batch)) < 0.01
    assert run(made.model, batch).dtype == np.float32
    assert len(made.model) < len(model) / 1.8


def test_operations_and_parameters_are_counted(package: Package) -> None:
    weight = graphs.weigh(model_of(package))
    convolutions = [(3, 32, 16), (32, 32, 16), (32, 64, 8), (64, 64, 8), (64, 128, 4), (128, 128, 4)]
    macs = sum(9 * before * after * side**2 for before, after, side in convolutions) + 128 * 3
    parameters = sum(9 * before * after + after for before, after, _ in convolutions) + 128 * 3 + 3
    assert weight == {"macs": macs, "num_parameters": parameters}


def test_samples_are_chosen_by_the_seed(package: Package, workplace: Workplace) -> None:
    def chosen(seed: int) -> list[bytes]:
        return [batch["image"].tobytes() for batch in feeds(package, workplace.dataset(), "train", 16, seed)]

    assert chosen(1) == chosen(1)
    assert chosen(1) != chosen(2)
    assert sum(len(batch["image"]) for batch in feeds(package, workplace.dataset(), "train", 16, 0)) == 16


def test_too_few_samples_to_calibrate_are_refused(package: Package, workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    data = workplace.dataset()
    monkeypatch.setattr(type(data), "num_rows", lambda self, split: 31)
    with pytest.raises(CompressionError, match="31 samples"):
        calibration_feeds(package, data, seed=0)


def test_the_notes_of_the_exporter_are_gone(package: Package, tmp_path: Path) -> None:
    prepared = graphs.prepare(model_of(package))
    assert not any(node.metadata_props or node.doc_string for node in prepared.graph.node)
    assert len({node.name for node in prepared.graph.node}) == len(prepared.graph.node)
