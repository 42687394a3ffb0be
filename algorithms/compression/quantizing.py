"""int8 of a package's network, by onnxruntime's tools; pre- and postprocessing stay in float."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from algorithms.compression import graphs
from algorithms.compression.calibration import Feeds
from infra.errors import CompressionError

if TYPE_CHECKING:
    import onnx

TOLERANCE = 0.02
_MOST_LEFT_OUT = 0.5
_COMPARED = 4  # batches


@dataclass(frozen=True)
class Quantized:
    """A quantized model and what was found on the way, JSON values."""

    model: bytes
    facts: dict[str, Any] = field(default_factory=dict)


def has_vnni() -> bool:
    """Whether this processor multiplies 8-bit numbers without saturating in between (VNNI, AMX); others need weights of 7 bits."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return True
    return "flags" not in flags or any(name in flags for name in ("avx512_vnni", "avx_vnni", "amx_int8"))


def quantize_static(model: bytes, feeds: Sequence[Feeds], output: str) -> Quantized:
    """int8 weights per output channel, uint8 activations over ranges seen in calibration (QDQ).

    Layers that the output cannot spare are left in float: if the whole network in int8 changes the output by more than ``TOLERANCE``, each
    layer is quantized alone, and those that change it most are left out, 1, 2, 4, ..., until it fits or half of them are out.

    Args:
        feeds: calibration batches, as the model takes them.
        output: name of the output to compare: scores [N, C], or values [N].

    Raises:
        CompressionError: there is nothing to quantize, or onnxruntime's quantizer gives up.
    """
    prepared = graphs.prepare(model)
    layers = graphs.weighted_layers(prepared)
    if not layers:
        raise CompressionError("quantize", "the model has no convolution and no matrix product")
    quantizer = _Static(prepared, feeds)
    compared = feeds[:_COMPARED]
    wanted = _outputs(model, compared, output)

    def error(excluded: Sequence[str]) -> tuple[bytes, float]:
        made = quantizer.make(excluded)
        return made, output_error(wanted, _outputs(made, compared, output))

    made, found = error(())
    first = found
    left_out: tuple[str, ...] = ()
    sensitivity: dict[str, float] = {}
    if found > TOLERANCE and len(layers) > 1:
        sensitivity = {layer: error([other for other in layers if other != layer])[1] for layer in layers}
        ranked = sorted(layers, key=lambda layer: -sensitivity[layer])
        count = 1
        while found > TOLERANCE and count <= max(1, int(len(layers) * _MOST_LEFT_OUT)):
            left_out = tuple(ranked[:count])
            made, found = error(left_out)
            count *= 2
    facts = {
        "layers": len(layers),
        "left_in_float": list(left_out),
        "output_error": found,
        "output_error_all_int8": first,
        "sensitivity": sensitivity,
        "calibration_samples": int(sum(len(next(iter(batch.values()))) for batch in feeds)),
        "weight_bits": 8 if has_vnni() else 7,
    }
    return Quantized(made, facts)


def output_error(wanted: NDArray[Any], found: NDArray[Any]) -> float:
    """How far outputs moved: of scores [N, C] the mean total variation (0 to 1); of values [N] the root mean square, over their spread."""
    difference = np.asarray(found, np.float64) - np.asarray(wanted, np.float64)
    if difference.ndim == 2:
        return float(np.abs(difference).sum(axis=1).mean() / 2)
    return float(np.sqrt((difference**2).mean()) / max(float(np.std(wanted)), 1e-12))


class _Static:
    """Calibrates once, then quantizes with any layers left out."""

    def __init__(self, prepared: onnx.ModelProto, feeds: Iterable[Feeds]) -> None:
        from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

        self.prepared = prepared
        self.nodes = graphs.network_nodes(prepared)
        self.types = sorted({*QLinearOpsRegistry, *QDQRegistry} - {"Softmax", "LayerNormalization"})
        self.ranges = self._calibrate(feeds)

    def _calibrate(self, feeds: Iterable[Feeds]) -> Any:
        import onnx
        from onnxruntime.quantization.calibrate import CalibrationMethod, create_calibrator

        with tempfile.TemporaryDirectory(prefix="atelier-") as folder:
            path = Path(folder) / "model.onnx"
            onnx.save(self.prepared, path)
            calibrator = create_calibrator(
                path, self.types, str(Path(folder) / "augmented.onnx"), CalibrationMethod.MinMax, providers=["CPUExecutionProvider"]
            )
            calibrator.collect_data(_Batches(feeds))
            return calibrator.compute_data()

    def make(self, excluded: Sequence[str]) -> bytes:
        """The model with all of the network in int8 but ``excluded``."""
        from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
        from onnxruntime.quantization.quant_utils import QuantType

        try:
            quantizer = QDQQuantizer(
                copy.deepcopy(self.prepared),
                per_channel=True,
                reduce_range=not has_vnni(),
                weight_qType=QuantType.QInt8,
                activation_qType=QuantType.QUInt8,
                tensors_range=self.ranges,
                nodes_to_quantize=self.nodes,
                nodes_to_exclude=list(excluded),
                op_types_to_quantize=self.types,
                extra_options={},
            )
            quantizer.quantize_model()
        except (ValueError, KeyError, RuntimeError, TypeError, AttributeError, NotImplementedError) as error:
            raise CompressionError("quantize", f"onnxruntime's quantizer gave up: {type(error).__name__}: {error}") from error
        return finished(quantizer.model.model)


class _Batches:
    """Feeds as onnxruntime's calibrator reads them."""

    def __init__(self, feeds: Iterable[Feeds]) -> None:
        self._rest = iter(feeds)

    def get_next(self) -> Feeds | None:
        return next(self._rest, None)


def quantize_dynamic(model: bytes) -> Quantized:
    """int8 weights; the range of activations is found at each call. For networks of matrix products.

    Raises:
        CompressionError: there is none with constant weights.
    """
    import onnx
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization import quantize_dynamic as quantize

    prepared = graphs.prepare(model)
    names = [node.name for node in prepared.graph.node if node.op_type in ("MatMul", "Gemm")]
    layers = [name for name in graphs.weighted_layers(prepared) if name in names]
    if not layers:
        raise CompressionError("quantize", "the model has no matrix product with constant weights")
    with tempfile.TemporaryDirectory(prefix="atelier-") as folder:
        path = Path(folder) / "int8.onnx"
        # The tool replaces Gemm by MatMul under the same name or a longer one, so all products are named by their kind.
        quantize(
            prepared, path, op_types_to_quantize=["MatMul"], per_channel=True, reduce_range=not has_vnni(), weight_type=QuantType.QInt8
        )
        return Quantized(finished(onnx.load(path)), {"layers": len(layers), "weight_bits": 8 if has_vnni() else 7})


def finished(model: onnx.ModelProto) -> bytes:
    """The bytes of a made model, sorted, without notes, and known to open."""
    import onnx
    from onnxruntime.quantization.onnx_model import ONNXModel

    ONNXModel(model).topological_sort()
    graphs.strip(model)
    onnx.checker.check_model(model)
    finished: bytes = model.SerializeToString()
    try:
        ort.InferenceSession(finished, _quiet(), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no base of their own
        raise CompressionError("quantize", f"onnxruntime does not take the result: {error}") from error
    return finished


def _outputs(model: bytes, feeds: Sequence[Feeds], output: str) -> NDArray[Any]:
    session = ort.InferenceSession(model, _quiet(), providers=["CPUExecutionProvider"])
    return np.concatenate([session.run([output], batch)[0] for batch in feeds])


def _quiet() -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return options
