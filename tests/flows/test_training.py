"""Whole runs, with the real parts: Prefect's API, a Dask cluster of processes, Horovod ranks, Great Expectations, MLflow on SQLite."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import httpx
import pytest

from flows import pipeline
from flows.result import RunResult
from infra.context import StageContext
from infra.registry import Registry
from tests.runs import QUICK

STAGES = ["import", "validate", "train", "evaluate", "package", "explain", "register", "report"]


def states(result: Any) -> dict[str, str]:
    return {stage.name: stage.state for stage in result.stages}


def test_a_picture_run_ends_with_a_champion_and_the_same_run_again_is_all_cached(
    shared_services: Path, few_digits: Path, prefect_api: str
) -> None:
    call: dict[str, Any] = {"algorithm": "image-classification/small-cnn", "data": str(few_digits), "workers": 2, "options": QUICK}
    timeline = shared_services.parent / "timeline.json"
    first = pipeline(**call, profile=True, timeline=str(timeline))

    assert [stage.name for stage in first.stages] == STAGES
    assert set(states(first).values()) == {"completed"}
    assert (first.model, first.version, first.aliases) == ("few-digits", 1, ["champion"])
    assert first.metrics["accuracy"] >= 0.8
    assert first.metrics["accuracy"] == pytest.approx(first.baseline_metrics["accuracy"], abs=1e-9)
    assert first.dataset[:12] in Path(first.run_card).read_text()
    assert "A training step" in Path(first.run_card).read_text()
    assert first.profile is not None
    assert sum(first.profile["parts_ms"].values()) == pytest.approx(first.profile["step_ms"], abs=0.01)
    assert "ALLREDUCE" in timeline.read_text()
    described = json.loads((Path(first.package) / "package.json").read_text())
    assert described["lineage"]["dataset"] == first.dataset
    shown = {artifact["key"] for artifact in httpx.post(f"{prefect_api}/artifacts/filter", json={}, timeout=10).json()}
    assert {f"few-digits-{what}" for what in ("data", "progress", "metrics", "result")} <= shown

    second = pipeline(**call, profile=True)
    assert set(states(second).values()) == {"cached"}
    assert (second.version, second.metrics, second.profile) == (1, first.metrics, first.profile)


def test_options_are_searched_and_the_model_is_made_small_in_one_run(shared_services: Path, few_digits: Path, prefect_api: str) -> None:
    call: dict[str, Any] = {
        "algorithm": "image-classification/small-cnn",
        "data": str(few_digits),
        "name": "small",
        "workers": 2,
        "options": {"epochs": QUICK["epochs"]},
        "trials": 2,
        "space": {"learning_rate": "0.001..0.01 log"},
        "compress": "quantize",
    }
    first = pipeline(**call)

    assert [stage.name for stage in first.stages] == [*STAGES[:2], "tune", *STAGES[2:5], "compress", *STAGES[5:]]
    assert first.trials is not None
    assert first.trials["number"] == 2
    assert "epochs" not in first.trials["best_parameters"], "it was set by hand"
    assert first.compression is not None
    sizes = {row["name"]: row["size_bytes"] for row in first.compression["rows"]}
    assert sizes["int8"] * 2.5 < sizes["fp32"]
    assert first.compression["chosen"] in sizes
    history = json.loads(next(shared_services.glob("runs/*/trained/history.json")).read_text())
    assert history["world_size"] == 2, "the final training has all the workers that were asked for"
    card = Path(first.run_card).read_text()
    for section in ("augmentation", "tuning", "compression", "explain"):
        assert f'<section id="{section}">' in card
    assert card.index('<section id="advice">') < card.index('<section id="data">'), "what to do next stands on top"
    shown = {artifact["key"] for artifact in httpx.post(f"{prefect_api}/artifacts/filter", json={}, timeout=10).json()}
    assert "small-augmentation" in shown

    second = pipeline(**call)
    assert set(states(second).values()) == {"cached"}
    assert second.compression == first.compression


def test_more_samples_are_a_version_of_their_own(shared_services: Path, wine_table: Path) -> None:
    call: dict[str, Any] = {"algorithm": "tabular-classification/linear", "data": str(wine_table), "options": {"target": "kind"}}
    plain, larger = pipeline(**call), pipeline(**call, expand=2)
    assert states(larger)["augment"] == "completed"
    assert larger.dataset != plain.dataset


def test_a_table_run_goes_through_the_same_flow(shared_services: Path, wine_table: Path) -> None:
    result = pipeline(algorithm="tabular-classification/lightgbm", data=str(wine_table), options={"target": "kind"})

    assert result.metrics["accuracy"] >= 0.85
    assert set(result.metrics["classes"]) == {"barbera", "barolo", "grignolino"}
    with StageContext.open() as context:
        (version,) = Registry(context.settings, context.store).versions("wine")
    assert version.version == 1
    assert list(version.aliases) == ["champion"]


def test_a_cached_result_whose_files_are_gone_is_made_again(shared_services: Path, wine_table: Path) -> None:
    call: dict[str, Any] = {"algorithm": "tabular-classification/linear", "data": str(wine_table), "options": {"target": "kind"}}
    first = pipeline(**call)
    shutil.rmtree(Path(first.package))

    second = pipeline(**call)
    assert states(second)["package"] == "completed"
    assert states(second)["train"] == "cached"
    assert Path(second.package).is_dir()

    weights = next(shared_services.glob("runs/*/trained/MANIFEST.json")).stat().st_mtime_ns
    again = pipeline(**call, fresh=True)
    assert set(states(again).values()) == {"completed"}
    assert next(shared_services.glob("runs/*/trained/MANIFEST.json")).stat().st_mtime_ns > weights, "fresh, but not trained again"


def test_a_worse_model_stays_challenger(shared_services: Path, wine_table: Path) -> None:
    def run(**options: Any) -> RunResult:
        return pipeline(
            algorithm="tabular-classification/random-forest", data=str(wine_table), name="m", options={"target": "kind", **options}
        )

    good, worse = run(num_trees=20), run(num_trees=1, max_depth=1)

    assert good.aliases == ["champion"]
    assert worse.version == 2
    assert worse.aliases == ["challenger"]


def test_a_preset_is_a_flow_whose_parameters_are_its_options(shared_services: Path, wine_table: Path) -> None:
    from prefect.utilities.callables import parameter_schema

    from flows import preset

    flow = preset("tabular-classification/linear")
    schema = parameter_schema(flow).model_dump()
    assert flow.name == "tabular-classification:linear"
    assert {"data", "target", "seed"} <= set(schema["properties"])
    assert set(schema["required"]) == {"data", "target"}
    assert schema["properties"]["seed"]["description"]

    result = flow(data=str(wine_table), target="kind", name="by-preset")
    assert result.model == "by-preset"
