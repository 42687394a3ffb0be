"""How fast the training loop is, against what a user would write: ResNet-18, 96x96, 32 pictures a rank, real JPEG files, 2 ranks on 2 cores.

    python benchmarks/training.py [--parts horovod,ddp,tuned,loader,scaling,gpu] [--pairs 5] [--images 384]

All sides run in turns, each in processes of its own; of each the second epoch is timed (the first warms up), and the median of the rounds'
ratios is printed. A round of the first three takes a minute on a quiet machine. Ours are ranks of ``infra.launch`` on a Dask cluster
that runs already; the others are the scripts in benchmarks/_training/.

    horovod   stock Horovod, fp32, DistributedOptimizer: at least 1.6 times its images/s
    ddp       torchrun, DistributedDataParallel, fp32: at least 1.6 times
    tuned     torchrun, DistributedDataParallel tuned by hand (bf16, channels_last, ...): at least 0.95 times
    loader    ours on synthetic data: real files at least 0.95 times as fast
    scaling   from 1 to 2 ranks of one thread: at least 0.9 of what the tuned script reaches
    gpu       needs a CUDA GPU: ResNet-50, 224x224, bf16 against timm's own train script
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
SIDES = HERE / "_training"
PRESET = "image-classification/resnet18"
# As the other sides train: no augmentation, no clipping, no average of weights.
OPTIONS: dict[str, Any] = {"augment": "none", "clip_norm": 0.0, "label_smoothing": 0.0, "ema_decay": 0.0, "epochs": 2, "warmup_epochs": 0.0}


def write_jpegs(folder: Path, count: int, size: int) -> Path:
    """Crops of the two photographs that scikit-learn brings along, as JPEG files in six classes, below ``train/`` and a few below ``test/``."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    random = np.random.default_rng(0)
    photographs = load_sample_images().images
    for number in range(count + 12):
        pixels, part = photographs[number % 2], number // 2 % 3
        third = pixels.shape[1] // 3
        region = pixels[:, part * third : (part + 1) * third]
        side = int(random.integers(96, min(region.shape[:2])))
        top, left = (int(random.integers(0, length - side + 1)) for length in region.shape[:2])
        target = folder / ("train" if number < count else "test") / f"{number % 2}-{part}"
        target.mkdir(parents=True, exist_ok=True)
        crop = Image.fromarray(region[top : top + side, left : left + side]).resize((size, size), Image.Resampling.BILINEAR)
        crop.save(target / f"{number:05d}.jpg", quality=90)
    return folder


class Ours:
    """Trainings of the preset as ranks on a local Dask cluster."""

    def __init__(self, folder: Path, source: Path, stack: ExitStack) -> None:
        from infra.cluster import open_cluster
        from infra.datasets.importer import import_source
        from infra.settings import Settings
        from infra.store import open_store

        self.settings = Settings(workspace=str(folder / "workspace"), slots=2, cluster="local")
        self.store = open_store(self.settings.workspace_uri)
        self.data = import_source(self.store, str(source), "jpegs")
        self.client = stack.enter_context(open_cluster(self.settings))

    def train(self, ranks: int, *, module: str = "algorithms", batch: int = 32, **options: Any) -> dict[str, Any]:
        """One training; its ``history.json``."""
        from algorithms.run import RunSpec
        from infra.artifacts import find, read_file
        from infra.launch import launch

        output = f"runs/{uuid.uuid4().hex}/trained"
        config = {**OPTIONS, "image_size": 96, "batch_size": batch * ranks, **options}
        spec = RunSpec(
            verb="train", algorithm=PRESET, config=config, dataset=self.data, workspace=self.settings.workspace_uri, output=output
        )
        env = {"PYTHONPATH": str(HERE.parent)}
        launch(
            spec.model_dump_json(), client=self.client, num_ranks=ranks, deadline_s=600, threads_per_rank=1, module=module, env=env,
            backend=self.settings.backend, log_dir=self.settings.state_dir / "logs" / "ranks",
        )  # fmt: skip
        artifact = find(self.store, output)
        assert artifact is not None
        found: dict[str, Any] = json.loads(read_file(self.store, artifact, "history.json"))
        return found

    def speed(self, ranks: int = 2, **more: Any) -> float:
        """Images/s of the last epoch."""
        return float(self.train(ranks, **more)["epochs"][-1]["samples_per_s"])


