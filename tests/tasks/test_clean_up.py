"""What a clean-up removes, and what it never does."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from deployments.cli import main
from infra.artifacts import publish
from infra.audit import read as read_audit
from infra.context import StageContext
from infra.datasets import names
from infra.datasets.card import Card, DatasetRef, Lineage, Source
from infra.datasets.dataset import CARD
from infra.errors import InvalidOptionError
from infra.events import DATASET_CREATED, emit
from infra.in_use import cleaning, using
from infra.registry import Registry
from infra.settings import Settings, load_settings
from infra.store import Store, open_store
from tasks._retention import NEEDED_BY_RUNS, Item, parse_age, plan
from tasks._stock_of_data import named_or_awaited
from tasks.clean_up import pointed_at, remove, take_stock
from tests.packages import write_sums

NOW, DAY = 1_000_000_000.0, 86_400.0


def item(key: str, days: float, kind: Any = "run", group: str = "runs") -> Item:
    return Item(kind=kind, key=key, group=group, num_bytes=10, written=NOW - days * DAY)


def keys(items: list[Item], **more: Any) -> list[str]:
    values: dict[str, Any] = {"now": NOW, "older_than_s": 30 * DAY, "keep": 0, "protected": set(), "busy": False, **more}
    return [one.key for one in plan(items, **values).remove]


def test_what_is_old_goes_and_what_is_young_stays() -> None:
    assert keys([item("runs/a", 31), item("runs/b", 29), item("runs/c", 30)]) == ["runs/a", "runs/c"]


def test_the_newest_stay_however_old_they_are_in_each_group_by_itself() -> None:
    items = [item(f"captures/{model}/{day}", day, "capture", model) for model in ("m", "n") for day in (40, 50, 60)]
    assert keys(items, keep=2) == ["captures/m/60", "captures/n/60"]
    assert keys(items, keep=3) == []


def test_what_something_points_at_stays() -> None:
    assert keys([item("runs/a", 99), item("runs/b", 99)], protected={"runs/a"}) == ["runs/b"]


@pytest.mark.parametrize("kind", sorted(NEEDED_BY_RUNS))
def test_while_a_run_is_going_nothing_goes_that_it_may_need(kind: Any) -> None:
    assert keys([item("x", 99, kind)], busy=True) == []
    assert keys([item("x", 99, "capture")], busy=True) == ["x"]


def test_checkpoints_go_with_their_run_and_not_twice() -> None:
    items = [item("runs/a", 99), item("runs/a/checkpoints", 99, "checkpoints"), item("runs/b/checkpoints", 99, "checkpoints")]
    assert keys(items) == ["runs/b/checkpoints", "runs/a"]
    assert keys(items, protected={"runs/a"}) == ["runs/a/checkpoints", "runs/b/checkpoints"]


def test_data_that_a_name_or_an_event_points_at_stays() -> None:
    items = [item(f"datasets/{name}", 99, "dataset", "digits") for name in "abc"]
    assert keys(items, named={"datasets/a"}, protected={"datasets/b"}) == ["datasets/c"]


def _data(store: Store, letter: str, name: str, parents: Sequence[str] = (), joined: Sequence[str] = ()) -> str:
    """A version without rows; its digest."""
    digest = letter * 64
    card = Card(
        digest=digest,
        name=name,
        kind="table",
        counts={},
        num_rows={},
        num_bytes=0,
        shards=[],
        features=[],
        split_rule={},
        source=Source(uri="x", format="csv", imported_at="2026-01-01"),
        lineage=Lineage(operation="merge" if joined else "import", parents=list(parents), details={"with": list(joined)} if joined else {}),
    )
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / CARD).write_text(card.model_dump_json())
        publish(store, Path(folder), f"datasets/{digest}", "dataset")
    return digest


def _study(store: Store, key: str, dataset: str) -> None:
    store.write_bytes(f"tuning/{key}/result/study.json", json.dumps({"algorithm": "x/y", "dataset": dataset}).encode())


def test_old_data_and_studies_go_unless_a_model_a_name_or_an_event_leads_to_them(tmp_path: Path, own_cache: Path) -> None:
    settings = Settings(workspace=str(tmp_path / "workspace"), cache_dir=own_cache)
    context = StageContext(settings, open_store(settings.workspace_uri))
    store, registry = context.store, Registry(settings, context.store)
    first, new, unused = _data(store, "a", "digits"), _data(store, "b", "digits-new"), _data(store, "c", "digits")
    learned = _data(store, "d", "digits", [first], [new])
    awaited, named, origin = _data(store, "e", "later"), _data(store, "1", "named", ["2" * 64]), _data(store, "2", "named")
    names.record(store, DatasetRef(digest=named, name="named", kind="table"), "x")
    emit(DATASET_CREATED, "dataset:later", {"data": awaited}, store=store)
    for key, dataset in (("of-the-model", learned), ("of-its-parents", first), ("unused", unused), ("best", first)):
        _study(store, key, dataset)
    store.write_bytes("tuning/killed/journal.log", b"x")
    package = publish(store, write_sums(tmp_path / "package"), "runs/live/package", "export")
    registry.register("sums", package, algorithm="x/y", dataset=learned, metrics={"rmse": 1.0})

    items = [one for one in take_stock(context, 0) if one.kind in ("dataset", "study")]
    assert {one.key for one in items if one.kind == "dataset"} == {
        f"datasets/{one}" for one in (first, new, unused, learned, awaited, named, origin)
    }
    found = plan(
        items,
        now=time.time() + 40 * DAY,
        older_than_s=30 * DAY,
        keep=0,
        protected=pointed_at(context),
        named=named_or_awaited(store),
        busy=False,
    )
    assert [one.key for one in found.remove] == [f"datasets/{unused}", "tuning/killed", "tuning/unused"]
    assert next(one.group for one in items if one.key == f"datasets/{unused}") == "digits"
    gone, problems = remove(found, context, lambda ids: None)
    assert (len(gone), problems) == (3, [])
    assert [entry.digest for entry in names.list_versions(store)].count(unused) == 0
    assert names.resolve(store, "named").digest == named


def test_the_plan_says_why_the_rest_stays() -> None:
    items = [item("runs/a", 99), item("runs/b", 98), item("runs/c", 1), item("runs/d", 97)]
    found = plan(items, now=NOW, older_than_s=30 * DAY, keep=2, protected={"runs/a"}, busy=True)
    assert found.kept == {
        "a registered version points at it": 1,
        "a run is going that may need it": 1,
        "among the newest": 1,
        "not old enough": 1,
    }
    assert (found.remove, found.num_bytes) == ([], 0)


@pytest.mark.parametrize(("text", "seconds"), [("90m", 5400), ("12h", 43_200), (" 30D ", 30 * DAY), ("8w", 56 * DAY)])
def test_an_age(text: str, seconds: float) -> None:
    assert parse_age(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "d", "-1d", "30m", "0d", "1y", "1e3d"])
def test_no_age(text: str) -> None:
    with pytest.raises(InvalidOptionError, match="older-than"):
        parse_age(text)


def test_a_clean_up_and_flows_know_of_each_other(tmp_path: Path) -> None:
    with using(tmp_path), using(tmp_path), cleaning(tmp_path) as alone:
        assert not alone
    with cleaning(tmp_path) as alone:
        assert alone


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0), json.loads(capsys.readouterr().out)


def test_a_dry_run_removes_nothing_and_then_only_what_nothing_points_at_goes(
    shared_services: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = load_settings()
    store = open_store(settings.workspace_uri)
    registry = Registry(settings, store)
    package = publish(store, write_sums(tmp_path / "package"), "runs/live/package", "export")
    live, stale = registry.start_run("live", {"a": 1}, {}), registry.start_run("stale", {"a": 1}, {})
    for run_id in (live, stale):
        registry.log_metrics(run_id, 1, {"loss": 0.5})
        registry.log_run_end(run_id)
    version = registry.register(
        "sums", package, algorithm="x/y", dataset="d" * 64, metrics={"rmse": 1.0}, run_id=live, run_card_key="runs/live/card-sums"
    )
    registry.promote("sums", version.version)
    for key in (
        "runs/live/card-sums/index.html", "runs/live/checkpoints/1-0/state.json", "runs/live/trained/MANIFEST.json",
        "runs/stale/trained/weights", "captures/sums/2026-01-01/100000.000000-a.parquet", "monitor/references/x.parquet",
        "monitor/sums/20260101T000000Z/index.html", "batches/b/000000.parquet", "prefect/results/r", "datasets/d/card.json", "audit/2026-01-01/x.json",
    ):  # fmt: skip
        store.write_bytes(key, b"x" if not key.startswith("audit") else b'{"at": "2026-01-01T00:00:00+00:00", "who": "a", "action": "b"}')
    log = settings.state_dir / "logs" / "ranks" / "old"
    log.mkdir(parents=True)
    (log / "rank-0.log").write_text("words")
    store.write_bytes("captures/sums/2026-01-02/100000.000000-b.parquet", b"young")
    before = {path for path in shared_services.rglob("*") if path.is_file() and ".db" not in path.name}
    past = time.time() - 40 * DAY
    for path in before:
        if "young" not in path.read_text(errors="ignore"):
            os.utime(path, (past, past))

    status, dry = call(capsys, "clean-up", "--keep", "0", "--json")
    assert (status, dry["done"]) == (0, False)
    assert before <= {path for path in shared_services.rglob("*") if path.is_file()}
    planned = {one["key"] for one in dry["items"]}
    assert {"runs/stale", "runs/live/checkpoints", "batches/b", "prefect/results/r", "monitor/sums/20260101T000000Z"} <= planned
    assert str(log) in planned
    assert not any(
        key.startswith(("datasets", "audit", "registry", "packages", "monitor/references")) or key == "runs/live" for key in planned
    )
    assert not any(one["kind"] == "mlflow run" for one in dry["items"]), "they ended a moment ago"

    with using(settings.state_dir):
        status, careful = call(capsys, "clean-up", "--keep", "0", "--yes", "--json")
    assert careful["busy"]
    assert store.exists("runs/stale/trained/weights")
    assert not store.exists("captures/sums/2026-01-01/100000.000000-a.parquet")

    status, done = call(capsys, "clean-up", "--keep", "0", "--yes", "--json")
    assert (status, done["done"], done["busy"]) == (0, True, False)
    assert not store.exists("runs/stale/trained/weights")
    assert not log.exists()
    for key in ("runs/live/card-sums/index.html", "runs/live/trained/MANIFEST.json", "captures/sums/2026-01-02/100000.000000-b.parquet"):
        assert store.exists(key)
    assert registry.package_folder(registry.get("sums@champion")).is_dir()
    assert [entry.action for entry in read_audit(store)][-2:] == ["clean-up", "clean-up"]

    registry.delete_run(stale)
    assert not registry.has_run(stale)
    assert registry.has_run(live)
    assert {run_id for run_id, _ in registry.old_runs(time.time() + 60)} == {live}
