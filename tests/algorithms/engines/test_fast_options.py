"""Options that make training faster: each trains, and what it promises about the result holds."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from algorithms.catalog import find_algorithm
from algorithms.engines import hardware
from algorithms.engines.batches import Pace
from algorithms.engines.loop import Training
from algorithms.images.preprocess import resize, shrink
from algorithms.run import Run
from tests.algorithms.conftest import Workplace, on_ranks
from tests.algorithms.engines.test_loop import MODEL, StoppedError, same_start

SMALL_CNN = find_algorithm("image-classification/small-cnn")
TINY: dict[str, Any] = {"image_size": 16, "width": 0.25, "epochs": 4, "batch_size": 16, "precision": "fp32"}


def weights(run: Run) -> dict[str, torch.Tensor]:
    return load_file(run.output_dir / "model.safetensors")


def history(run: Run) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run.output_dir / "history.json").read_text())
    return found


def test_steps_are_counted_where_batch_sizes_change() -> None:
    pace = Pace(50, [8, 8, 25])
    assert [pace.steps(epoch) for epoch in range(4)] == [7, 7, 2, 2]
    assert (pace.total, pace.done(1, 3), pace.done(3, 0)) == (16, 10, 16)
    assert [pace.bounds(2, step) for step in range(2)] == [(0, 25), (25, 50)]


def test_a_training_with_all_schedules_goes_on_in_the_middle_as_if_nothing_had_been(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int, int, float]] = []
    step = Training._step

    def watched(self: Training, number: int, parts: Any) -> Any:
        result = step(self, number, parts)
        inputs = parts[0][0]
        seen.append((self.at.epoch, len(inputs), inputs.shape[1], round(self.optimizer.param_groups[0]["betas"][0], 6)))
        return result

    monkeypatch.setattr(Training, "_step", watched)
    options = {
        **TINY,
        "batch_size_by_epoch": "2:26",
        "image_size_by_epoch": "0:8,1:12,3:16",
        "momentum_by_epoch": "0:0.8,2:0.9",
        "augment": [{"name": "crop"}],
        "dropout": 0.2,
        "checkpoint_every_steps": 1,
    }
    undisturbed = workplace.train(SMALL_CNN, "undisturbed", **options)
    # 51 samples: four steps of 12 or 13 an epoch, then two of 25 or 26.
    assert [epoch for epoch, *_ in seen] == [0] * 4 + [1] * 4 + [2] * 2 + [3] * 2
    assert [count for _, count, _, _ in seen[8:]] == [25, 26] * 2
    assert [size for _, _, size, _ in seen] == [8] * 4 + [12] * 6 + [16] * 2
    assert [momentum for *_, momentum in seen] == pytest.approx([0.8 + 0.1 * min(done / 8, 1) for done in range(8)] + [0.9] * 4)
    with monkeypatch.context() as patch:
        patch.setattr("algorithms.engines.saver.Saver.after_step", stopping_after(9))
        with pytest.raises(StoppedError):
            workplace.train(SMALL_CNN, "killed", checkpoints="ck", **options)
    resumed = workplace.train(SMALL_CNN, "killed", checkpoints="ck", **options)
    logs = [event["message"] for event in resumed.extra["events"] if event["kind"] == "log"]
    assert logs == ["continues from epoch 3 step 1"]
    for name, tensor in weights(undisturbed).items():
        assert torch.equal(tensor, weights(resumed)[name]), name


def stopping_after(steps: int) -> Any:
    """``Saver.after_step`` that dies after some steps of the whole training, once what was saved is published."""
    from algorithms.engines.saver import Saver

    real = Saver.after_step

    def dying(self: Saver) -> None:
        real(self)
        if self.training.pace.done(self.training.at.epoch, self.training.at.step) >= steps:
            assert self.writer is not None
            self.writer.wait()
            raise StoppedError

    return dying


def test_shrinking_bytes_is_resizing_up_to_one_step_of_brightness() -> None:
    pictures = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 24, 24, 3), dtype=np.uint8))
    found, wanted = shrink(pictures, 16), resize(pictures, 16, 3)
    assert found.shape == wanted.shape == (3, 16, 16, 3)
    assert int((found.int() - wanted.int()).abs().max()) <= 1


@pytest.mark.parametrize("compression", ["bf16", "fp16"])
def test_compressed_gradients_train_nearly_the_same(
    workplace: Workplace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compression: str
) -> None:
    (tmp_path / "fast_networks.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    options = {**TINY, "model": "fast_networks:Plain", "augment": "none", "optimizer": "momentum", "learning_rate": 0.05}
    options |= same_start(workplace, tmp_path, model=options["model"])

    def train(name: str, **more: str) -> dict[str, Any]:
        return history(on_ranks(2, lambda c: workplace.train(SMALL_CNN, name, collectives=c, **options, **more))[0])

    plain, half = train("plain"), train("half", gradient_compression=compression)
    losses, others = ([entry["train_loss"] for entry in one["epochs"]] for one in (plain, half))
    assert others == pytest.approx(losses, rel=0.02)
    assert others != losses


def test_ranks_with_synchronised_normalisation_train_what_one_trains(workplace: Workplace, tmp_path: Path) -> None:
    # 13 a batch over 3 ranks and in 5 parts: without care ranks would cut their shares differently and wait for each other for ever.
    options = {**TINY, "batch_size": 13, "augment": "none", "dropout": 0.0, "sync_batchnorm": True}
    options |= same_start(workplace, tmp_path)
    one = history(workplace.train(SMALL_CNN, "one", **options))
    three = history(on_ranks(3, lambda c: workplace.train(SMALL_CNN, "three", collectives=c, **options))[0])
    assert [entry["train_loss"] for entry in three["epochs"]] == pytest.approx([entry["train_loss"] for entry in one["epochs"]], rel=1e-3)
    on_ranks(3, lambda c: workplace.train(SMALL_CNN, "parts", collectives=c, **{**options, "accumulation": 5, "epochs": 1}))


def test_compilation_is_a_rule_and_never_a_measurement() -> None:
    model, cpu, gpu = torch.nn.Linear(1, 1), torch.device("cpu"), torch.device("cuda")
    assert hardware.compiled(model, "off", gpu, 10**6) is model
    assert hardware.compiled(model, "auto", cpu, 10**6) is model
    assert hardware.compiled(model, "auto", gpu, 100) is model
    assert hardware.compiled(model, "auto", gpu, 10**4) is not model
    assert hardware.compiled(model, "on", cpu, 1) is not model


def test_a_compiled_network_trains_the_same_weights(workplace: Workplace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "compiled_networks.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    # Tracing and differentiation as they are; the C++ compiler would take half a minute for the same answer.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    options = {**TINY, "model": "compiled_networks:Plain", "augment": "none", "epochs": 2, "batch_size": 25}
    plain, compiled = (workplace.train(SMALL_CNN, choice, compile=choice, **options) for choice in ("off", "on"))
    assert (history(plain)["compiled"], history(compiled)["compiled"]) == (False, True)
    for name, tensor in weights(plain).items():
        torch.testing.assert_close(weights(compiled)[name], tensor, rtol=1e-3, atol=1e-5)
