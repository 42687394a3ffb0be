"""float16 of a package's network, for GPUs; inputs, outputs, pre- and postprocessing stay as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from algorithms.compression import graphs
from algorithms.compression.quantizing import Quantized, finished
from infra.errors import CompressionError

if TYPE_CHECKING:
    import onnx


def to_half(model: bytes) -> Quantized:
    """The network's weights and arithmetic in float16, with casts where values enter and leave it.

    Not the tool of onnxruntime: that casts between all nodes left in float, and preprocessing has sums beyond float16's range.

    Raises:
        CompressionError: there is no network, or its operators do not take float16.
    """
    prepared = graphs.prepare(model)
    network = set(graphs.network_nodes(prepared))
    if not network:
        raise CompressionError("convert", "the model has no convolution and no matrix product")
    _Halving(prepared, network).apply()
    return Quantized(finished(prepared), {"layers": len(graphs.weighted_layers(prepared))})


class _Halving:
    def __init__(self, model: onnx.ModelProto, network: set[str]) -> None:
        from onnx import TensorProto

        self.graph = model.graph
        self.nodes = [node for node in model.graph.node if node.name in network]
        self.others = [node for node in model.graph.node if node.name not in network]
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT}
        values = [*model.graph.value_info, *model.graph.input, *model.graph.output]
        self.floats = {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT}
        self.made: set[str] = set()

    def apply(self) -> None:
        """In place."""
        inside = {name for node in self.nodes for name in node.output if name in self.floats}
        outside = {name for node in self.others for name in node.input} | {output.name for output in self.graph.output}
        for node in self.nodes:
            self._set_cast_type(node)
            for place, name in enumerate(node.input):
                if name in self.constants or name in self.floats:
                    node.input[place] = self._half(name, inside)
            for place, name in enumerate(node.output):
                if name in inside:
                    node.output[place] = f"{name}/half"
        for name in sorted(inside & outside):
            self._cast(f"{name}/half", name, "FLOAT")
        used = {name for node in self.graph.node for name in node.input}
        for tensor in [tensor for tensor in self.graph.initializer if tensor.name not in used]:
            self.graph.initializer.remove(tensor)

    def _half(self, name: str, inside: set[str]) -> str:
        """The name of a value in float16, which is made once."""
        from onnx import numpy_helper

        half = f"{name}/half"
        if name in inside or half in self.made:
            return half
        self.made.add(half)
        if name in self.constants:
            # What float16 cannot hold becomes its largest number: such constants are bounds that nothing reaches.
            values = np.clip(numpy_helper.to_array(self.constants[name]), -65504, 65504).astype(np.float16)
            self.graph.initializer.append(numpy_helper.from_array(values, half))
        else:
            self._cast(name, half, "FLOAT16")
        return half

    def _cast(self, source: str, target: str, kind: str) -> None:
        from onnx import TensorProto, helper

        self.graph.node.append(helper.make_node("Cast", [source], [target], name=f"cast {target}", to=getattr(TensorProto, kind)))

    def _set_cast_type(self, node: onnx.NodeProto) -> None:
        from onnx import TensorProto

        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.FLOAT16
