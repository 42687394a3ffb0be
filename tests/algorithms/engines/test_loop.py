"""The training loop: independent of the number of ranks, resumable anywhere, the same for the same seed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from algorithms.catalog import find_algorithm
from algorithms.engines import checkpoints
from algorithms.engines.saver import Saver
from algorithms.run import Run
from infra.errors import CorruptArtifactError, InvalidOptionError, SourceNotFoundError, TrainingDivergedError, UserCodeError
from tests.algorithms.conftest import Workplace, on_ranks

SMALL_CNN = find_algorithm("image-classification/small-cnn")
TINY: dict[str, Any] = {"image_size": 16, "width": 0.25, "epochs": 2, "batch_size": 16, "precision": "fp32"}
MODEL = """
import torch
class Plain(torch.nn.Module):
    def __init__(self, num_classes, channels):
        super().__init__()
        self.first = torch.nn.Conv2d(channels, 8, 3, stride=2)
        self.second = torch.nn.Conv2d(8, 8, 3)
        self.last = torch.nn.Linear(8, num_classes)
    def forward(self, pictures):
        return self.last(self.second(self.first(pictures).relu()).relu().mean((2, 3)))
def flat(num_classes): return torch.nn.Flatten()
def failing(num_classes): return torch.nn.Linear(num_classes, 'x')
def number(): return 3
"""


@pytest.fixture
def own_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "my_networks.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    return "my_networks:Plain"


def weights(run: Run) -> dict[str, torch.Tensor]:
    return load_file(run.output_dir / "model.safetensors")


def history(run: Run) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run.output_dir / "history.json").read_text())
    return found


def events(run: Run, kind: str) -> list[dict[str, Any]]:
    return [event for event in run.extra["events"] if event["kind"] == kind]


def assert_equal_weights(one: Run, other: Run, **tolerance: float) -> None:
    bounds = tolerance or {"rtol": 0.0, "atol": 0.0}
    for name, tensor in weights(one).items():
        torch.testing.assert_close(tensor, weights(other)[name], rtol=bounds["rtol"], atol=bounds["atol"], msg=f"{name} differs")


@pytest.mark.parametrize("accumulation", [1, 3])
def test_one_rank_and_three_agree_on_the_same_global_batch(workplace: Workplace, own_model: str, tmp_path: Path, accumulation: int) -> None:
    # 51 samples in batches of 12 and 13 over 3 ranks: shares differ.
    options = {
        **TINY,
        "batch_size": 13,
        "model": own_model,
        "augment": "none",
        "ema_decay": 0,
        "accumulation": accumulation,
        "clip_norm": 1.0,
    }
    options |= same_start(workplace, tmp_path, model=own_model)
    alone = workplace.train(SMALL_CNN, "alone", **options)
    ranks = on_ranks(3, lambda collectives: workplace.train(SMALL_CNN, "ranks", collectives=collectives, **options))
    assert_equal_weights(alone, ranks[0], rtol=1e-4, atol=1e-6)
    for one, other in zip(history(alone)["epochs"], history(ranks[0])["epochs"], strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=1e-5)
        assert one["valid_loss"] == pytest.approx(other["valid_loss"], rel=1e-5)
        assert one["valid_accuracy"] == other["valid_accuracy"]
    assert history(ranks[0])["world_size"] == 3
    assert not (ranks[1].output_dir / "model.safetensors").exists()


def test_batch_normalisation_never_learns_from_one_sample(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    real = torch.nn.BatchNorm2d.forward

    def watched(self: torch.nn.BatchNorm2d, inputs: torch.Tensor) -> torch.Tensor:
        sizes.extend([len(inputs)] if self.training else [])
        return real(self, inputs)

    monkeypatch.setattr(torch.nn.BatchNorm2d, "forward", watched)
    options = {**TINY, "epochs": 1, "batch_size": 8, "accumulation": 4}
    on_ranks(2, lambda collectives: workplace.train(SMALL_CNN, "ranks", collectives=collectives, **options))
    assert set(sizes) <= {2, 3}
    assert sizes


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(workplace: Workplace) -> None:
    first, second = (workplace.train(SMALL_CNN, name, **TINY) for name in ("first", "second"))
    assert_equal_weights(first, second)
    other = workplace.train(SMALL_CNN, "other", **TINY, seed=1)
    assert not torch.equal(weights(first)["0.0.weight"], weights(other)["0.0.weight"])


class StoppedError(Exception):
    """Stands for kill -9."""


def same_start(workplace: Workplace, folder: Path, **options: Any) -> dict[str, str]:
    """Options that start from the same weights: ranks that are threads share a random generator, which real ones do not."""
    run = workplace.train(SMALL_CNN, "start", **{**TINY, "epochs": 1, **options})
    save_file(weights(run), folder / "start.safetensors")
    return {"pretrained": str(folder / "start.safetensors")}


def stop_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Let ``fit`` die after some steps, once what was saved is published."""
    after_step = Saver.after_step

    def dying(self: Saver) -> None:
        after_step(self)
        if self.training.at.epoch * self.training.steps + self.training.at.step >= steps:
            if self.writer is not None:
                self.writer.wait()
            raise StoppedError

    monkeypatch.setattr(Saver, "after_step", dying)


