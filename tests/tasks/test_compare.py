"""Two versions compared: from real runs in a real store, and as a page."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from algorithms.run import RunSpec, execute
from infra.artifacts import Artifact, publish
from infra.collectives import LocalCollectives
from infra.datasets.card import DatasetRef
from infra.datasets.importer import import_source
from infra.registry import ModelVersion
from infra.store import Store, open_store
from tasks._card.compare import render_comparison, verdict
from tasks._card.comparison import Comparison
from tasks.compare import compare, write_page
from tests.browser import CHROMIUM, chromium
from tests.tasks.test_card import OUTSIDE, Page


def make_version(
    store: Store, ref: DatasetRef, number: int, options: dict[str, Any], algorithm: str, *, card: bool = True, explain: bool = False
) -> ModelVersion:
    """A version of ``wine``: trained, judged, exported; and its run card's ``run.json`` as the report stage writes it."""
    from infra.context import StageContext
    from infra.settings import load_settings
    from tasks.report import CardExtras, RunCardInputs, report

    folder = f"runs/r{number}"
    spec: dict[str, Any] = {"algorithm": algorithm, "config": options, "dataset": ref, "workspace": store.uri}
    trained = execute(RunSpec(verb="train", output=f"{folder}/trained", **spec), LocalCollectives())
    assert trained is not None
    evaluation = execute(
        RunSpec(verb="evaluate", output=f"{folder}/evaluation-{trained.digest[:12]}", model=trained, **spec), LocalCollectives()
    )
    package = execute(RunSpec(verb="export", output=f"{folder}/package", model=trained, **spec), LocalCollectives())
    assert evaluation is not None
    assert package is not None
    asked = {"package": package, "evaluation": evaluation}
    to_explain = RunSpec(verb="explain", output=f"{folder}/explain", model=trained, inputs=asked, **spec)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of shap's imports
        explained = execute(to_explain, LocalCollectives()) if explain else None
    described = json.loads((Path(store.uri) / package.key / "package.json").read_text())
    key = f"{folder}/card-wine"
    if card:
        inputs = RunCardInputs(
            run_key=f"r{number}",
            key=key,
            model="wine",
            version=number,
            algorithm=algorithm,
            config=options,
            data=ref,
            source_data=ref,
            trained=trained,
            evaluation=evaluation,
            package=package,
            extras=CardExtras(explained=explained),
        )
        report(inputs, context=StageContext.open(load_settings()))
    figures = {name: value for name, value in described["metrics"].items() if isinstance(value, float)}
    return ModelVersion(
        name="wine",
        version=number,
        algorithm=algorithm,
        dataset=ref.digest,
        metrics=figures,
        created="2026-11-21T08:00:00+00:00",
        package=package,
        run_card=key if card else "",
    )


@pytest.fixture
def store(workspace: Path) -> Store:
    return open_store(str(workspace))


def make_pair(store: Store, wine_table: Path, *, explain: bool = False) -> tuple[ModelVersion, ModelVersion]:
    ref = import_source(store, str(wine_table), "wine", target="kind")
    common = {"target": "kind", "num_rounds": 12, "learning_rate": 0.3, "min_samples_leaf": 5}
    return (
        make_version(
            store, ref, 1, {"target": "kind", "features": "ash,magnesium", "seed": 3}, "tabular-classification/linear", explain=explain
        ),
        make_version(store, ref, 2, common, "tabular-classification/lightgbm", explain=explain),
    )


@pytest.fixture
def pair(store: Store, wine_table: Path) -> tuple[ModelVersion, ModelVersion]:
    return make_pair(store, wine_table)


def test_intervals_are_those_of_the_packages_where_both_runs_were_explained(store: Store, wine_table: Path) -> None:
    first, second = make_pair(store, wine_table, explain=True)
    found = compare(first, second, store=store)
    assert found.of_packages
    assert found.num_paired == 27
    for row in found.metrics:
        if row.first_interval is not None and row.first is not None:
            assert row.first_interval[0] <= row.first <= row.first_interval[1], row.name
    assert "bootstrap of the package's predictions" in render_comparison(found).replace("&#39;", "'")


