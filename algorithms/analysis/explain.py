"""The verb ``explain``: looks at a package from many sides and leaves ``explain.json``, pictures, and ``timing.json``.

The package is asked through onnxruntime, whatever it was compressed to; only saliency needs the trained network itself. Large splits are looked at
through a sample chosen by the seed (``LIMITS``), and the document says so. Times are in a file of their own: the same inputs and seed give
the same ``explain.json``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from algorithms.analysis import classes, examples, scored, tabular
from algorithms.analysis.advice import give_advice
from algorithms.analysis.intervals import regression_intervals
from algorithms.analysis.rules_training import summarise_history
from algorithms.analysis.scored import Scored
from algorithms.analysis.slices import cut, judge_slices, judge_slices_of_numbers
from algorithms.metrics import primary_metric
from algorithms.package import Package

if TYPE_CHECKING:
    from algorithms.run import Run
    from algorithms.spec import Algorithm, Config
    from infra.datasets.dataset import Dataset

FORMAT = 1
PREDICTIONS = "predictions.parquet"
LIMITS = {"image": {"test": 2000, "valid": 1000}, "table": {"test": 20_000, "valid": 10_000}}
MOST_SLICES = 40


@dataclass
class Clock:
    """Seconds of each analysis, told as they begin."""

    run: Run
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def time(self, name: str) -> Iterator[None]:
        self.run.report({"kind": "progress", "phase": f"explain: {name}"})
        begin = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - begin, 3)

    def sentence(self) -> str:
        parts = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in self.seconds.items())
        return f"The model was explained in {sum(self.seconds.values()):.1f} s: {parts}."


@dataclass(frozen=True)
class Looked:
    """What is looked at: the package, and what it says about the samples of the test and the valid split."""

    algorithm: Algorithm
    config: Config
    data: Dataset
    package: Package
    places: dict[str, NDArray[np.int64]]
    splits: dict[str, Scored]

    @property
    def seed(self) -> int:
        return self.config.seed

    @property
    def is_class(self) -> bool:
        return self.package.output == "scores"

    @property
    def test(self) -> Scored:
        return self.splits["test"]

    @property
    def hits(self) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = self.test.outputs.argmax(axis=1) == self.test.truth
        return found


def explain(algorithm: Algorithm, config: Config, data: Dataset, run: Run) -> None:
    """Explain the package of ``run.inputs["package"]``.

    Args:
        run: its model is the trained one, its inputs ``package``, ``evaluation`` and, if there is one, ``validation`` (the artifacts of these stages).
    """
    if not run.is_main:
        return
    clock = Clock(run)
    with clock.time("scores"):
        looked = _look(algorithm, config, data, run)
    write_answers(run.output_dir / PREDICTIONS, looked)
    figures: dict[str, Any] = {"format": FORMAT, **_facts(looked, run)}
    with clock.time("intervals"):
        figures["intervals"] = classes.intervals(looked) if looked.is_class else _regression_intervals(looked)
    if looked.is_class:
        with clock.time("calibration and curves"):
            figures |= classes.calibration_and_curves(looked)
        with clock.time("labels"):
            figures["label_errors"] = classes.label_errors(looked)
    with clock.time("slices"):
        figures["slices"] = _slices(looked)
    with clock.time("robustness"):
        figures["robustness"] = examples.robustness(looked) if looked.package.is_image else tabular.robustness(looked)
    if not looked.package.is_image:
        with clock.time("permutation importance"):
            figures["importance"] = {"permutation": tabular.permutation(looked)}
        with clock.time("shap"):
            figures["importance"]["shap"] = tabular.shap_values(looked)
    with clock.time("examples"):
        figures["worst"] = examples.worst(looked, [entry["column"] for entry in figures.get("importance", {}).get("permutation", [])])
        if looked.package.is_image:
            figures["saliency"] = examples.draw_pictures(looked, figures, run)
    figures["advice"] = [advice.model_dump() for advice in give_advice(figures)]
    _write(run.output_dir / "explain.json", figures)
    _write(run.output_dir / "timing.json", clock.seconds)
    run.report({"kind": "log", "message": clock.sentence()})


def write_answers(path: Path, looked: Looked) -> None:
    """What the package says about the test samples that were looked at, as ``predictions.parquet`` of an evaluation."""
    test = looked.test
    if looked.is_class:
        names = np.asarray(looked.package.labels, dtype=object)
        columns = {
            "label": pa.array(names[test.truth], pa.string()),
            "prediction": pa.array(names[test.outputs.argmax(axis=1)], pa.string()),
            "scores": pa.array(list(test.outputs.astype(np.float32)), pa.list_(pa.float32())),
        }
    else:
        columns = {"label": pa.array(test.truth.astype(np.float64)), "prediction": pa.array(test.outputs.astype(np.float64))}
    pq.write_table(pa.table({"id": pa.array(test.ids, pa.string()), **columns}), path)


def _look(algorithm: Algorithm, config: Config, data: Dataset, run: Run) -> Looked:
    package = Package.load(run.inputs["package"], threads=run.spec.threads, verify=False)
    places, splits = {}, {}
    for split, most in LIMITS["image" if package.is_image else "table"].items():
        num_rows = 0 if split == "valid" and algorithm.learns_from_valid else data.num_rows(split)
        places[split] = scored.choose(num_rows, most, config.seed)
        score = scored.score_pictures if package.is_image else scored.score_rows
        splits[split] = score(package, data, split, places[split])
    return Looked(algorithm, config, data, package, places, splits)


def _facts(looked: Looked, run: Run) -> dict[str, Any]:
    """What the stages before found out, as far as it belongs here."""
    assert run.model_dir is not None, "the trained model is explained"
    description, card = looked.package.description, looked.data.card
    trained = json.loads((run.inputs["evaluation"] / "metrics.json").read_text())
    name, higher = primary_metric(looked.algorithm.task)
    report = run.inputs["validation"] / "report.json" if "validation" in run.inputs else None
    return {
        "algorithm": looked.algorithm.name,
        "kind": card.kind,
        "metric": {"name": name, "higher_is_better": higher},
        "classes": looked.package.labels,
        "data": {"num_rows": dict(card.num_rows), "train_counts": card.counts.get("train", {}) if looked.package.labels else {}},
        "samples": {split: {"used": len(one), "total": one.total, "seed": looked.seed} for split, one in looked.splits.items()},
        "metrics": {"package": _scalars(description["metrics"]), "trained": _scalars(trained)},
        "confused": classes.confused_pairs(description["metrics"]),
        "training": summarise_history(json.loads((run.model_dir / "history.json").read_text())),
        "leaks": {"columns": _leaking_columns(looked.package, json.loads(report.read_text()) if report else {})},
    }


def _scalars(metrics: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if isinstance(value, int | float)}


def _leaking_columns(package: Package, report: dict[str, Any]) -> list[str]:
    """Columns that the model takes and of which validation says that they tell the target by themselves."""
    used = {name for name, _ in package.columns}
    rows = report.get("summary", {}).get("columns", [])
    return [row["column"] for row in rows if row["column"] in used and (row.get("equals_target") or row.get("determines_target"))]


def _regression_intervals(looked: Looked) -> dict[str, Any]:
    return dict(regression_intervals(looked.test.truth, looked.test.outputs, looked.seed))


def _slices(looked: Looked) -> list[dict[str, Any]]:
    slices = list(cut(looked.test.properties))
    if looked.is_class:
        judged = judge_slices(slices, looked.hits)
    else:
        judged = judge_slices_of_numbers(slices, np.asarray(looked.test.outputs, np.float64) - looked.test.truth)
    return sorted(judged, key=lambda entry: not entry["worse"])[:MOST_SLICES]


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")