@pytest.mark.parametrize("optimizer", ["adamw", "nesterov"])
def test_a_training_killed_within_an_epoch_goes_on_as_if_nothing_had_been(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    # Dropout and shifts draw random numbers, so equal weights prove that their state came back too; channels_last that moments kept their layout.
    options = {**TINY, "epochs": 3, "optimizer": optimizer, "dropout": 0.3, "checkpoint_every_steps": 1, "batch_size": 10}
    undisturbed = workplace.train(SMALL_CNN, "undisturbed", **options)
    with monkeypatch.context() as patch:
        stop_after(patch, steps=7)
        with pytest.raises(StoppedError):
            workplace.train(SMALL_CNN, "killed", checkpoints="runs/killed/checkpoints", **options)
    resumed = workplace.train(SMALL_CNN, "killed", checkpoints="runs/killed/checkpoints", **options)
    assert [event["message"] for event in events(resumed, "log")] == ["continues from epoch 2 step 1"]
    assert_equal_weights(undisturbed, resumed)
    timings = {"seconds", "samples_per_s"}
    for one, other in zip(history(undisturbed)["epochs"], history(resumed)["epochs"], strict=True):
        assert {k: v for k, v in one.items() if k not in timings} == {k: v for k, v in other.items() if k not in timings}


def test_two_ranks_resume_too_and_then_one_alone(workplace: Workplace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {**TINY, "epochs": 3, "augment": "none", "dropout": 0, "checkpoint_every_steps": 1, **same_start(workplace, tmp_path)}
    undisturbed = on_ranks(2, lambda collectives: workplace.train(SMALL_CNN, "undisturbed", collectives=collectives, **options))[0]
    for steps, collectives_count in ((2, 2), (5, 2)):
        with monkeypatch.context() as patch:
            stop_after(patch, steps=steps)
            with pytest.raises(StoppedError):
                on_ranks(collectives_count, lambda c: workplace.train(SMALL_CNN, "killed", collectives=c, checkpoints="ck", **options))
    resumed = on_ranks(2, lambda c: workplace.train(SMALL_CNN, "killed", collectives=c, checkpoints="ck", **options))[0]
    assert_equal_weights(undisturbed, resumed, rtol=1e-4, atol=1e-5)
    alone = workplace.train(SMALL_CNN, "alone", checkpoints="ck", **options)
    assert "continues from epoch 4 step 0" in events(alone, "log")[-1]["message"]
    assert_equal_weights(resumed, alone)


def test_only_the_last_two_checkpoints_are_kept(workplace: Workplace) -> None:
    workplace.train(SMALL_CNN, "kept", checkpoints="ck", checkpoint_every_steps=1, **TINY)
    assert checkpoints.list_checkpoints(workplace.store, "ck") == ["ck/000001-00000003", "ck/000002-00000000"]


def test_a_damaged_checkpoint_is_an_error_that_names_the_file(workplace: Workplace) -> None:
    workplace.train(SMALL_CNN, "damaged", checkpoints="ck", **TINY)
    path = workplace.store.local_path("ck/000002-00000000/model.safetensors")
    assert path is not None
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.unlink()
    path.write_bytes(content)
    with pytest.raises(CorruptArtifactError, match=r"000002-00000000/model\.safetensors"):
        workplace.train(SMALL_CNN, "damaged", checkpoints="ck", **TINY)


def test_checkpoints_of_other_options_are_left_alone(workplace: Workplace) -> None:
    workplace.train(SMALL_CNN, "before", checkpoints="ck", **TINY)
    run = workplace.train(SMALL_CNN, "after", checkpoints="ck", **{**TINY, "epochs": 3})
    assert "starts anew" in events(run, "log")[0]["message"]
    assert len(history(run)["epochs"]) == 3


def test_progress_metrics_and_tensorboard_tell_of_every_epoch(workplace: Workplace) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = workplace.train(SMALL_CNN, "told", **TINY)
    assert [event["step"] for event in events(run, "metrics")] == [1, 2]
    assert {"train_loss", "valid_loss", "valid_accuracy", "learning_rate", "samples_per_s"} <= set(events(run, "metrics")[0]["values"])
    last = [event for event in events(run, "progress") if event["phase"] == "train"][-1]
    assert (last["epoch"], last["epochs"], last["step"], last["steps"], last["metric_name"]) == (2, 2, 4, 4, "accuracy")
    assert last["eta_s"] == 0
    assert last["samples_per_s"] > 0
    board = EventAccumulator(str(run.output_dir / "tensorboard"))
    board.Reload()
    assert [scalar.step for scalar in board.Scalars("valid/accuracy")] == [1, 2]


def test_early_stopping_ends_a_training_that_gets_no_better(workplace: Workplace) -> None:
    run = workplace.train(SMALL_CNN, "stopped", **{**TINY, "epochs": 50, "learning_rate": 1e-9, "early_stopping": 2, "ema_decay": 0})
    found = history(run)
    assert found["stopped_early"]
    assert len(found["epochs"]) == found["best_epoch"] + 2 < 50


@pytest.mark.parametrize(
    "options",
    [
        {"loss": "focal", "schedule": "onecycle", "channels_last": False},
        {"loss": "bce", "l1": 1e-4, "l2": 1e-4, "schedule": "step"},
        {"precision": "bf16", "accumulation": 2, "ema_decay": 0.9, "channels": 1},
    ],
)
def test_combinations_of_options_train(workplace: Workplace, options: dict[str, Any]) -> None:
    found = history(workplace.train(SMALL_CNN, "combined", **{**TINY, "epochs": 4, **options}))
    assert found["epochs"][-1]["train_loss"] < found["epochs"][0]["train_loss"]
    assert found["precision"] == options.get("precision", "fp32")


def test_a_diverged_training_says_so(workplace: Workplace) -> None:
    with pytest.raises(TrainingDivergedError, match="Lower learning_rate"):
        workplace.train(SMALL_CNN, "diverged", **{**TINY, "epochs": 30, "optimizer": "sgd", "learning_rate": 100, "l2": 10})


@pytest.mark.usefixtures("own_model")
@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("my_networks:flat", r"for 2 samples it gave \(2, 768\); it has to give a tensor \(2, 3\)"),
        ("my_networks:failing", "TypeError"),
        ("my_networks.number", "gave a int, not a torch.nn.Module"),
        ("my_networks:absent", "It has: .*Plain"),
        ("no_such_package.thing", "no module 'no_such_package'"),
    ],
)
def test_a_users_model_that_does_not_work_is_named_with_the_reason(workplace: Workplace, name: str, why: str) -> None:
    with pytest.raises(UserCodeError, match=why):
        workplace.train(SMALL_CNN, "own", model=name, **TINY)


