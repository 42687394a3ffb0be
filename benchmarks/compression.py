"""What compression brings: accuracy, size and real latency of what ``--compress auto`` ships, against fp32 and torch eager, in one run.

    python benchmarks/compression.py [--parts digits,resnet18,slower] [--rounds 15]

    digits     small-cnn on scikit-learn's 1,797 handwritten digits. Claims for int8: test accuracy at least 0.985 and at most 0.01 below fp32, at
               least 3 times smaller and 2 times faster than fp32 onnxruntime; or the table tells why another was better here.
    resnet18   resnet18 at 96x96. Claim: what auto ships has at least 4 times less latency than torch eager fp32 and loses at most 0.01.
    slower     efficientnet-b0 at 96x96, int8 alone: tells whether int8 is slower on this host, and that it is not shipped then.

The pictures of the last two are crops of the two photographs that scientific Python brings along (a Chinese temple and a flower); the class is the
part of the photograph that a crop is from. They are real pictures, and an easy task: this measures speed and what compression loses, not how well
resnet18 can tell things apart. Sides that are compared with torch run in processes of their own that take turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from infra.context import StageContext
from infra.datasets.importer import import_source
from infra.settings import Settings, load_settings


def write_crops(folder: Path, per_class: int = 150, size: int = 96) -> Path:
    """Crops of six parts of two photographs, each turned into ``size`` x ``size`` pixels: ``<photograph>-<part>/<number>.png``."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    random = np.random.default_rng(0)
    for name, pixels in zip(("temple", "flower"), load_sample_images().images, strict=True):
        third = pixels.shape[1] // 3
        for part in range(3):
            target = folder / f"{name}-{part}"
            target.mkdir(parents=True)
            region = pixels[:, part * third : (part + 1) * third]
            for number in range(per_class):
                side = int(random.integers(size, min(region.shape[:2])))
                top, left = (int(random.integers(0, length - side + 1)) for length in region.shape[:2])
                crop = Image.fromarray(region[top : top + side, left : left + side]).resize((size, size), Image.Resampling.BILINEAR)
                crop.save(target / f"{number:04d}.png")
    return folder


def compressed(algorithm: str, source: Path, options: dict[str, Any], settings: dict[str, Any], context: StageContext) -> dict[str, Any]:
    """Train, package and compress; everything that was measured, and the artifacts."""
    from algorithms.catalog import find_algorithm
    from tasks.compress import TABLE_FILE, CompressSettings, compress
    from tasks.package import package, read_json
    from tasks.train import train

    data = import_source(context.store, str(source), source.name)
    config = find_algorithm(algorithm).config(options).model_dump(mode="json")
    begin = time.monotonic()
    trained = train(algorithm, config, data, name=source.name, context=context)
    packaged = package(algorithm, config, data, trained, {}, context=context)
    middle = time.monotonic()
    done = compress(algorithm, config, data, trained, packaged, CompressSettings(**settings), context=context)
    assert done.table is not None
    print(
        f"\n{algorithm} on {source.name}: trained and packaged in {middle - begin:.0f} s, compressed in {time.monotonic() - middle:.0f} s"
    )
    table = read_json(context, done.table, TABLE_FILE)
    show(table)
    return {"table": table, "shipped": done.package, "trained": trained.artifact, "data": data, "config": config, "algorithm": algorithm}


def show(table: dict[str, Any]) -> None:
    """The table on the terminal; latencies are medians and 95th percentiles of one sample, and of a batch of 32."""
    print(
        f"{'':16}{'valid':>8}{'MB':>9}{'p50 ms':>9}{'p95 ms':>9}{'speed':>7}{'32: ms':>9}{'speed':>7}{'M MACs':>9}{'k param':>9}  outcome"
    )
    for row in table["rows"]:
        if row["failure"]:
            print(f"{row['name']:16}{'':74} failed: {row['failure']}")
            continue
        one, many = row["speed"]["1"], row["speed"]["32"]
        macs = f"{row['macs'] / 1e6:9.2f}" if row["macs"] else f"{'-':>9}"
        print(
            f"{row['name']:16}{row['metric']:8.4f}{row['size_bytes'] / 1e6:9.3f}{one['p50_ms']:9.3f}{one['p95_ms']:9.3f}{one['speedup']:7.2f}"
            f"{many['p50_ms']:9.3f}{many['speedup']:7.2f}{macs}{row['num_parameters'] / 1e3:9.1f}  {row['status']}: {row['why']}"
        )
    print(f"shipped: {table['reason']}")
    print(f"test {table['metric']}: fp32 {table['test']['fp32']:.4f}, shipped {table['test']['shipped']:.4f}")


def claim(words: str, holds: bool) -> None:
    print(f"  {'holds' if holds else 'DOES NOT HOLD'}: {words}")


def digits(folder: Path, context: StageContext) -> None:
    from infra.datasets.digits import write_digits

    found = compressed("image-classification/small-cnn", write_digits(folder / "digits"), {}, {"mode": "auto"}, context)["table"]
    rows = {row["name"]: row for row in found["rows"]}
    chosen, base = rows[found["chosen"]], rows["fp32"]
    test = found["test"]
    claim(f"test accuracy {test['shipped']:.4f}, wanted 0.985", test["shipped"] >= 0.985)
    claim(f"{test['fp32'] - test['shipped']:+.4f} lost against fp32, allowed 0.01", test["fp32"] - test["shipped"] <= 0.01)
    claim(f"{base['size_bytes'] / chosen['size_bytes']:.2f} times smaller, wanted 3", base["size_bytes"] / chosen["size_bytes"] >= 3)
    claim(f"{chosen['speed']['1']['speedup']:.2f} times faster for one sample, wanted 2", chosen["speed"]["1"]["speedup"] >= 2)


