"""A package's ONNX graph: made ready to be quantized, the part that is the network, and what it weighs."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx

WEIGHTED = ("Conv", "Gemm", "MatMul")


def prepare(model: bytes) -> onnx.ModelProto:
    """The same graph simplified: constants folded, normalisation folded into convolutions, every node named, types of all values known.

    onnxruntime's basic optimisations stay within standard ONNX. What the exporter notes about its own insides goes: it can outweigh small weights.
    """
    import onnx
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory(prefix="atelier-") as folder:
        options.optimized_model_filepath = str(Path(folder) / "model.onnx")
        ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        simplified = onnx.load(options.optimized_model_filepath)
    _keep_used_domains(simplified)
    strip(simplified)
    taken: set[str] = set()
    for number, node in enumerate(simplified.graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}-{number}"
        taken.add(node.name)
    return onnx.shape_inference.infer_shapes(simplified, data_prop=True)


def _keep_used_domains(model: onnx.ModelProto) -> None:
    """onnxruntime writes down every operator set that it knows, and its own quantizer then finds the standard one twice."""
    used = {"" if node.domain == "ai.onnx" else node.domain for node in model.graph.node}
    kept: dict[str, int] = {}
    for entry in model.opset_import:
        name = "" if entry.domain == "ai.onnx" else entry.domain
        if name in used | {""}:
            kept.setdefault(name, entry.version)
    del model.opset_import[:]
    for name, version in kept.items():
        model.opset_import.add(domain=name, version=version)


def strip(model: onnx.ModelProto) -> None:
    """Remove what no runtime reads, in place: notes, descriptions, shapes of inner values."""
    graph = model.graph
    del model.metadata_props[:]
    del graph.metadata_props[:]
    del graph.value_info[:]
    for item in [*graph.node, *graph.initializer, *graph.input, *graph.output]:
        item.doc_string = ""
        del item.metadata_props[:]


def network_nodes(model: onnx.ModelProto) -> list[str]:
    """Names of the nodes from the first weighted layers on, without pre- and postprocessing: what may be quantized.

    A weighted layer is a convolution or a product with constant weights. Behind the last of them everything stays as it is.
    """
    layers = set(weighted_layers(model))
    constants = {tensor.name for tensor in model.graph.initializer}
    behind: set[str] = set()  # values that depend on a weighted layer
    for node in model.graph.node:
        if node.name in layers or any(name in behind for name in node.input):
            behind.update(node.output)
    before: set[str] = set()  # values that a weighted layer depends on
    for node in reversed(model.graph.node):
        if node.name in layers or any(name in before for name in node.output):
            before.update(name for name in node.input if name not in constants)
    return [
        node.name
        for node in model.graph.node
        if node.name in layers or (any(name in behind for name in node.input) and any(name in before for name in node.output))
    ]


def weighted_layers(model: onnx.ModelProto) -> list[str]:
    """Names of the convolutions and products with constant float weights, in the order of the graph."""
    from onnx import TensorProto

    constants = {tensor.name for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT}
    return [node.name for node in model.graph.node if node.op_type in WEIGHTED and len(node.input) > 1 and node.input[1] in constants]


def weigh(model: bytes) -> dict[str, int | None]:
    """Learned parameters and multiply-accumulate operations for one sample; None where the graph does not tell.

    Of networks both are those of convolutions and products with constant weights (and their biases); of trees the parameters are the nodes
    and there are no such operations.
    """
    import onnx

    graph = prepare(model).graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    shapes = {value.name: _shape(value) for value in [*graph.value_info, *graph.output]}
    parameters = 0
    macs: int | None = 0
    for node in graph.node:
        if node.op_type == "TreeEnsembleRegressor":
            attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
            parameters += len(attributes["nodes_nodeids"])
            macs = None
        if node.op_type not in WEIGHTED or len(node.input) < 2 or node.input[1] not in constants:
            continue
        weight = list(constants[node.input[1]].dims)
        parameters += math.prod(weight) + sum(math.prod(constants[name].dims) for name in node.input[2:] if name in constants)
        one = _operations(node, weight, shapes.get(node.output[0]))
        macs = None if one is None or macs is None else macs + one
    return {"num_parameters": parameters, "macs": macs}


def _shape(value: Any) -> list[int | None]:
    return [dim.dim_value if dim.HasField("dim_value") else None for dim in value.type.tensor_type.shape.dim]


def _operations(node: Any, weight: list[int], output: list[int | None] | None) -> int | None:
    """Of one layer and one sample: the first dimension of its output is the batch."""
    if node.op_type == "Conv":
        places = output[2:] if output else [None]
        if any(place is None for place in places):
            return None
        return math.prod(weight) * math.prod(place for place in places if place is not None)
    rows = output[1:-1] if output else []
    if any(row is None for row in rows):
        return None
    return math.prod(weight) * math.prod(row for row in rows if row is not None)
