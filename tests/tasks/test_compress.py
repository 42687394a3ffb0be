"""Compression as a stage: real training, packages, ranks, onnxruntime and latencies."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from algorithms.catalog import find_algorithm
from algorithms.package import Package
from algorithms.run import execute
from infra.artifacts import fetch
from infra.collectives import LocalCollectives
from infra.context import StageContext
from infra.datasets.card import DatasetRef
from infra.datasets.importer import import_source
from infra.errors import BudgetNotMetError, RankFailedError
from infra.settings import load_settings
from tasks.compress import TABLE_FILE, CompressSettings, compress
from tasks.package import package, read_json
from tasks.train import Trained, train

if TYPE_CHECKING:
    from distributed import Client

SMALL_CNN = "image-classification/small-cnn"
QUICK = {"epochs": 4, "image_size": 8, "width": 1.0}


class Recording(StageContext):
    """Ranks in this process; what was started is written down, and it can break down at one of them."""

    started: list[tuple[str, str]]
    break_at: int
    killed_at: int

    def launch_ranks(
        self,
        spec: Any,
        *,
        num_ranks: int,
        on_event: Callable[[dict[str, Any]], None],
        preload: Sequence[str] = (),
        rank_preload: Sequence[str] | None = None,
        output: str = "",
    ) -> None:
        self.started = [*getattr(self, "started", []), (spec.verb, spec.output.rsplit("/", 1)[1])]
        if len(self.started) == getattr(self, "break_at", 0):
            raise KeyboardInterrupt
        if len(self.started) == getattr(self, "killed_at", 0):
            raise RankFailedError(0, -9, "")
        execute(spec, LocalCollectives(), on_event)


@pytest.fixture
def context(workspace: Path) -> Iterator[Recording]:
    with Recording.open(load_settings()) as opened:
        assert isinstance(opened, Recording)
        yield opened


@pytest.fixture
def on_cluster(workspace: Path, cluster: Client) -> Iterator[StageContext]:
    """Ranks as processes on the cluster."""
    with StageContext.open(load_settings()) as opened:
        opened.use_cluster(cluster)
        yield opened


def prepare(context: StageContext, source: Path, algorithm: str, options: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The arguments of ``compress`` for a model just trained and packaged."""
    data: DatasetRef = import_source(context.store, str(source), "data", **more)
    config = find_algorithm(algorithm).config(options).model_dump(mode="json")
    trained: Trained = train(algorithm, config, data, name="model", context=context)
    packaged = package(algorithm, config, data, trained, {"source": str(source)}, context=context)
    return {"algorithm": algorithm, "config": config, "data": data, "trained": trained, "package": packaged}


def test_a_network_is_compressed_in_every_way_resumed_and_refused(context: Recording, few_digits: Path) -> None:
    inputs = prepare(context, few_digits, SMALL_CNN, {**QUICK, "epochs": 10})
    none = compress(**inputs, settings=CompressSettings(), context=context)
    assert (none.package, none.chosen, none.table) == (inputs["package"], "fp32", None)

    # Broken off while a pruned network is trained, then taken up: what was finished is not made again.
    settings = CompressSettings(mode="auto", max_accuracy_loss=0.9)  # so that all the pruning is tried
    context.started, context.break_at = [], 4
    with pytest.raises(KeyboardInterrupt):
        compress(**inputs, settings=settings, context=context)
    broken = context.started
    context.started, context.break_at = [], 0
    done = compress(**inputs, settings=settings, context=context)
    assert set(broken[:-1]).isdisjoint(context.started)
    assert context.started[0] == broken[-1]
    assert len(context.started) == len(set(context.started))

    assert done.table is not None
    table = read_json(context, done.table, TABLE_FILE)
    rows = {row["name"]: row for row in table["rows"]}
    assert {"fp32", "int8", "prune-50", "prune-50-int8", "prune-70", "prune-70-int8"} == set(rows)
    assert not [row["failure"] for row in rows.values() if row["failure"]]
    assert rows["int8"]["size_bytes"] < rows["fp32"]["size_bytes"] / 2.5
    assert rows["prune-50"]["macs"] < rows["fp32"]["macs"] / 2
    assert rows["prune-50"]["num_parameters"] < rows["fp32"]["num_parameters"] / 2
    assert rows["prune-70"]["num_parameters"] < rows["prune-50"]["num_parameters"]
    assert len([output for verb, output in {*broken, *context.started} if verb == "train"]) == 3, "prune-70 goes on from prune-50"
    assert rows["int8"]["agreement"] > 0.9
    for row in rows.values():
        assert 0 < row["speed"]["1"]["p50_ms"] <= row["speed"]["1"]["p95_ms"]
        assert row["speed"]["32"]["samples_per_s"] > 0
    assert rows["fp32"]["speed"]["1"]["speedup"] == 1.0

    folder = fetch(context.store, done.package, load_settings().cache_path)
    shipped = Package.load(folder, providers=["CPUExecutionProvider"])
    assert done.chosen == table["chosen"]
    assert (
        shipped.description["lineage"]
        == Package.load(fetch(context.store, inputs["package"], load_settings().cache_path)).description["lineage"]
    )
    if done.chosen != "fp32":
        assert shipped.description["compression"]["recipe"]["name"] == done.chosen
        assert shipped.description["parity"]["agreement"] > 0.5
        assert shipped.metrics["num_samples"] > 0

    context.started = []
    assert compress(**inputs, settings=settings, context=context) == done
    assert context.started == []

    distilled = compress(**inputs, settings=CompressSettings(mode="distill", max_accuracy_loss=0.9), context=context)
    assert distilled.table is not None
    student = next(row for row in read_json(context, distilled.table, TABLE_FILE)["rows"] if row["name"] == "student")
    assert student["num_parameters"] < rows["fp32"]["num_parameters"] / 2

    # A budget that cannot be met: fp32 and the reason; or an error that says where the table is. No candidate is made again.
    context.started = []
    tight = CompressSettings(mode="quantize", max_latency_ms=1e-6)
    refused = compress(**inputs, settings=tight, context=context)
    assert refused.package == inputs["package"]
    assert "allowed is 1e-06 ms" in refused.reason
    assert not [verb for verb, _ in context.started if verb != "measure"]
    with pytest.raises(BudgetNotMetError, match="latency at most 1e-06 ms"):
        compress(**inputs, settings=tight.model_copy(update={"strict": True}), context=context)


