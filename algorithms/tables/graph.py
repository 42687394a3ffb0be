"""The column plan as ONNX operators, in front of a model's own: a package takes raw columns, one input each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from algorithms.tables.columns import CategoryColumn, ColumnPlan

OPSET = 18
ML_OPSET = 3
IR_VERSION = 9


class GraphBuilder:
    """Nodes and constants of one graph, with made-up names that no column can have."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def name(self) -> str:
        return f"atelier::{len(self.nodes) + len(self.constants)}"

    def add(self, operator: str, *inputs: str, domain: str = "", output: str = "", **attributes: Any) -> str:
        """Append a node with one output, and return the output's name."""
        from onnx import helper

        output = output or self.name()
        self.nodes.append(helper.make_node(operator, list(inputs), [output], domain=domain, **attributes))
        return output

    def constant(self, value: ArrayLike, dtype: DTypeLike = np.float32) -> str:
        """A constant, and its name."""
        from onnx import numpy_helper

        name = self.name()
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype=dtype), name))
        return name


Head = Callable[[GraphBuilder, str], str]
"""Adds a model: from the name of the matrix [N, F] to that of scores [N, C], or of standardised values [N, 1]."""


def build_model(plan: ColumnPlan, head: Head, *, num_classes: int, mean: float = 0.0, std: float = 1.0) -> bytes:
    """The whole package's ONNX: columns, model, and ``scores`` float32 [N, C], or ``value`` float32 [N] in the target's unit.

    Args:
        num_classes: 0 for regression.
        mean, std: what the target was standardised with.
    """
    import onnx
    from onnx import TensorProto, helper

    builder = GraphBuilder()
    result = head(builder, add_columns(builder, plan))
    if num_classes:
        builder.add("Identity", result, output="scores")
        outputs = [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", num_classes])]
    else:
        # In float64: a small spread on a large mean would drown in float32's rounding before the sum.
        wide = builder.add("Cast", builder.add("Reshape", result, builder.constant([-1], np.int64)), to=TensorProto.DOUBLE)
        scaled = builder.add("Add", builder.add("Mul", wide, builder.constant(std, np.float64)), builder.constant(mean, np.float64))
        builder.add("Cast", scaled, to=TensorProto.FLOAT, output="value")
        outputs = [helper.make_tensor_value_info("value", TensorProto.FLOAT, ["N"])]
    inputs = [helper.make_tensor_value_info(column.name, TensorProto.FLOAT, ["N", 1]) for column in plan.numeric]
    inputs += [helper.make_tensor_value_info(column.name, TensorProto.STRING, ["N", 1]) for column in plan.categories]
    graph = helper.make_graph(builder.nodes, "atelier", inputs, outputs, builder.constants)
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", ML_OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="atelier")
    onnx.checker.check_model(model)
    serialized: bytes = model.SerializeToString(deterministic=True)
    return serialized


def add_columns(builder: GraphBuilder, plan: ColumnPlan) -> str:
    """The operators of ``ColumnPlan.transform``; returns the name of the matrix [N, F]."""
    blocks = [*_numeric_blocks(builder, plan), *(_category_block(builder, column) for column in plan.categories)]
    matrix = blocks[0] if len(blocks) == 1 else builder.add("Concat", *blocks, axis=1)
    if plan.offset:
        matrix = builder.add("Mul", builder.add("Sub", matrix, builder.constant([plan.offset])), builder.constant([plan.scale]))
    return builder.add("Clip", matrix, builder.constant(-plan.clip), builder.constant(plan.clip)) if plan.clip else matrix


def _numeric_blocks(builder: GraphBuilder, plan: ColumnPlan) -> list[str]:
    if not plan.numeric:
        return []
    names = [column.name for column in plan.numeric]
    raw = names[0] if len(names) == 1 else builder.add("Concat", *names, axis=1)
    finite = builder.add("Where", builder.add("IsInf", raw), builder.constant(np.nan), raw)
    missing = builder.add("IsNaN", finite)
    fills = [np.nan if plan.keep_nan and column.has_missing else column.fill for column in plan.numeric]
    blocks = [builder.add("Where", missing, builder.constant([fills]), finite)]
    if plan.indicators:
        places = builder.constant([names.index(column.name) for column in plan.indicators], np.int64)
        blocks.append(_to_float(builder, builder.add("Gather", missing, places, axis=1)))
    if plan.dates:
        filled = builder.add("Where", missing, builder.constant([[column.fill for column in plan.numeric]]), finite)
        for column in plan.dates:
            blocks.append(
                _date_block(builder, builder.add("Gather", filled, builder.constant([names.index(column.name)], np.int64), axis=1))
            )
    return blocks


def _category_block(builder: GraphBuilder, column: CategoryColumn) -> str:
    codes = builder.add(
        "LabelEncoder",
        column.name,
        domain="ai.onnx.ml",
        keys_strings=column.values,
        values_int64s=list(range(len(column.values))),
        default_int64=len(column.values),
    )
    if column.means is None:
        places = builder.constant([list(range(len(column.values) + 1))], np.int64)
        return _to_float(builder, builder.add("Equal", codes, places))
    flat = builder.add("Reshape", codes, builder.constant([-1], np.int64))
    return builder.add("Gather", builder.constant([*column.means, column.default]), flat, axis=0)


def _date_block(builder: GraphBuilder, days: str) -> str:
    """``columns.date_parts`` on days [N, 1]; whole-number division truncates, which is the same for dates after the year 0."""
    from onnx import TensorProto

    def whole(value: int) -> str:
        return builder.constant(value, np.int64)

    def divide(value: str, by: int) -> str:
        return builder.add("Div", value, whole(by))

    def times(value: str, factor: int) -> str:
        return builder.add("Mul", value, whole(factor))

    def total(first: str, *others: str) -> str:
        for other in others:
            first = builder.add("Add", first, other)
        return first

    floor = builder.add("Floor", days)
    hour = builder.add("Floor", builder.add("Mul", builder.add("Sub", days, floor), builder.constant(24.0)))
    shifted = total(builder.add("Cast", floor, to=TensorProto.INT64), whole(719_468))
    era = divide(shifted, 146_097)
    of_era = builder.add("Sub", shifted, times(era, 146_097))
    leaps = total(of_era, times(divide(of_era, 1460), -1), divide(of_era, 36_524), times(divide(of_era, 146_096), -1))
    year_of_era = divide(leaps, 365)
    before = total(times(year_of_era, 365), divide(year_of_era, 4), times(divide(year_of_era, 100), -1))
    of_year = builder.add("Sub", of_era, before)
    shifted_month = divide(total(times(of_year, 5), whole(2)), 153)
    is_spring = builder.add("Less", shifted_month, whole(10))
    month = builder.add("Where", is_spring, total(shifted_month, whole(3)), total(shifted_month, whole(-9)))
    is_next = builder.add("Cast", builder.add("LessOrEqual", month, whole(2)), to=TensorProto.INT64)
    year = total(year_of_era, times(era, 400), is_next)
    weekday = builder.add("Mod", total(shifted, whole(2)), whole(7))
    return builder.add("Concat", *(_to_float(builder, part) for part in (year, month, weekday)), hour, axis=1)


def _to_float(builder: GraphBuilder, name: str) -> str:
    from onnx import TensorProto

    return builder.add("Cast", name, to=TensorProto.FLOAT)


def input_schema(plan: ColumnPlan) -> dict[str, Any]:
    """JSON schema of one row; every column must be there, and any value may be missing."""
    types = {"integer": "integer", "float": "number", "boolean": "boolean", "datetime": "string"}
    properties: dict[str, Any] = {}
    for column in plan.numeric:
        properties[column.name] = {"type": [types[column.type], "null"]}
        if column.type == "datetime":
            properties[column.name] |= {
                "format": "date-time",
                "description": "ISO 8601, UTC if no zone is told; the model takes days since 1970.",
            }
    for category in plan.categories:
        known = [value for value in category.values if value]
        properties[category.name] = {"type": ["string", "null"], "examples": known[:10], "description": f"{len(known)} known values."}
    return {"type": "object", "properties": properties, "required": plan.raw_columns}


def softmax(builder: GraphBuilder, margins: str) -> str:
    """Probabilities [N, C] of margins [N, C]."""
    return builder.add("Softmax", margins, axis=1)


def binary_scores(builder: GraphBuilder, margin: str) -> str:
    """Probabilities [N, 2] of the second class's margin [N, 1]."""
    second = builder.add("Sigmoid", margin)
    return builder.add("Concat", builder.add("Sub", builder.constant([[1.0]]), second), second, axis=1)


def linear(builder: GraphBuilder, matrix: str, weights: ArrayLike, bias: Sequence[float] | Any) -> str:
    """``matrix @ weights + bias``; weights [F, T], bias [T]."""
    return builder.add("Gemm", matrix, builder.constant(weights), builder.constant(bias))
