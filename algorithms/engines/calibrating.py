"""Temperature scaling of a trained network on its valid split, when it is exported."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from algorithms.analysis.calibration import find_temperature
from algorithms.engines.scoring import forward, predict
from algorithms.engines.torch_engine import TorchEngine, TrainedModel

if TYPE_CHECKING:
    from algorithms.run import Run

MOST_SAMPLES = 4000
_BATCH = 64


def calibrate(engine: TorchEngine, config: Any, trained: TrainedModel, run: Run) -> TrainedModel:
    """The network with the temperature that suits its valid split, on at most ``MOST_SAMPLES`` samples chosen by the seed.

    Estimates of numbers, and networks with too few valid samples to tell, stay as they are.
    """
    data = trained.data
    samples = data.samples.get("valid")
    if data.target != "class" or samples is None or not len(samples):
        return trained
    prepare = engine.prepare_batch(config, data)
    chosen = np.sort(np.random.default_rng(config.seed).permutation(len(samples))[:MOST_SAMPLES])
    logits, truth = [], []
    with torch.no_grad():
        for start in range(0, len(chosen), _BATCH):
            inputs, targets = samples.read(chosen[start : start + _BATCH])
            outputs = forward(trained.module, prepare, torch.from_numpy(inputs), data, training=False, precision="fp32")
            logits.append(outputs.cpu().numpy())
            truth.append(targets)
            run.report({"kind": "progress", "phase": "calibrate", "step": start + len(targets), "steps": len(chosen)})
    found = find_temperature(np.concatenate(truth).astype(np.int64), np.concatenate(logits), config.seed)
    if found is None:
        return trained
    temperature = found.temperature

    def tempered(inputs: np.ndarray) -> np.ndarray:
        return predict(trained.module, prepare, torch.from_numpy(np.ascontiguousarray(inputs)), data, temperature)

    return replace(trained, predict=tempered, temperature=temperature, calibration=found.to_json())
