"""Train, evaluate and export of ``TorchEngine``: the parts around the loop, the same for every family."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file
from torch import nn

from algorithms import metrics
from algorithms.compression import fake_quant
from algorithms.compression.distilling import Teacher
from algorithms.compression.recipes import Variant
from algorithms.compression.tuning import WEIGHTS, load_network, read_description, start_network, with_options
from algorithms.engines import hardware
from algorithms.engines.augmenting import Phase
from algorithms.engines.batches import Reader, share
from algorithms.engines.calibrating import calibrate
from algorithms.engines.loop import Training
from algorithms.engines.pretrained import load_pretrained
from algorithms.engines.scoring import predict
from algorithms.engines.strided_convs import thin_out_first
from algorithms.engines.torch_config import TorchConfig
from algorithms.engines.torch_engine import TorchData, TorchEngine, TrainedModel
from algorithms.run import Run
from algorithms.user_code import call_with_accepted, guarded, load_dotted
from infra.datasets.dataset import Dataset
from infra.errors import UserCodeError

_BATCH = 64


def build_model(engine: TorchEngine, config: TorchConfig, data: TorchData) -> nn.Module:
    """The preset's network or the user's own, with random weights by the seed.

    Raises:
        UserCodeError: the user's does not load, is no ``torch.nn.Module``, or gives outputs of another shape than the data asks for.
    """
    torch.manual_seed(config.seed)
    if not config.model:
        return engine.build_model(config, data)
    model = call_with_accepted(config.model, load_dotted(config.model), engine.model_arguments(config, data))
    if not isinstance(model, nn.Module):
        raise UserCodeError(config.model, f"it gave a {type(model).__name__}, not a torch.nn.Module")
    split = next(samples for samples in data.samples.values() if len(samples))
    inputs = torch.from_numpy(split.read(np.arange(min(2, len(split))))[0])
    model.eval()
    with torch.no_grad():
        outputs = guarded(config.model, model, engine.prepare_batch(config, data)(inputs, False))
    wanted = [(len(inputs), data.num_outputs)] + ([(len(inputs),)] if data.target == "number" else [])
    if not isinstance(outputs, torch.Tensor) or tuple(outputs.shape) not in wanted:
        shape = tuple(outputs.shape) if isinstance(outputs, torch.Tensor) else type(outputs).__name__
        raise UserCodeError(config.model, f"for {len(inputs)} samples it gave {shape}; it has to give a tensor {wanted[0]}")
    return model


def train(engine: TorchEngine, config: TorchConfig, dataset: Dataset, run: Run) -> None:
    """Train on every rank, from random weights or on from a trained network (``run.spec.variant``); rank 0 leaves the weights, ``history.json``
    and what is needed to build the network again."""
    device = hardware.choose_device(run.collectives.local_rank)
    hardware.set_up_process(run.spec.threads, device)
    variant = Variant.model_validate(run.spec.variant) if run.spec.variant else None
    config = with_options(config, variant.options) if variant else config
    precision = hardware.choose_precision(config.precision, device)
    data = engine.open_data(config, dataset, run, splits=("train", "valid"), fitted=None)
    teacher: Teacher | None = None
    student: dict[str, Any] = {}
    if variant is None:
        model = build_model(engine, config, data)
        if config.pretrained:
            load_pretrained(model, config.pretrained, run)
    else:
        model, teacher, student = start_network(build_model, engine, config, data, run, variant)
    if teacher is not None:
        teacher = Teacher(_place(teacher.module, config, device), teacher.weight)
    model = _place(model, config, device)
    prepare = engine.prepare_batch(config, data)
    phases = _phases(engine, config, data, from_scratch=variant is None)
    trained = Training(config, data, model, prepare, run, device, precision, teacher, phases).fit()
    if trained.weights is None:
        return
    save_file(fake_quant.strip(trained.weights), run.output_dir / WEIGHTS)
    description = {
        "target": data.target,
        "classes": data.classes,
        "input_shape": list(data.input_shape),
        "fitted": data.fitted,
        "target_mean": data.target_mean,
        "target_std": data.target_std,
        **({"student": student} if student else {}),
    }
    (run.output_dir / "description.json").write_text(json.dumps(description, indent=1))
    (run.output_dir / "history.json").write_text(json.dumps(trained.history, indent=1))


def _phases(engine: TorchEngine, config: TorchConfig, data: TorchData, *, from_scratch: bool) -> Callable[[int], Phase]:
    """What training batches are in each epoch (from 0); made once for each size. A network that has learned already goes on at the final size."""
    made: dict[str, Phase] = {}

    def phase(epoch: int) -> Phase:
        now = engine.at_epoch(config, epoch) if from_scratch else config
        key = now.model_dump_json()
        if key not in made:
            made[key] = Phase(engine.make_augment(now, data), engine.fit_inputs(now, data))
        return made[key]

    return phase


def _place(model: nn.Module, config: TorchConfig, device: torch.device) -> nn.Module:
    if getattr(config, "channels_last", False):
        if device.type == "cpu":
            thin_out_first(model)
        return model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model.to(device)


def load_trained(engine: TorchEngine, config: TorchConfig, dataset: Dataset, run: Run, *, splits: Sequence[str]) -> TrainedModel:
    """The trained network of ``run.model_dir`` on the CPU, and the splits asked for."""
    assert run.model_dir is not None, "a trained model is judged or exported"
    description = read_description(run.model_dir)
    data = engine.open_data(config, dataset, run, splits=splits, fitted=description["fitted"])
    model = load_network(build_model, engine, config, data, run.model_dir)
    history = json.loads((run.model_dir / "history.json").read_text())
    prepare = engine.prepare_batch(config, data)
    return TrainedModel(model, data, lambda inputs: predict(model, prepare, torch.from_numpy(np.ascontiguousarray(inputs)), data), history)


def evaluate(engine: TorchEngine, config: TorchConfig, dataset: Dataset, run: Run) -> None:
    """Judge the trained network in fp32 on the test split, shared out among the ranks."""
    device = hardware.choose_device(run.collectives.local_rank)
    hardware.set_up_process(run.spec.threads, device)
    trained = load_trained(engine, config, dataset, run, splits=("test",))
    model = _place(trained.module, config, device)
    prepare = engine.prepare_batch(config, trained.data)
    samples = trained.data.samples["test"]
    first, last = share(0, len(samples), run.collectives.rank, run.collectives.size)
    outputs, truth = [], []
    with Reader(samples, device) as reader:
        for done, (inputs, targets) in enumerate(reader.batches(_chunks(first, last)), start=1):
            outputs.append(predict(model, prepare, inputs, trained.data))
            truth.append(targets.cpu().numpy())
            run.report({"kind": "progress", "phase": "evaluate", "step": min(done * _BATCH, last - first), "steps": last - first})
    mine = (np.concatenate(truth), np.concatenate(outputs)) if outputs else None
    parts = [part for part in run.collectives.all_gather_object(mine) if part is not None]
    if run.is_main:
        targets_all = np.concatenate([part[0] for part in parts])
        outputs_all = np.concatenate([part[1] for part in parts])
        found = judge_outputs(trained.data, targets_all, outputs_all)
        (run.output_dir / "metrics.json").write_text(json.dumps(found, indent=1))
        write_predictions(run.output_dir / "predictions.parquet", trained.data, samples.ids(), targets_all, outputs_all)


def _chunks(first: int, last: int) -> Iterator[np.ndarray]:
    return (np.arange(start, min(start + _BATCH, last)) for start in range(first, last, _BATCH))


def judge_outputs(data: TorchData, targets: np.ndarray, outputs: np.ndarray) -> dict[str, Any]:
    """All metrics of scores [n, C] or values [n]."""
    if data.target == "class":
        return metrics.classification_metrics(targets, outputs, data.classes)
    return metrics.regression_metrics(targets, outputs)


def write_predictions(path: Path, data: TorchData, ids: list[str], targets: np.ndarray, outputs: np.ndarray) -> None:
    """``id``, ``label`` (true), ``prediction`` and, of classes, ``scores``."""
    if data.target == "class":
        names = np.asarray(data.classes, dtype=object)
        columns = {
            "id": pa.array(ids, pa.string()),
            "label": pa.array(names[targets], pa.string()),
            "prediction": pa.array(names[outputs.argmax(axis=1)], pa.string()),
            "scores": pa.array(list(outputs.astype(np.float32)), pa.list_(pa.float32())),
        }
    else:
        columns = {
            "id": pa.array(ids, pa.string()),
            "label": pa.array(targets.astype(np.float64)),
            "prediction": pa.array(outputs.astype(np.float64)),
        }
    pq.write_table(pa.table(columns), path)


def export(engine: TorchEngine, config: TorchConfig, dataset: Dataset, run: Run) -> None:
    """Write the package; rank 0 does it, the others only keep it company when the data is opened."""
    hardware.set_up_process(run.spec.threads, torch.device("cpu"))
    trained = load_trained(engine, config, dataset, run, splits=("test", "valid"))
    if run.is_main:
        assert run.model_dir is not None
        config = with_options(config, read_description(run.model_dir).get("student", {}))
        engine.write_package(config, dataset, calibrate(engine, config, trained, run), run)
