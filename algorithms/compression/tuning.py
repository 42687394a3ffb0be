"""The network that a further training starts from, and its teacher: what ``Variant`` says, in torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from algorithms.compression import fake_quant, pruning
from algorithms.compression.distilling import Teacher
from algorithms.compression.recipes import Variant
from algorithms.engines.torch_config import TorchConfig
from algorithms.engines.torch_engine import TorchData, TorchEngine
from algorithms.run import Run

if TYPE_CHECKING:
    from collections.abc import Callable

    Build = Callable[[TorchEngine, TorchConfig, TorchData], nn.Module]

WEIGHTS = "model.safetensors"


def read_description(folder: Path) -> dict[str, Any]:
    """``description.json`` of a trained network."""
    found: dict[str, Any] = json.loads((folder / "description.json").read_text())
    return found


def with_options(config: TorchConfig, options: dict[str, Any]) -> TorchConfig:
    """The config with other options, checked anew."""
    return type(config)(**{**config.model_dump(), **options}) if options else config


def load_network(build: Build, engine: TorchEngine, config: TorchConfig, data: TorchData, folder: Path) -> nn.Module:
    """The trained network in ``folder``: the preset's, or one that was pruned or is a smaller student; in evaluation mode, on the CPU."""
    model = build(engine, with_options(config, read_description(folder).get("student", {})), data)
    tensors = load_file(folder / WEIGHTS)
    pruning.fit_shapes(model, tensors)
    model.load_state_dict(tensors)
    return model.eval().requires_grad_(False)


def start_network(
    build: Build, engine: TorchEngine, config: TorchConfig, data: TorchData, run: Run, variant: Variant
) -> tuple[nn.Module, Teacher | None, dict[str, Any]]:
    """What a further training starts from.

    Returns:
        The network, its teacher if there is one, and the options of the student to keep with the weights.

    Raises:
        CompressionError: it cannot be pruned.
    """
    assert run.model_dir is not None, "a further training starts from a trained model"
    student = {**read_description(run.model_dir).get("student", {}), **variant.student}
    if variant.student:
        model = build(engine, with_options(config, student), data)
    else:
        model = load_network(build, engine, config, data, run.model_dir).requires_grad_(True)
    if variant.prune:
        example, _ = data.samples["train"].read(np.arange(min(2, len(data.samples["train"]))))
        prepared = engine.prepare_batch(config, data)(torch.from_numpy(example), False)
        pruning.prune(model, prepared, variant.prune, data.num_outputs)
    if variant.quantization_aware:
        fake_quant.attach(model)
    teacher = None
    if variant.distill:
        assert run.reference_dir is not None, "distillation needs a teacher"
        teacher = Teacher(load_network(build, engine, config, data, run.reference_dir), variant.distill)
    return model, teacher, student