def resnet18(folder: Path, context: StageContext, rounds: int) -> None:
    options = {"image_size": 96, "epochs": 12, "learning_rate": 1e-3, "ema_decay": 0.0}
    crops = folder / "crops"
    found = compressed("image-classification/resnet18", crops if crops.exists() else write_crops(crops), options, {"mode": "auto"}, context)
    table = found["table"]
    ratio, torch_ms, onnx_ms = against_torch(found, context, rounds)
    print(f"one picture: torch eager fp32 {torch_ms:.2f} ms, shipped {onnx_ms:.2f} ms")
    claim(f"{ratio:.2f} times less latency than torch eager fp32, wanted 4", ratio >= 4)
    lost = table["test"]["fp32"] - table["test"]["shipped"]
    claim(f"{lost:+.4f} of test accuracy lost against fp32, allowed 0.01", lost <= 0.01)


def slower(folder: Path, context: StageContext) -> None:
    crops = folder / "crops"
    options = {"image_size": 96, "epochs": 1, "warmup_epochs": 0.0}
    settings = {"mode": "quantize", "max_accuracy_loss": 1.0}
    source = crops if crops.exists() else write_crops(crops)
    table = compressed("image-classification/efficientnet-b0", source, options, settings, context)["table"]
    int8 = next(row for row in table["rows"] if row["name"] == "int8")
    is_slower = int8["speed"]["1"]["speedup"] <= 1
    claim(
        f"int8 has {int8['speed']['1']['speedup']:.2f} times the speed of fp32; shipped is {table['chosen']}",
        is_slower == (table["chosen"] == "fp32"),
    )


def against_torch(found: dict[str, Any], context: StageContext, rounds: int) -> tuple[float, float, float]:
    """Median over paired rounds of torch eager's latency over the shipped package's, and both medians in ms."""
    sides = []
    for kind in ("torch", "onnx"):
        spec = {
            "kind": kind,
            "workspace": context.settings.workspace_uri,
            "algorithm": found["algorithm"],
            "config": found["config"],
            "data": found["data"].model_dump(mode="json"),
            "artifact": (found["trained"] if kind == "torch" else found["shipped"]).model_dump(mode="json"),
            "threads": context.settings.slots,
        }
        sides.append(
            subprocess.Popen(
                [sys.executable, __file__, "--side", json.dumps(spec)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        )
    medians: list[list[float]] = [[], []]
    for number in range(rounds):
        for side in (0, 1) if number % 2 else (1, 0):
            medians[side].append(_turn(sides[side]))
    for process in sides:
        process.communicate()
    ratio = statistics.median(one / other for one, other in zip(*medians, strict=True))
    return ratio, statistics.median(medians[0]) * 1e3, statistics.median(medians[1]) * 1e3


def _turn(side: subprocess.Popen[str]) -> float:
    assert side.stdin is not None
    assert side.stdout is not None
    side.stdin.write("go\n")
    side.stdin.flush()
    return float(side.stdout.readline())


def run_side(spec: dict[str, Any]) -> None:
    """Answer every line with the median seconds of ten runs on one picture; threads that wait actively rest before the other side's turn."""
    from algorithms.catalog import find_algorithm
    from algorithms.run import Run, RunSpec
    from infra.artifacts import Artifact, fetch
    from infra.collectives import LocalCollectives
    from infra.datasets.card import DatasetRef
    from infra.datasets.dataset import open_dataset
    from infra.store import open_store

    store = open_store(spec["workspace"])
    cache = load_settings().cache_path
    folder = fetch(store, Artifact(**spec["artifact"]), cache)
    algorithm: Any = find_algorithm(spec["algorithm"])
    config = algorithm.config(spec["config"])
    picture = np.random.default_rng(0).integers(0, 255, (1, config.image_size, config.image_size, 3), dtype=np.uint8)
    if spec["kind"] == "torch":
        import torch

        from algorithms.engines.torch_verbs import load_trained

        torch.set_num_threads(spec["threads"])
        ref = DatasetRef(**spec["data"])
        run_spec = RunSpec(verb="evaluate", algorithm=algorithm.name, dataset=ref, workspace=spec["workspace"], output="none")
        run = Run(run_spec, store, LocalCollectives(), folder, folder, folder)
        trained = load_trained(algorithm.engine, config, open_dataset(store, ref, cache), run, splits=("test",))
        trained.module.to(memory_format=torch.channels_last)

        def predict() -> None:
            trained.predict(picture)
    else:
        from algorithms.package import Package

        package = Package.load(folder, providers=["CPUExecutionProvider"], threads=spec["threads"])

        def predict() -> None:
            package.session.run([package.output], {"image": picture})

    for _ in range(5):
        predict()
    for _ in sys.stdin:
        times = []
        for _ in range(10):
            begin = time.perf_counter()
            predict()
            times.append(time.perf_counter() - begin)
        time.sleep(0.1)
        print(statistics.median(times), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="digits,resnet18,slower")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        run_side(json.loads(arguments.side))
        return
    print(", ".join(f"{name} {version(name)}" for name in ("torch", "onnxruntime-gpu", "torch-pruning")))
    with tempfile.TemporaryDirectory(prefix="atelier-bench-") as name:
        folder = Path(name)
        settings = Settings(workspace=str(folder / "workspace"))
        with StageContext.open(settings, print_log) as context:
            for part in arguments.parts.split(","):
                if part == "digits":
                    digits(folder, context)
                elif part == "resnet18":
                    resnet18(folder, context, arguments.rounds)
                elif part == "slower":
                    slower(folder, context)
                else:
                    parser.error(f"no part {part!r}")


def print_log(event: dict[str, Any]) -> None:
    if event.get("kind") == "log":
        print(f"  {event['message']}", flush=True)


if __name__ == "__main__":
    main()
