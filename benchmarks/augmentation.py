"""What each built-in policy for pictures gains or costs on a small training set: digits, small-cnn, a few pictures a class, several seeds.

    python benchmarks/augmentation.py [--pictures 20] [--seeds 5] [--epochs 40] [--policies none,shift,...]

Each seed draws its own training pictures and its own initial weights, the same for every policy; all other digits judge. Claim: with 20 training
pictures a class, the preset's default policy is better than none, by a margin larger than its standard error over the seeds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

from algorithms.augmentation.policies import POLICIES
from algorithms.catalog import find_algorithm
from algorithms.run import RunSpec, Verb, execute
from infra.artifacts import read_file
from infra.collectives import LocalCollectives
from infra.datasets.card import DatasetRef
from infra.datasets.digits import write_digits
from infra.datasets.importer import import_source
from infra.settings import load_settings
from infra.store import Store, open_store

PRESET = "image-classification/small-cnn"


def write_small_set(digits: Path, folder: Path, each: int, seed: int) -> Path:
    """``each`` training pictures of every class, as many to validate, all others to test."""
    rng = np.random.default_rng(seed)
    for label in sorted(path.name for path in digits.iterdir()):
        files = sorted((digits / label).iterdir())
        for place, number in enumerate(rng.permutation(len(files))):
            split = "train" if place < each else "valid" if place < 2 * each else "test"
            target = folder / split / label / files[number].name
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(files[number], target)
    return folder


def accuracy(store: Store, data: DatasetRef, policy: str, seed: int, epochs: int, threads: int) -> tuple[float, float]:
    """Accuracy on the test split of one training, and how long that took, seconds."""
    config = {"augment": policy, "seed": seed, "epochs": epochs}
    output = f"runs/{policy}-{seed}"

    def spec(verb: Verb, **more: object) -> RunSpec:
        common = {"algorithm": PRESET, "config": config, "dataset": data, "workspace": store.uri, "threads": threads}
        return RunSpec.model_validate({**common, "verb": verb, "output": f"{output}/{verb}", **more})

    begin = time.perf_counter()
    trained = execute(spec("train"), LocalCollectives())
    seconds = time.perf_counter() - begin
    judged = execute(spec("evaluate", model=trained), LocalCollectives())
    assert judged is not None
    return float(json.loads(read_file(store, judged, "metrics.json"))["accuracy"]), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=20, help="training pictures a class")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=10, help="Seeds below 10 were looked at while the default was chosen.")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--policies", default=",".join(POLICIES))
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    default = str(find_algorithm(PRESET).defaults["augment"])
    policies = list(dict.fromkeys(["none", default, *given.policies.split(",")]))
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["ATELIER_CACHE_DIR"] = f"{scratch}/cache"
        load_settings.cache_clear()
        digits = write_digits(Path(scratch) / "digits")
        found: dict[str, list[float]] = {policy: [] for policy in policies}
        took: dict[str, list[float]] = {policy: [] for policy in policies}
        for seed in range(given.first_seed, given.first_seed + given.seeds):
            store = open_store(f"{scratch}/workspace-{seed}")
            data = import_source(store, str(write_small_set(digits, Path(scratch) / f"set-{seed}", given.pictures, seed)), f"digits-{seed}")
            for policy in policies:
                value, seconds = accuracy(store, data, policy, seed, given.epochs, given.threads)
                found[policy].append(value)
                took[policy].append(seconds)
            print(f"seed {seed}: " + ", ".join(f"{policy} {found[policy][-1]:.4f}" for policy in policies), flush=True)
    print(
        f"{given.pictures} training pictures a class, {given.seeds} seeds, {given.epochs} epochs; torch {version('torch')}, "
        f"torchvision {version('torchvision')}, {given.threads} thread(s)"
    )
    print(f"{'policy':18} {'accuracy':>9} {'gain':>8} {'error':>7} {'time':>6}")
    for policy in sorted(policies, key=lambda name: -statistics.mean(found[name])):
        gains = [100 * (one - other) for one, other in zip(found[policy], found["none"], strict=True)]
        error = statistics.stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else float("nan")
        ratio = statistics.median(took[policy]) / statistics.median(took["none"])
        mark = "  <- default" if policy == default else ""
        print(f"{policy:18} {statistics.mean(found[policy]):9.4f} {statistics.mean(gains):+8.2f} {error:7.2f} {ratio:5.2f}x{mark}")
    print("gain: percentage points of accuracy over none, mean over the seeds; error: its standard error; time: of training, against none")


if __name__ == "__main__":
    main()
