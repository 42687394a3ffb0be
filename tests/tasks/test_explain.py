"""The stage: a real package is explained by a process on a real cluster, and drawn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest

from algorithms.catalog import find_algorithm
from infra.context import StageContext
from infra.datasets.importer import import_source
from tasks._card.explain import explain_section
from tasks.evaluate import evaluate
from tasks.explain import Explained, explain
from tasks.package import package, read_json
from tasks.train import train
from tests.runs import QUICK

if TYPE_CHECKING:
    from distributed import Client

ALGORITHM = "image-classification/small-cnn"


@pytest.mark.slow
def test_a_package_is_explained_once(cluster: Client, workspace: Path, few_digits: Path) -> None:
    events: list[dict[str, Any]] = []
    with StageContext.open(report=events.append) as context:
        context.use_cluster(cluster)
        data = import_source(context.store, str(few_digits), "few-digits")
        config = find_algorithm(ALGORITHM).config(QUICK).model_dump(mode="json")
        trained = train(ALGORITHM, config, data, name="few", context=context)
        evaluation = evaluate(ALGORITHM, config, data, trained, context=context)
        shipped = package(ALGORITHM, config, data, trained, {"dataset": data.digest}, context=context)
        found = explain(ALGORITHM, config, data, trained, evaluation, shipped, context=context)
        assert isinstance(found, Explained)
        figures = read_json(context, found.artifact, "explain.json")
        assert [advice.model_dump() for advice in found.advice] == figures["advice"]
        assert figures["metrics"]["package"]["accuracy"] == read_json(context, shipped, "package.json")["metrics"]["accuracy"]
        folder = context.store.local_path(found.artifact.key)
        assert folder is not None
        said = pq.read_table(folder / "predictions.parquet").to_pylist()
        assert len(said) == figures["samples"]["test"]["used"]
        hits = sum(row["label"] == row["prediction"] for row in said) / len(said)
        assert hits == pytest.approx(figures["metrics"]["package"]["accuracy"])
        page = explain_section(figures, lambda name: (folder / name).read_bytes())
        assert page.count("data:image/png;base64,") >= 2 * len(figures["worst"])
        num_events = len(events)
        assert explain(ALGORITHM, config, data, trained, evaluation, shipped, context=context) == found
        assert len(events) == num_events, "the second time it is there already"
        assert Explained.model_validate(json.loads(found.model_dump_json())) == found