def test_two_runs_side_by_side(pair: tuple[ModelVersion, ModelVersion], store: Store, tmp_path: Path) -> None:
    found = compare(*pair, store=store)
    assert found.same_test_split
    assert found.num_paired == 27
    accuracy = next(row for row in found.metrics if row.name == "accuracy")
    assert accuracy.difference == pytest.approx(pair[1].metrics["accuracy"] - pair[0].metrics["accuracy"])
    assert accuracy.difference_interval is not None
    assert accuracy.difference_interval[0] <= (accuracy.difference or 0) <= accuracy.difference_interval[1]
    assert accuracy.better == 2
    assert "wine/2 is better" in verdict(found)
    assert found.agreement is not None
    assert found.agreement.both + found.agreement.only_first + found.agreement.only_second + found.agreement.none == 27
    options = {fact.name: (fact.first, fact.second) for fact in found.options}
    assert options["seed"] == ("3", "0")
    assert options["num_rounds"] == ("", "12")
    assert "target" not in options
    assert found.num_same_options > 0
    assert "alcohol" in found.only_second_columns
    assert found.only_first_columns == []
    data = {fact.name: fact for fact in found.data}
    assert not data["Digest"].differs
    assert data["Class barolo"].first == "59"

    write_page(found, tmp_path / "pages" / "compare.html")
    html = (tmp_path / "pages" / "compare.html").read_text()
    page = Page(html)
    assert page.sections == ["metrics", "curves", "models", "data", "options"]
    assert page.open == []
    assert page.num_charts >= 2
    assert set(page.references) <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert OUTSIDE.search(html) is None
    assert render_comparison(Comparison.model_validate_json(found.model_dump_json())) == html
    assert list((tmp_path / "pages").iterdir()) == [tmp_path / "pages" / "compare.html"]


def test_a_card_that_does_not_name_its_evaluation_has_the_only_one_of_its_run(
    pair: tuple[ModelVersion, ModelVersion], store: Store, tmp_path: Path
) -> None:
    folder = tmp_path / "card"
    shutil.copytree(Path(store.uri) / pair[0].run_card, folder, ignore=shutil.ignore_patterns("MANIFEST.json"))
    card = json.loads((folder / "run.json").read_text())
    assert card.pop("evaluation_key").startswith("runs/r1/evaluation-")
    (folder / "run.json").write_text(json.dumps(card))
    earlier: Artifact = publish(store, folder, "runs/r1/card-earlier", "report")
    old = pair[0].model_copy(update={"run_card": earlier.key})
    assert compare(old, pair[1], store=store).num_paired == 27
    shutil.copytree(next(Path(store.uri).glob("runs/r1/evaluation-*")), Path(store.uri) / "runs/r1/evaluation-other")
    assert compare(old, pair[1], store=store).num_paired == 0, "which of the two it was is not known"


def test_a_version_without_a_run_card_is_compared_by_its_package(pair: tuple[ModelVersion, ModelVersion], store: Store) -> None:
    bare = pair[0].model_copy(update={"run_card": "", "dataset": "f" * 64})
    found = compare(bare, pair[1], store=store)
    assert not found.same_test_split
    assert found.num_paired == 0
    assert found.options == []
    assert next(row for row in found.metrics if row.name == "accuracy").difference_interval is None
    assert "different data" in verdict(found)
    assert Page(render_comparison(found)).sections == ["metrics", "curves", "models", "data"]


def test_hostile_names_stay_text_and_compression_is_shown(pair: tuple[ModelVersion, ModelVersion], store: Store, tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    folder = tmp_path / "package"
    shutil.copytree(Path(store.uri) / pair[1].package.key, folder, ignore=shutil.ignore_patterns("MANIFEST.json"))
    described = json.loads((folder / "package.json").read_text())
    described["compression"] = {"recipe": {"name": evil, "quantize": "static"}, "done": "int8"}
    (folder / "package.json").write_text(json.dumps(described))
    smaller: Artifact = publish(store, folder, "runs/r3/package", "export")
    found = compare(pair[0], pair[1].model_copy(update={"package": smaller, "version": 3}), store=store)
    assert {fact.name: fact.second for fact in found.compression} == {"recipe.name": evil, "recipe.quantize": "static", "done": "int8"}
    html = render_comparison(found)
    assert "compression" in Page(html).sections
    assert "<script" not in html


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here")
def test_the_page_looks_like_something_in_a_browser(pair: tuple[ModelVersion, ModelVersion], store: Store, tmp_path: Path) -> None:
    from PIL import Image

    write_page(compare(*pair, store=store), tmp_path / "page.html")
    shot = tmp_path / "shot.png"
    chromium(f"--screenshot={shot}", "--window-size=1100,2400", (tmp_path / "page.html").as_uri(), folder=tmp_path)
    with Image.open(shot) as picture:
        pixels = np.asarray(picture.convert("L"))
    assert pixels.std() > 10
