"""The verbs ``compress`` and ``measure``: they work on packages, so they are the same for every engine."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from algorithms._package_format import MODEL_FILE, SEALED_FILE, read_description, write_description
from algorithms._package_judge import judge
from algorithms._package_sealing import plain_model
from algorithms.compression import graphs
from algorithms.compression.calibration import Feeds, calibration_feeds, feeds
from algorithms.compression.halving import to_half
from algorithms.compression.quantizing import Quantized, quantize_dynamic, quantize_static
from algorithms.compression.recipes import Recipe
from algorithms.metrics import primary_metric
from algorithms.package import Package
from algorithms.run import Run
from algorithms.spec import Config
from infra.artifacts import Artifact, fetch
from infra.datasets.dataset import Dataset
from infra.errors import CompressionError
from infra.settings import load_settings

RESULT_FILE = "candidate.json"
LATENCY_FILE = "latency.json"
BATCH_SIZES = (1, 32)
_PARITY_SAMPLES = 512
_LIMIT_S = 20.0


class CompressVariant(BaseModel):
    """The ``variant`` of a ``compress``: ``model`` is the package to start from, ``reference`` the fp32 package to compare with.

    A candidate is judged on the validation split (``candidate.json``); to ship one, a second ``compress`` judges it on the test split.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: Recipe
    ship: bool = False


