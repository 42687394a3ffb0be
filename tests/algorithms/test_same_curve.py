"""The number of ranks and the way they talk change the speed of a training, not its course."""

from __future__ import annotations

import json
from typing import Any, Literal

import pytest

from algorithms.catalog import find_algorithm
from algorithms.run import RunSpec
from infra.artifacts import find, read_file
from infra.cluster import open_cluster
from infra.launch import launch
from infra.settings import Settings
from tests.algorithms.conftest import Workplace

SMALL_CNN = find_algorithm("image-classification/small-cnn")
# Normalisation over all ranks, so that this network is one whose result does not depend on shares. 13 epochs of 4 steps.
OPTIONS: dict[str, Any] = {
    "image_size": 8,
    "width": 0.25,
    "epochs": 13,
    "batch_size": 16,
    "augment": "none",
    "dropout": 0.0,
    "ema_decay": 0.0,
    "optimizer": "momentum",
    "learning_rate": 0.02,
    "precision": "fp32",
    "sync_batchnorm": True,
}


def test_one_two_and_four_ranks_of_both_back_ends_have_the_same_losses_over_50_steps(
    workplace: Workplace, tmp_path_factory: pytest.TempPathFactory
) -> None:
    workplace.train(SMALL_CNN, "one", **OPTIONS)
    one = json.loads((workplace.folder / "train-one-0" / "history.json").read_text())["epochs"]
    assert one[-1]["train_loss"] < 0.7 * one[0]["train_loss"], "it learns nothing, so that equal losses would say nothing"
    folder = tmp_path_factory.mktemp("four-slots")
    backends: tuple[Literal["horovod", "torch"], ...] = ("horovod", "torch")
    with open_cluster(Settings(workspace=str(folder), cache_dir=folder / "cache", slots=4)) as client:
        for backend in backends:
            for ranks in (2, 4):
                spec = RunSpec(
                    verb="train",
                    algorithm=SMALL_CNN.name,
                    config=OPTIONS,
                    dataset=workplace.ref,
                    workspace=workplace.store.uri,
                    output=f"runs/{backend}-{ranks}/trained",
                )
                launch(
                    spec.model_dump_json(),
                    client=client,
                    num_ranks=ranks,
                    backend=backend,
                    threads_per_rank=1,
                    deadline_s=240,
                    log_dir=folder,
                )
                artifact = find(workplace.store, spec.output)
                assert artifact is not None
                found = json.loads(read_file(workplace.store, artifact, "history.json"))
                assert (found["world_size"], len(found["epochs"])) == (ranks, 13)
                for name in ("train_loss", "valid_loss"):
                    losses, expected = ([entry[name] for entry in epochs] for epochs in (found["epochs"], one))
                    assert losses == pytest.approx(expected, rel=1e-4), f"{name}, {ranks} ranks, {backend}"