def test_trees_become_fewer(context: Recording, wine_table: Path) -> None:
    inputs = prepare(
        context,
        wine_table,
        "tabular-classification/lightgbm",
        {"target": "kind", "num_rounds": 40, "early_stopping_rounds": 0},
        target="kind",
    )
    done = compress(**inputs, settings=CompressSettings(mode="auto", max_accuracy_loss=0.2), context=context)
    assert done.table is not None
    rows = {row["name"]: row for row in read_json(context, done.table, TABLE_FILE)["rows"]}
    assert set(rows) == {"fp32", "small-trees", "trees-50", "trees-25"}
    assert rows["trees-25"]["num_parameters"] < rows["trees-50"]["num_parameters"] < rows["fp32"]["num_parameters"]
    assert rows["trees-25"]["size_bytes"] < rows["fp32"]["size_bytes"] / 2


def test_a_candidate_that_is_killed_is_told_and_tried_again_by_the_next_call(context: Recording, wine_table: Path) -> None:
    options = {"target": "kind", "num_rounds": 20, "early_stopping_rounds": 0}
    inputs = prepare(context, wine_table, "tabular-classification/lightgbm", options, target="kind")
    settings = CompressSettings(mode="prune", max_accuracy_loss=0.2)
    context.killed_at = len(context.started) + 2  # the first after fp32
    first = compress(**inputs, settings=settings, context=context)
    assert first.table is not None
    failures = {row["name"]: row["failure"] for row in read_json(context, first.table, TABLE_FILE)["rows"]}
    assert "killed by signal 9 (often: out of memory)" in failures["trees-50"]
    assert not failures["fp32"]
    context.killed_at = 0
    again = compress(**inputs, settings=settings, context=context)
    assert again.table is not None
    assert not any(row["failure"] for row in read_json(context, again.table, TABLE_FILE)["rows"])


def test_too_few_training_samples_to_calibrate_are_told(on_cluster: StageContext, tmp_path: Path) -> None:
    source = tmp_path / "tiny.csv"
    source.write_text("a,b,kind\n" + "".join(f"{row},{row % 7},{'xy'[row % 2]}\n" for row in range(40)))
    inputs = prepare(on_cluster, source, "tabular-classification/mlp", {"target": "kind", "epochs": 1, "batch_size": 8}, target="kind")
    done = compress(**inputs, settings=CompressSettings(mode="quantize", max_accuracy_loss=1.0), context=on_cluster)
    assert done.table is not None
    failures = {row["name"]: row["failure"] for row in read_json(on_cluster, done.table, TABLE_FILE)["rows"]}
    assert "at least 32" in failures.pop("int8")
    assert failures == {"fp32": "", "int8-dynamic": ""}
