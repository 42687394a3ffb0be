"""The package of a picture network: one ONNX graph from pixels of any size to scores."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from algorithms.engines.torch_engine import TorchData, TrainedModel
from algorithms.images.config import ImageClassificationConfig
from algorithms.run import Run

if TYPE_CHECKING:
    import onnx
    from torch import nn

    from infra.datasets.dataset import Dataset

OPSET = 18  # the first whose Resize can antialias
_IR_VERSION = 10
_PARITY_SAMPLES = 16
_PARITY_TOLERANCE = 1e-3
_BATCH = 64


def write_picture_package(config: ImageClassificationConfig, dataset: Dataset, trained: TrainedModel, run: Run) -> None:
    """Export, compare with the trained network at two batch sizes on test pictures, and judge the package on the test split.

    Raises:
        ParityError: onnxruntime gives something else than the trained network.
    """
    from algorithms import package

    data = trained.data
    run.report({"kind": "progress", "phase": "export"})
    model = export_graph(trained.module, config, data)
    package.write_package(
        run.output_dir,
        onnx_model_bytes=model.SerializeToString(),
        task=run.spec.algorithm.split("/")[0],
        algorithm=run.spec.algorithm,
        inputs_schema={
            "type": "object",
            "properties": {
                "image": {"type": "string", "contentMediaType": "image/*", "description": "A picture: any size, any usual format."}
            },
            "required": ["image"],
        },
        output_schema={
            "type": "object",
            "properties": {
                "label": {"type": "string", "enum": data.classes},
                "scores": {"type": "object", "properties": {name: {"type": "number", "minimum": 0, "maximum": 1} for name in data.classes}},
            },
            "required": ["label", "scores"],
        },
        labels=data.classes,
        preprocessing=_describe(config),
        lineage=run.spec.lineage,
        config=config.model_dump(mode="json"),
        metrics={},
    )
    pixels, reference = _parity_samples(config, trained)
    sizes = (1, min(8, len(pixels)))
    run.report({"kind": "progress", "phase": "parity"})
    difference = package.check_parity(run.output_dir, pixels, reference, batch_sizes=sizes, tolerance=_PARITY_TOLERANCE)
    parity = {"largest_difference": difference, "tolerance": _PARITY_TOLERANCE}
    package.record_metrics(run.output_dir, _judge_package(trained, run), parity)


def _describe(config: ImageClassificationConfig) -> dict[str, Any]:
    from algorithms.images.preprocess import MEAN, STD

    colour = "grey" if config.channels == 1 else "RGB"
    return {
        "summary": f"{colour}, resized to {config.image_size}x{config.image_size} (antialiased bilinear), normalised; all inside the graph",
        "image_size": config.image_size,
        "channels": config.channels,
        "mean": list(MEAN[config.channels]),
        "std": list(STD[config.channels]),
    }


def _parity_samples(config: ImageClassificationConfig, trained: TrainedModel) -> tuple[list[np.ndarray], np.ndarray]:
    """Test pictures as they came and as they were resized for training, and the trained network's scores for them."""
    import itertools

    import torch

    from algorithms._package_images import decode_picture
    from algorithms.images.preprocess import resize

    samples: Any = trained.data.samples["test"]
    raw = [decode_picture(encoded) for _, encoded, _ in itertools.islice(samples.encoded(), _PARITY_SAMPLES)]
    resized = np.concatenate([resize(torch.from_numpy(pixels.copy())[None], config.image_size, config.channels).numpy() for pixels in raw])
    scores = trained.predict(resized)
    if config.channels == 1:
        return raw, scores
    # Pictures of one size share a batch, so that the larger batch size is a batch indeed.
    return [*raw, *resized], np.concatenate([scores, scores])


def _judge_package(trained: TrainedModel, run: Run) -> dict[str, Any]:
    """Metrics of the package on the test split, by onnxruntime alone, from the encoded pictures."""
    from algorithms.engines.torch_verbs import judge_outputs
    from algorithms.package import Package, decode_picture

    loaded = Package.load(run.output_dir, threads=run.spec.threads)
    samples: Any = trained.data.samples["test"]
    scores: list[np.ndarray] = []
    labels: list[int] = []
    batch: list[np.ndarray] = []
    for number, (_, encoded, label) in enumerate(samples.encoded(), start=1):
        batch.append(decode_picture(encoded))
        labels.append(label)
        if len(batch) == _BATCH or number == len(samples):
            scores.append(loaded.predict_arrays(batch, batch_size=_BATCH))
            batch = []
            run.report({"kind": "progress", "phase": "judge package", "step": number, "steps": len(samples)})
    return judge_outputs(trained.data, np.asarray(labels), np.concatenate(scores))