def other(script: str, source: Path, *options: str, ranks: int = 2) -> float:
    """Images/s of the last epoch of one of the scripts."""
    program = [str(SIDES / script), str(source / "train"), "--epochs", "2", *options]
    scripts = Path(sys.executable).parent
    if script.startswith("horovod"):
        start = [str(scripts / "horovodrun"), "--gloo", "-np", str(ranks), sys.executable]
    else:
        start = [str(scripts / "torchrun"), "--standalone", "--nproc-per-node", str(ranks)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PATH": f"{scripts}:{os.environ['PATH']}"}
    done = subprocess.run([*start, *program], env=environment, capture_output=True, text=True, timeout=600, check=False)
    found = re.findall(r"IMAGES_PER_S ([0-9.]+)", done.stdout)
    if done.returncode or not found:
        raise SystemExit(f"{script} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return float(found[-1])


def compare(pairs: int, ours: Callable[[], float], others: dict[str, tuple[float, Callable[[], float]]], unit: str = "images/s") -> bool:
    """Run all sides in turns, and print medians and the median of the ratios to each of the others, with its claim."""
    mine: list[float] = []
    theirs: dict[str, list[float]] = {name: [] for name in others}
    for number in range(pairs):
        turns: list[tuple[list[float], Callable[[], float]]] = [
            (mine, ours),
            *((theirs[name], other) for name, (_, other) in others.items()),
        ]
        # Who goes first changes: a machine that gets warmer or busier should not favour one side.
        for found, side in turns if number % 2 == 0 else turns[::-1]:
            found.append(side())
        told = ", ".join(f"{name} {found[-1]:.2f} (ratio {mine[-1] / found[-1]:.3f})" for name, found in theirs.items())
        print(f"  round {number + 1}: ours {mine[-1]:.2f}, {told} {unit}", flush=True)
    held = True
    for name, (claim, _) in others.items():
        ratios = [one / two for one, two in zip(mine, theirs[name], strict=True)]
        ratio = statistics.median(ratios)
        held &= ratio >= claim
        print(
            f"{name}: ours {statistics.median(mine):.2f}, other {statistics.median(theirs[name]):.2f} {unit}; ratio {ratio:.3f} "
            f"({min(ratios):.3f} to {max(ratios):.3f}); claim at least {claim}: {'holds' if ratio >= claim else 'DOES NOT HOLD'}",
            flush=True,
        )
    return held


def show_profile(history: dict[str, Any]) -> None:
    profile = history["profile"]
    parts = ", ".join(f"{part} {spent:.1f}" for part, spent in profile["parts_ms"].items())
    print(f"  ours, a step: {profile['step_ms']:.1f} ms ({parts}); {history['precision']}, {history['world_size']} rank(s)", flush=True)


def gpu(pairs: int) -> bool:
    """ResNet-50 on a GPU against timm's train script, which has to be there as a file (``TIMM_TRAIN``: train.py of timm's repository)."""
    import torch

    if not torch.cuda.is_available():
        print("gpu: not run: this part needs a CUDA GPU, and there is none here")
        return True
    script = os.environ.get("TIMM_TRAIN", "")
    if not Path(script).is_file():
        raise SystemExit("gpu: set TIMM_TRAIN to train.py of https://github.com/huggingface/pytorch-image-models")
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        folder = Path(scratch)
        source = write_jpegs(folder / "jpegs", 4096, 256)
        ours = Ours(folder, source, stack)
        more = {"image_size": 224, "precision": "bf16", "model": "timm.models.resnet:resnet50", "batch": 128}

        def timm_train() -> float:
            words = [sys.executable, script, "--data-dir", str(source), "--val-split", "test", "--model", "resnet50", "--num-classes", "6"]
            words += [
                "--img-size",
                "224",
                "-b",
                "128",
                "--amp",
                "--amp-dtype",
                "bfloat16",
                "--channels-last",
                "--epochs",
                "2",
                "--opt",
                "adamw",
            ]
            words += ["--workers", "8", "--no-aug", "--output", str(folder / uuid.uuid4().hex), "--log-interval", "1000"]
            done = subprocess.run(words, capture_output=True, text=True, timeout=900, check=True)
            # "Train: 1 [  31/32 (100%)] ... Time: 0.2s, 600.00/s (0.21s, 590.00/s)": the mean over the epoch.
            return float(re.findall(r"\(\s*[0-9.]+s,\s*([0-9.]+)/s\)", done.stdout + done.stderr)[-1])

        return compare(pairs, lambda: ours.speed(1, **more), {"gpu": (1.0, timm_train)})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--parts", default="horovod,ddp,tuned,loader,scaling,gpu")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--images", type=int, default=384)
    parser.add_argument("--jpeg-size", type=int, default=128)
    parser.add_argument("--loader-workers", default="1", help="Of the other sides, for each rank.")
    args = parser.parse_args()
    parts, pairs = args.parts.split(","), args.pairs
    print(f"torch {version('torch')}, horovod {version('horovod')}, timm {version('timm')}, {os.cpu_count()} cores, {platform.platform()}")
    held = True
    with tempfile.TemporaryDirectory(prefix="atelier-bench-") as scratch, ExitStack() as stack:
        os.environ["ATELIER_CACHE_DIR"] = f"{scratch}/cache"
        folder = Path(scratch)
        source = write_jpegs(folder / "jpegs", args.images, args.jpeg_size)
        workers = ("--loader-workers", args.loader_workers)
        if set(parts) - {"gpu"}:
            ours = Ours(folder, source, stack)
            began = time.monotonic()
            show_profile(ours.train(2))  # decodes the pictures, once for this machine
            print(f"  that run, with the decoding of {args.images} pictures: {time.monotonic() - began:.1f} s", flush=True)
        others: dict[str, tuple[float, Callable[[], float]]] = {
            "horovod": (1.6, lambda: other("horovod_stock.py", source, *workers)),
            "ddp": (1.6, lambda: other("ddp.py", source, *workers)),
            "tuned": (0.95, lambda: other("ddp.py", source, "--tuned", *workers)),
            "loader": (0.95, lambda: ours.speed(module="benchmarks._training.synthetic")),
        }
        if chosen := {name: side for name, side in others.items() if name in parts}:
            held &= compare(pairs, ours.speed, chosen)
        if "scaling" in parts:

            def theirs() -> float:
                alone = other("ddp.py", source, "--tuned", *workers, ranks=1)
                return other("ddp.py", source, "--tuned", *workers) / alone

            held &= compare(pairs, lambda: ours.speed(2) / ours.speed(1), {"scaling": (0.9, theirs)}, unit="times")
        if "gpu" in parts:
            held &= gpu(pairs)
    sys.exit(0 if held else 1)


if __name__ == "__main__":
    main()