class MeasureVariant(BaseModel):
    """The ``variant`` of a ``measure``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    packages: dict[str, Artifact] = Field(description="By name, fp32 first.")


def compress(config: Config, data: Dataset, run: Run) -> None:
    """Leave a package in ``run.output_dir``: the model of ``run.model_dir`` in another number format, judged.

    A candidate that cannot be made leaves only ``candidate.json`` with its ``failure``: it is finished, too.
    """
    variant = CompressVariant.model_validate(run.spec.variant)
    assert run.model_dir is not None, "a package is compressed"
    if variant.ship:
        _ship(data, run)
        return
    recipe = variant.recipe
    run.report({"kind": "progress", "phase": f"compress {recipe.name}"})
    try:
        result = _make_candidate(recipe, config, data, run)
    except CompressionError as error:
        shutil.rmtree(run.output_dir)
        run.output_dir.mkdir()
        result = {"name": recipe.name, "failure": str(error)}
    # Beside the package, not part of it: package.json lists its files already.
    (run.output_dir / RESULT_FILE).write_text(json.dumps(result, indent=1, allow_nan=False))


def _make_candidate(recipe: Recipe, config: Config, data: Dataset, run: Run) -> dict[str, Any]:
    """Write the package; returns what was found out about it."""
    assert run.model_dir is not None, "a package is compressed"
    assert run.reference_dir is not None, "a compressed package is compared with another"
    made = _convert(recipe, config, data, run)
    folder = run.output_dir
    _copy_package(run.model_dir, folder)
    (folder / MODEL_FILE).write_bytes(made.model)
    parity = _parity(Package.load(run.reference_dir, threads=run.spec.threads), _reopened(folder, {}, run), data, config.seed)
    done = describe(recipe, made.facts)
    compression = {"recipe": recipe.model_dump(mode="json", exclude_defaults=True), "done": done, **made.facts}
    candidate = _reopened(folder, {"compression": compression, "parity": parity, "metrics": {}}, run)
    metric = primary_metric(candidate.task)[0]
    judged = judge(candidate, data, "valid")
    return {
        "name": recipe.name,
        "done": done,
        "metric_name": metric,
        "metric": judged[metric],
        "num_samples": judged["num_samples"],
        "size_bytes": len(made.model),
        "parity": parity,
        **graphs.weigh(plain_model(run.model_dir)),
    }


def _convert(recipe: Recipe, config: Config, data: Dataset, run: Run) -> Quantized:
    assert run.model_dir is not None
    model = plain_model(run.model_dir)
    if recipe.quantize == "static":
        package = Package.load(run.model_dir, providers=["CPUExecutionProvider"], threads=run.spec.threads)
        return quantize_static(model, calibration_feeds(package, data, config.seed), package.output)
    if recipe.quantize == "dynamic":
        return quantize_dynamic(model)
    return to_half(model) if recipe.quantize == "fp16" else Quantized(model)


def describe(recipe: Recipe, facts: dict[str, Any]) -> str:
    """What was done, in words."""
    words = []
    kept = 1.0
    for tuning in recipe.tunings:
        kept *= 1 - tuning.prune
    if kept < 1:
        steps = sum(tuning.prune > 0 for tuning in recipe.tunings)
        words.append(f"at least {1 - kept:.0%} of the channels pruned in {steps} step{'s' if steps > 1 else ''}, trained on after each")
    for tuning in recipe.tunings:
        if tuning.student:
            options = ", ".join(f"{name} {value}" for name, value in tuning.student.items())
            words.append(f"a smaller model ({options})" + (" taught by the trained one" if tuning.distill else ", trained anew"))
        if tuning.trees < 1:
            words.append(f"the first {tuning.trees:.0%} of the trees")
        if tuning.quantization_aware:
            words.append("trained on with rounded numbers")
    if recipe.quantize == "static":
        left = facts.get("left_in_float", [])
        words.append("int8, calibrated" + (f", {len(left)} of {facts['layers']} layers left in float" if left else ""))
    elif recipe.quantize != "none":
        words.append({"dynamic": "int8 weights, dynamic activations", "fp16": "float16"}[recipe.quantize])
    return "; ".join(words) or "as it was exported"


def _copy_package(source: Path, target: Path) -> None:
    """A copy to work on, which is never sealed; whoever publishes it seals it again."""
    description = read_description(source)
    for name in description["files"]:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        if name == SEALED_FILE:
            (target / MODEL_FILE).write_bytes(plain_model(source))
        else:
            shutil.copyfile(source / name, target / name)
    write_description(target, {name: value for name, value in description.items() if name not in ("files", "sealed")})


def _reopened(folder: Path, changes: dict[str, Any], run: Run) -> Package:
    """The package with other things in ``package.json``, and its files counted anew."""
    write_description(folder, {**read_description(folder), **changes})
    return Package.load(folder, threads=run.spec.threads)


def _parity(reference: Package, candidate: Package, data: Dataset, seed: int) -> dict[str, Any]:
    """How far the candidate is from fp32 on validation samples: largest difference, and of classes the share of equal labels."""
    wanted, found = [], []
    for batch in feeds(reference, data, "valid", _PARITY_SAMPLES, seed):
        wanted.append(reference.session.run([reference.output], batch)[0])
        found.append(candidate.session.run([candidate.output], batch)[0])
    one, other = np.concatenate(wanted), np.concatenate(found)
    if not np.isfinite(other).all():
        raise CompressionError("compress", "the outputs are not finite: numbers left the range of the format")
    parity: dict[str, Any] = {"samples": len(one), "largest_difference": float(np.abs(one - other).max())}
    if reference.output == "scores":
        parity["agreement"] = float((one.argmax(axis=1) == other.argmax(axis=1)).mean())
    return parity


def _ship(data: Dataset, run: Run) -> None:
    """The package of a candidate with its metrics on the test split."""
    assert run.model_dir is not None
    _copy_package(run.model_dir, run.output_dir)
    run.report({"kind": "progress", "phase": "judge package"})
    judged = judge(Package.load(run.output_dir, threads=run.spec.threads), data, "test")
    _reopened(run.output_dir, {"metrics": judged}, run)


def measure(config: Config, data: Dataset, run: Run) -> None:
    """Leave ``latency.json``: how fast each package is on this host, with as many threads as it will be served with."""
    variant = MeasureVariant.model_validate(run.spec.variant)
    folders = {name: str(fetch(run.store, artifact, load_settings().cache_path)) for name, artifact in variant.packages.items()}
    run.report({"kind": "progress", "phase": "measure latency"})
    package = Package.load(next(iter(folders.values())), threads=1, verify=False)
    inputs = run.scratch_dir / "inputs.npz"
    batches = list(feeds(package, data, "valid", max(BATCH_SIZES), config.seed))
    largest: Feeds = max(batches, key=lambda batch: len(next(iter(batch.values()))))
    # Texts as numpy's own type: objects would need pickle.
    np.savez(inputs, **{name: values.astype(str) if values.dtype == object else values for name, values in largest.items()})  # type: ignore[arg-type]
    spec = {
        "packages": folders,
        "inputs": str(inputs),
        "batch_sizes": list(BATCH_SIZES),
        "threads": run.spec.threads,
        "limit_s": _LIMIT_S,
        "output": str(run.output_dir / LATENCY_FILE),
    }
    path = run.scratch_dir / "latency-spec.json"
    path.write_text(json.dumps(spec))
    done = subprocess.run([sys.executable, "-m", "algorithms.compression.latency", str(path)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CompressionError("measure", f"the process that measures latency ended with status {done.returncode}: {done.stderr[-2000:]}")