def export_graph(network: nn.Module, config: ImageClassificationConfig, data: TorchData) -> onnx.ModelProto:
    """One graph: ``image`` uint8 [N, H, W, 3] (all free) -> ``scores`` float32 [N, C]."""
    import onnx
    import onnx.compose

    core = onnx.compose.add_prefix(_network_graph(network, config), "network/")
    before = preprocessing_graph(config)
    before.ir_version = core.ir_version = _IR_VERSION
    merged = onnx.compose.merge_models(before, core, io_map=[("pixels", core.graph.input[0].name)])
    merged = onnx.compose.merge_models(merged, _softmax_graph(len(data.classes)), io_map=[(core.graph.output[0].name, "logits")])
    merged.graph.name = "atelier"
    onnx.checker.check_model(merged, full_check=True)
    return merged


def _network_graph(network: nn.Module, config: ImageClassificationConfig) -> onnx.ModelProto:
    """The network alone, float32 [N, C, S, S] -> logits, with a free batch size."""
    import torch

    example = torch.randn(2, config.channels, config.image_size, config.image_size)
    network = network.eval().to(memory_format=torch.contiguous_format)
    with _quiet():
        program = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            verbose=False,
            input_names=["pixels"],
            output_names=["logits"],
        )
    assert program is not None
    return program.model_proto


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """torch's exporter prints and warns about its own insides, which tells a user nothing."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def preprocessing_graph(config: ImageClassificationConfig) -> onnx.ModelProto:
    """``algorithms.images.preprocess`` as ONNX: ``image`` uint8 [N, H, W, 3] -> ``pixels`` float32 [N, C, S, S]."""
    from onnx import TensorProto, helper, numpy_helper

    from algorithms.images.preprocess import GREY_WEIGHTS, MEAN, ROUNDING, STD

    size, channels = config.image_size, config.channels
    constants: dict[str, np.ndarray] = {
        "size": np.array([size, size], np.int64),
        "rounding": np.array(ROUNDING, np.float32),
        "black": np.array(0, np.float32),
        "white": np.array(255, np.float32),
        "mean": (np.array(MEAN[channels], np.float32) * 255).reshape(1, channels, 1, 1),
        "scale": (1 / (np.array(STD[channels], np.float32) * 255)).reshape(1, channels, 1, 1),
    }
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
    ]
    planes = "planes"
    if channels == 1:
        constants |= {
            "grey_weights": np.array(GREY_WEIGHTS, np.float32).reshape(1, 3, 1, 1),
            "grey_half": np.array(32768, np.float32),
            "grey_unit": np.array(1 / 65536, np.float32),
            "grey_axis": np.array([1], np.int64),
        }
        nodes += [
            helper.make_node("Mul", [planes, "grey_weights"], ["weighted"]),
            helper.make_node("ReduceSum", ["weighted", "grey_axis"], ["summed"], keepdims=1),
            helper.make_node("Add", ["summed", "grey_half"], ["shifted"]),
            helper.make_node("Mul", ["shifted", "grey_unit"], ["scaled"]),
            helper.make_node("Floor", ["scaled"], ["grey"]),
        ]
        planes = "grey"
    nodes += [
        helper.make_node("Shape", [planes], ["batch_and_channels"], start=0, end=2),
        helper.make_node("Concat", ["batch_and_channels", "size"], ["sizes"], axis=0),
        # exclude_outside makes the border what torch makes of it: weights of pixels that do not exist are left out.
        helper.make_node(
            "Resize",
            [planes, "", "", "sizes"],
            ["resized"],
            mode="linear",
            antialias=1,
            exclude_outside=1,
            coordinate_transformation_mode="half_pixel",
        ),
        helper.make_node("Add", ["resized", "rounding"], ["lifted"]),
        helper.make_node("Floor", ["lifted"], ["floored"]),
        helper.make_node("Clip", ["floored", "black", "white"], ["whole"]),
        helper.make_node("Sub", ["whole", "mean"], ["centred"]),
        helper.make_node("Mul", ["centred", "scale"], ["pixels"]),
    ]
    graph = helper.make_graph(
        nodes,
        "preprocessing",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", "height", "width", 3])],
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch", channels, size, size])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=_IR_VERSION)


def _softmax_graph(num_classes: int) -> onnx.ModelProto:
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("Softmax", ["logits"], ["scores"], axis=1)],
        "postprocessing",
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", num_classes])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", num_classes])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=_IR_VERSION)