def test_pretrained_weights_are_used_and_a_head_of_another_size_stays_random(workplace: Workplace, tmp_path: Path) -> None:
    before = workplace.train(SMALL_CNN, "before", **TINY)
    found = weights(before)
    other_head = {
        name: torch.zeros(7, *tensor.shape[1:]) if tensor.dim() in (1, 2) and len(tensor) == 3 else tensor for name, tensor in found.items()
    }
    save_file(other_head, tmp_path / "start.safetensors")
    for source in (str(tmp_path / "start.safetensors"), f"file://{tmp_path}/start.safetensors"):
        run = workplace.train(SMALL_CNN, "after", pretrained=source, learning_rate=1e-9, weight_decay=0, **TINY)
        message = events(run, "log")[0]["message"]
        assert "Random weights in" in message
        assert "[7, 32] in the file, [3, 32] here" in message
        torch.testing.assert_close(weights(run)["0.0.weight"], found["0.0.weight"], rtol=0, atol=1e-5)


def test_pretrained_weights_that_are_missing_or_of_another_network_are_refused(workplace: Workplace, tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError, match="safetensors"):
        workplace.train(SMALL_CNN, "none", pretrained=str(tmp_path / "absent.safetensors"), **TINY)
    save_file({"something.else": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(InvalidOptionError, match="fits 0 of"):
        workplace.train(SMALL_CNN, "other", pretrained=str(tmp_path / "other.safetensors"), **TINY)
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(InvalidOptionError, match="is not a safetensors file"):
        workplace.train(SMALL_CNN, "text", pretrained=str(tmp_path / "text.safetensors"), **TINY)


def test_more_ranks_than_the_batch_can_feed_are_refused(workplace: Workplace) -> None:
    with pytest.raises(InvalidOptionError, match="batch_size: 3 over 2 worker"):
        on_ranks(2, lambda collectives: workplace.train(SMALL_CNN, "few", collectives=collectives, **{**TINY, "batch_size": 3}))


AUGMENTED = [{"name": "warp"}, {"name": "crop"}, {"name": "colour"}, {"name": "mixup"}, {"name": "cutmix", "p": 0.5}]


def test_an_augmented_training_that_is_stopped_goes_on_as_if_it_had_not(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {**TINY, "epochs": 3, "augment": AUGMENTED, "checkpoint_every_steps": 1}
    undisturbed = workplace.train(SMALL_CNN, "undisturbed", **options)
    with monkeypatch.context() as patch:
        stop_after(patch, steps=6)
        with pytest.raises(StoppedError):
            workplace.train(SMALL_CNN, "killed", checkpoints="runs/killed/checkpoints", **options)
    resumed = workplace.train(SMALL_CNN, "killed", checkpoints="runs/killed/checkpoints", **options)
    assert [event["message"] for event in events(resumed, "log")] == ["continues from epoch 2 step 2"]
    assert_equal_weights(undisturbed, resumed)
    plain = workplace.train(SMALL_CNN, "plain", **{**options, "augment": "none"})
    assert not all(torch.equal(tensor, weights(plain)[name]) for name, tensor in weights(undisturbed).items())


def test_balanced_class_weights_make_classes_weigh_the_same_in_sum(workplace: Workplace) -> None:
    from algorithms.engines.augmenting import weigh_classes
    from algorithms.engines.torch_engine import TorchData

    class Few:
        labels = np.array([0, 0, 0, 1])

    data: Any = TorchData("class", ["a", "b", "c"], (1,), {"train": Few()})  # type: ignore[dict-item]
    config: Any = SMALL_CNN.config({"class_weights": "balanced"})
    ones = weigh_classes(lambda outputs, targets: torch.ones(len(targets)), config, data, torch.device("cpu"))
    found = ones(torch.zeros(4, 3), torch.tensor([0, 0, 0, 1]))
    assert found.tolist() == pytest.approx([2 / 3, 2 / 3, 2 / 3, 2.0])
    plain: Any = SMALL_CNN.config()
    assert weigh_classes(len, plain, data, torch.device("cpu")) is len  # type: ignore[arg-type, comparison-overlap]


def test_the_loss_of_mixed_samples_is_that_of_their_mixed_targets() -> None:
    from algorithms.engines.augmenting import mixed_loss

    torch.manual_seed(0)
    outputs, targets = torch.randn(5, 3), torch.tensor([0, 2, 1, 1, 0])
    shares = torch.tensor([1.0, 0.3, 0.5, 0.9, 0.0])

    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(outputs, targets, reduction="none", label_smoothing=0.1)

    hot = torch.nn.functional.one_hot(targets, 3).float()
    soft = shares[:, None] * hot + (1 - shares[:, None]) * hot.roll(1, 0)
    torch.testing.assert_close(mixed_loss(loss, outputs, targets, shares), loss(outputs, soft))
    assert torch.equal(mixed_loss(loss, outputs, targets, None), loss(outputs, targets))


def test_a_training_on_a_cpu_never_loads_torchs_compiler(workplace: Workplace) -> None:
    """That alone took a rank longer than everything else up to its first step."""
    spec = workplace.run("train", "lean", **TINY, augment="warp").spec
    code = (
        "import sys\n"
        "from algorithms.__main__ import run\n"
        "status = run(sys.argv[1], lambda event: None)\n"
        "import torch\n"
        "from algorithms.engines.optimizers import OPTIMIZERS, make_optimizer\n"
        "from algorithms.engines.torch_config import TorchConfig\n"
        "for name in OPTIMIZERS:\n"
        "    model = torch.nn.Linear(2, 1)\n"
        "    optimizer = make_optimizer(TorchConfig(optimizer=name), model)\n"
        "    model(torch.ones(2)).backward()\n"
        "    optimizer.step()\n"
        "    optimizer.zero_grad()\n"
        "    optimizer.load_state_dict(optimizer.state_dict())\n"
        "loaded = {'torch._dynamo', 'torchvision', 'pandas', 'onnx'} & sys.modules.keys()\n"
        "sys.exit(status or str(loaded or '') or 0)"
    )
    environment = {**os.environ, "ATELIER_COLLECTIVES": "local", "ATELIER_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-c", code, spec.model_dump_json()], capture_output=True, text=True, timeout=100, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
