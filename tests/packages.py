"""Tiny packages for tests: what they answer can be reckoned by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from algorithms.package import write_package

COLOURS = ["blue", "green", "red"]
PICTURE_SCHEMA = {"type": "object", "properties": {"image": {"type": "string", "contentMediaType": "image/*"}}, "required": ["image"]}
ROW_SCHEMA = {
    "type": "object",
    "properties": {
        "size": {"type": ["number", "null"]},
        "count": {"type": "integer"},
        "new": {"type": ["boolean", "null"]},
        "made": {"type": ["string", "null"], "format": "date-time"},
        "kind": {"type": ["string", "null"]},
    },
    "required": ["size", "count", "kind"],
}


def _model(nodes: Sequence[Any], inputs: Sequence[Any], outputs: Sequence[Any], constants: Mapping[str, Any]) -> bytes:
    from onnx import helper, numpy_helper

    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, initializers)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
    model: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    return model


def colour_model(labels: Sequence[str] = COLOURS) -> bytes:
    """Scores: softmax of a tenth of the mean red, green and blue of a picture, in the order of ``labels``."""
    from onnx import TensorProto, helper

    order = [["red", "green", "blue"].index(label) for label in labels]
    nodes = [
        helper.make_node("Cast", ["image"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats", "axes"], ["mean"], keepdims=0),
        helper.make_node("Gather", ["mean", "order"], ["ordered"], axis=1),
        helper.make_node("Mul", ["ordered", "tenth"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["scores"], axis=1),
    ]
    inputs = [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", "H", "W", 3])]
    outputs = [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", len(labels)])]
    return _model(
        nodes, inputs, outputs, {"axes": np.array([1, 2], np.int64), "order": np.array(order, np.int64), "tenth": np.float32(0.1)}
    )


def sum_model() -> bytes:
    """Value: size (missing: 100) + count + new + made (days since 1970) + 1000 if kind is 'big', 500 if it is missing."""
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("IsNaN", ["size"], ["no_size"]),
        helper.make_node("Where", ["no_size", "hundred", "size"], ["known_size"]),
        helper.make_node("Cast", ["count"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node(
            "LabelEncoder",
            ["kind"],
            ["code"],
            domain="ai.onnx.ml",
            keys_strings=["big", ""],
            values_floats=[1000.0, 500.0],
            default_float=0.0,
        ),
        helper.make_node("IsNaN", ["made"], ["no_date"]),
        helper.make_node("Where", ["no_date", "zero", "made"], ["known_date"]),
        helper.make_node("IsNaN", ["new"], ["no_new"]),
        helper.make_node("Where", ["no_new", "zero", "new"], ["known_new"]),
        helper.make_node("Sum", ["known_size", "floats", "code", "known_date", "known_new"], ["total"]),
        helper.make_node("Squeeze", ["total", "one"], ["value"]),
    ]
    types = {
        "size": TensorProto.FLOAT,
        "count": TensorProto.INT64,
        "new": TensorProto.FLOAT,
        "made": TensorProto.FLOAT,
        "kind": TensorProto.STRING,
    }
    inputs = [helper.make_tensor_value_info(name, kind, ["N", 1]) for name, kind in types.items()]
    outputs = [helper.make_tensor_value_info("value", TensorProto.FLOAT, ["N"])]
    return _model(nodes, inputs, outputs, {"hundred": np.float32(100), "zero": np.float32(0), "one": np.array([1], np.int64)})


def threshold_model(threshold: float) -> bytes:
    """Scores of two classes from one number x: the second is probable where x is above the threshold."""
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("Sub", ["x", "threshold"], ["above"]),
        helper.make_node("Mul", ["above", "weights"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["scores"], axis=1),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1])]
    outputs = [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 2])]
    return _model(nodes, inputs, outputs, {"threshold": np.float32(threshold), "weights": np.array([[-1, 1]], np.float32)})


def write_colours(folder: Path, labels: Sequence[str] = COLOURS, **more: Any) -> Path:
    """The package of ``colour_model``; ``more`` replaces arguments of ``write_package``."""
    arguments: dict[str, Any] = {
        "onnx_model_bytes": more.pop("onnx_model_bytes", None) or colour_model(labels),
        "task": "image-classification",
        "algorithm": "image-classification/small-cnn",
        "inputs_schema": PICTURE_SCHEMA,
        "output_schema": {"type": "object"},
        "labels": labels,
        "preprocessing": {"summary": "the mean colour"},
        "lineage": {"dataset": "d" * 64},
        "config": {"seed": 0},
        "metrics": {"accuracy": 0.9, "confusion_matrix": [[1]]},
    }
    write_package(folder, **{**arguments, **more})
    return folder


def write_sums(folder: Path, **more: Any) -> Path:
    """The package of ``sum_model``."""
    arguments: dict[str, Any] = {
        "onnx_model_bytes": sum_model(),
        "task": "tabular-regression",
        "algorithm": "tabular-regression/linear",
        "inputs_schema": ROW_SCHEMA,
        "output_schema": {"type": "object"},
        "preprocessing": {"summary": "a sum"},
        "lineage": {},
        "config": {"target": "y"},
        "metrics": {"rmse": 1.5},
    }
    write_package(folder, **{**arguments, **more})
    return folder
