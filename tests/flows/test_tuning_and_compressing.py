"""``tune`` and ``compress`` for real, and a package key: no model leaves a run in the plain, and a run again finds all it did."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from algorithms._package_sealing import find_key
from algorithms.package import Package
from flows import compress, pipeline, tune
from flows.stages import is_intact
from infra.artifacts import find, publish
from infra.context import StageContext
from infra.errors import InvalidOptionError, ModelNotFoundError
from infra.registry import Registry
from infra.settings import load_settings
from infra.store import open_store
from tasks.sealing import sealed_in_store
from tests.packages import write_sums

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
ROW = {"size": 1.5, "count": 2, "new": True, "made": None, "kind": "big"}


def plain_models(workspace: Path) -> list[str]:
    return sorted(str(path.relative_to(workspace)) for path in workspace.rglob("model.onnx"))


def test_found_options_train_a_model_and_it_is_made_small_as_a_version_of_its_own(
    shared_services: Path, few_digits: Path, prefect_api: str, package_key: str
) -> None:
    data: dict[str, Any] = {"algorithm": "image-classification/small-cnn", "data": str(few_digits)}
    found = tune(**data, name="searched", trials=2, options={"epochs": 2, "image_size": 8}, space={"learning_rate": "0.001..0.01 log"})
    assert (found.trials["number"], found.metric) == (2, "accuracy")
    assert 0.001 <= found.best_parameters["learning_rate"] <= 0.01
    assert "epochs" not in found.best_parameters, "it was set by hand"
    assert [stage.name for stage in found.stages] == ["import", "validate", "tune"]
    study = json.loads(Path(found.artifact).read_text())
    assert study["best"] == found.trials["best_trial"]
    assert found.options["learning_rate"] == found.best_parameters["learning_rate"]

    first = pipeline(**data, name="small", options=found.options)
    assert first.version == 1
    assert {stage.name: stage.state for stage in first.stages}["validate"] == "cached"

    # fp32 has twice that size, so int8 is taken, be it faster on this processor or not.
    budget: dict[str, Any] = {"max_accuracy_loss": 1.0, "max_size_mb": 0.6}
    made = compress(model="small", mode="quantize", **budget)
    assert (made.source, made.version, made.aliases) == (1, 2, ["challenger"])
    sizes = {row["name"]: row["size_bytes"] for row in made.compression["rows"]}
    assert sizes[made.chosen] < sizes["fp32"]
    settings = load_settings()
    registry = Registry(settings, open_store(settings.workspace_uri))
    version = registry.get("small@challenger")
    assert version.tags["compressed_from"] == "small/1"
    event = registry.history("small")[-1]
    assert (event.version, event.compared["by"]) == (2, "compress")
    assert "accuracy" in Package.load(registry.package_folder(version)).metrics

    assert find_key() is not None
    assert plain_models(shared_services) == [], "with a key no package lies in the plain, neither in the registry nor in a run"
    shown = {artifact["key"] for artifact in httpx.post(f"{prefect_api}/artifacts/filter", json={"limit": 200}, timeout=10).json()}
    assert {"searched-tune", "searched-trials", "small-compress", "small-candidates"} <= shown

    again = pipeline(**data, name="small", options=found.options)
    assert {stage.state for stage in again.stages} == {"cached"}
    twice = compress(model="small/1", mode="quantize", **budget)
    assert (twice.version, {stage.state for stage in twice.stages}) == (2, {"cached"})


def test_a_package_of_before_there_was_a_key_is_sealed_where_it_lies(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with StageContext.open() as context:
        plain = publish(context.store, write_sums(tmp_path / "package"), "runs/x/package-1", "export")
        assert is_intact(context, plain)
        assert sealed_in_store(plain, context) == plain, "without a key nothing changes"
        expected = Package.load(workspace / plain.key).predict([ROW])
        monkeypatch.setenv("ATELIER_PACKAGE_KEY", base64.b64encode(b"k" * 32).decode())
        assert not is_intact(context, plain), "so the stage is done again"
        sealed = sealed_in_store(plain, context)
        assert find(context.store, plain.key) == sealed != plain
        assert plain_models(workspace) == []
        assert is_intact(context, sealed)
        assert sealed_in_store(sealed, context) == sealed
        assert Package.load(workspace / plain.key).predict([ROW]) == expected


def test_what_cannot_be_compressed_says_why(shared_services: Path) -> None:
    with pytest.raises(ModelNotFoundError):
        compress(model="nobody")
    with pytest.raises(InvalidOptionError, match="mode"):
        compress(model="nobody", mode="none")
    with pytest.raises(InvalidOptionError, match="max_size_mb"):
        compress(model="nobody", max_size_mb=-1)
