"""The registry on a real MLflow (SQLite) and a folder, in memory and apart from each other."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from infra._registry_log import EventLog
from infra._registry_mlflow import MlflowBackend
from infra.artifacts import Artifact, find, publish
from infra.errors import (
    CorruptArtifactError,
    InvalidOptionError,
    InvalidSourceError,
    ModelNotFoundError,
    ServiceError,
    SourceNotFoundError,
    UnsafeArchiveError,
)
from infra.promotion import LogEvent
from infra.registry import ModelVersion, Registry
from infra.settings import Settings
from infra.store import Store, open_store
from tests.caches import fresh_cache


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared by this module's tests."""
    return fresh_cache(tmp_path_factory.mktemp("shared") / "cache", tmp_path_factory)


@pytest.fixture
def settings(tmp_path: Path, cache: Path) -> Settings:
    return Settings(workspace=str(tmp_path / "workspace"), cache_dir=cache)


@pytest.fixture
def store(settings: Settings) -> Store:
    return open_store(settings.workspace_uri)


@pytest.fixture
def registry(settings: Settings, store: Store) -> Registry:
    return Registry(settings, store)


def package(store: Store, tmp_path: Path, content: str) -> Artifact:
    folder = tmp_path / f"package-{content}"
    folder.mkdir(exist_ok=True)
    (folder / "model.onnx").write_text(content)
    return publish(store, folder, f"runs/{content}/package", "export")


def add(
    registry: Registry, store: Store, tmp_path: Path, content: str, name: str = "digits", accuracy: float = 0.9, **more: Any
) -> ModelVersion:
    return registry.register(
        name,
        package(store, tmp_path, content),
        algorithm="image-classification/small-cnn",
        dataset="d" * 64,
        metrics={"accuracy": accuracy, "confusion_matrix": [[1]], "auc": float("nan")},
        **more,
    )


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program in another process."""
    command = [sys.executable, "-c", textwrap.dedent(code), *arguments]
    return subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=240, check=False)


def test_a_version_is_read_as_it_was_registered(registry: Registry, store: Store, tmp_path: Path) -> None:
    run_id = registry.start_run("digits", {"epochs": 3, "classes": ["a"], "odd key!": 1}, {"team": "x"})
    registry.log_metrics(run_id, 1, {"train_loss": 1.5, "per class/é": 2, "nothing": None, "nan": float("nan")})
    registry.log_run_end(run_id, "FINISHED")
    version = add(registry, store, tmp_path, "one", run_id=run_id, run_card_key="runs/one/card", tags={"stage": "trial"})
    assert version == registry.get("digits/1")
    assert (version.name, version.version, version.aliases, version.run_id) == ("digits", 1, [], run_id)
    assert version.metrics == {"accuracy": 0.9}
    assert version.tags == {"stage": "trial"}
    assert datetime.now(UTC) - datetime.fromisoformat(version.created) < timedelta(minutes=5)
    assert registry.package_folder(version).joinpath("model.onnx").read_text() == "one"
    assert registry.has_run(run_id)
    assert not registry.has_run("0" * 32)


def test_the_database_read_directly_says_what_mlflow_says(registry: Registry, store: Store, tmp_path: Path) -> None:
    for content in ("one", "two", "three"):
        add(registry, store, tmp_path, content, tags={"number": content})
    add(registry, store, tmp_path, "four", name="other")
    registry.promote("digits", 2, reason="better")
    registry.promote("digits", 3, "challenger")
    registry.delete("digits", 1)
    backend = registry._ledger.mlflow
    assert registry.versions() == backend.versions()
    assert registry.versions("digits") == backend.versions("digits")
    assert [version.ref for version in registry.versions()] == ["digits/2", "digits/3", "other/1"]
    assert [version.aliases for version in registry.versions()] == [["champion"], ["challenger"], []]


def test_registering_the_same_package_again_gives_the_same_version(registry: Registry, store: Store, tmp_path: Path) -> None:
    first = add(registry, store, tmp_path, "one")
    assert add(registry, store, tmp_path, "one") == first
    assert add(registry, store, tmp_path, "one", name="other").version == 1
    assert add(registry, store, tmp_path, "two").version == 2
    assert [event.operation for event in registry.history("digits")] == ["register", "register"]


def test_a_version_keeps_its_package_when_the_run_writes_another(registry: Registry, store: Store, tmp_path: Path) -> None:
    version = add(registry, store, tmp_path, "one")
    folder = tmp_path / "changed"
    folder.mkdir()
    (folder / "model.onnx").write_text("changed")
    publish(store, folder, "runs/one/package", "export")
    assert registry.package_folder(version).joinpath("model.onnx").read_text() == "one"


def test_a_name_means_the_champion_or_else_the_latest(registry: Registry, store: Store, tmp_path: Path) -> None:
    for content in ("one", "two", "three"):
        add(registry, store, tmp_path, content)
    assert registry.get("digits").version == 3
    registry.promote("digits", 2)
    assert registry.get("digits").version == registry.get("digits@champion").version == 2
    assert registry.get("digits/1").version == 1


def test_what_is_not_there_is_answered_with_what_is(registry: Registry, store: Store, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="none yet"):
        registry.get("digits")
    add(registry, store, tmp_path, "one")
    registry.promote("digits", 1)
    for ref in ("digitz", "digits/7", "digits@challenger"):
        with pytest.raises(ModelNotFoundError) as caught:
            registry.get(ref)
        assert "digits" in str(caught.value.known)
    with pytest.raises(ModelNotFoundError):
        registry.promote("digits", 9)
    with pytest.raises(ModelNotFoundError):
        registry.history("other")
    with pytest.raises(ModelNotFoundError):
        registry.rollback("other")


@pytest.mark.parametrize("name", ["", "Digits", "a b", "../x", "-x", "a/b", "a@b", "x" * 101])
def test_a_bad_name_is_refused_before_anything_is_written(name: str, registry: Registry, store: Store, tmp_path: Path) -> None:
    with pytest.raises(InvalidOptionError, match="name"):
        add(registry, store, tmp_path, "one", name=name)
    assert list(store.list("registry/")) == []


def test_promotions_and_rollbacks_are_logged_and_tell_what_was_live(registry: Registry, store: Store, tmp_path: Path) -> None:
    add(registry, store, tmp_path, "one")
    add(registry, store, tmp_path, "two")
    registry.promote("digits", 1, reason="the first", who="ann")
    before = datetime.now(UTC)
    registry.promote("digits", 2, "challenger")
    promoted = registry.promote("digits", 2, reason="better by 0.02", compared={"metric": "accuracy", "champion": 0.9, "challenger": 0.92})
    assert promoted.aliases == ["champion"]
    between = datetime.now(UTC)
    assert registry.rollback("digits", reason="complaints").version == 1
    with pytest.raises(InvalidOptionError, match="no earlier champion"):
        registry.rollback("digits")
    events = registry.history("digits")
    assert [(e.operation, e.version) for e in events[2:]] == [("promote", 1), ("promote", 2), ("promote", 2), ("rollback", 1)]
    assert (events[2].who, events[2].reason) == ("ann", "the first")
    assert events[4].compared == {"metric": "accuracy", "champion": 0.9, "challenger": 0.92}
    assert (events[5].before, events[5].after) == (2, 1)
    assert [event.at for event in events] == sorted({event.at for event in events})
    live = [registry.live_at("digits", moment) for moment in (before, between, datetime.now(UTC))]
    assert live == [1, 2, 1]


def test_a_promotion_to_where_it_is_already_is_not_logged(registry: Registry, store: Store, tmp_path: Path) -> None:
    add(registry, store, tmp_path, "one")
    registry.promote("digits", 1)
    registry.promote("digits", 1)
    assert len(registry.history("digits")) == 2


def test_the_champion_is_deleted_only_by_force_and_its_number_is_not_used_again(registry: Registry, store: Store, tmp_path: Path) -> None:
    version = add(registry, store, tmp_path, "one")
    registry.promote("digits", 1)
    with pytest.raises(InvalidOptionError, match="champion"):
        registry.delete("digits", 1)
    registry.delete("digits", 1, force=True, reason="wrong labels")
    assert registry.versions() == []
    assert find(store, version.package.key) is None
    assert registry.live_at("digits", datetime.now(UTC)) is None
    assert add(registry, store, tmp_path, "one").version == 2


def test_a_package_that_another_version_has_too_stays(registry: Registry, store: Store, tmp_path: Path) -> None:
    add(registry, store, tmp_path, "one")
    other = add(registry, store, tmp_path, "one", name="other")
    registry.delete("digits", 1)
    assert registry.package_folder(other).joinpath("model.onnx").read_text() == "one"
    registry.delete("other", 1)
    assert find(store, other.package.key) is None


def test_search_takes_name_tag_metric_and_date(registry: Registry, store: Store, tmp_path: Path) -> None:
    add(registry, store, tmp_path, "one", accuracy=0.8)
    add(registry, store, tmp_path, "two", accuracy=0.95, tags={"team": "vision"})
    add(registry, store, tmp_path, "three", name="other", accuracy=0.95)
    registry.tag("other", 1, "team", "sound")

    def found(**conditions: str) -> list[str]:
        return [version.ref for version in registry.search(**conditions)]

    assert found() == ["digits/1", "digits/2", "other/1"]
    assert found(name="dig") == found(name="d*s") == ["digits/1", "digits/2"]
    assert found(tag="team") == ["digits/2", "other/1"]
    assert found(tag="team=sound") == ["other/1"]
    assert found(metric="accuracy>=0.9") == ["digits/2", "other/1"]
    assert found(metric="accuracy > 0.7, accuracy < 0.9") == ["digits/1"]
    assert found(metric="rmse<1") == []
    today = datetime.now(UTC).date().isoformat()
    assert len(found(since=today, until=today)) == 3
    assert found(until="2020-01-01") == []
    with pytest.raises(InvalidOptionError) as caught:
        found(metric="accuracy is good", since="yesterday", tag="=x")
    assert len(caught.value.problems) == 3
    with pytest.raises(InvalidOptionError):
        registry.tag("other", 1, "atelier.metrics", "{}")


def test_an_export_is_imported_elsewhere_with_the_same_digest(registry: Registry, store: Store, tmp_path: Path, cache: Path) -> None:
    add(registry, store, tmp_path, "one", tags={"team": "vision"})
    registry.promote("digits", 1)
    path = registry.export("digits@champion", tmp_path / "out" / "digits.zip")
    again = registry.export("digits@champion", tmp_path / "again.zip")
    assert path.read_bytes() == again.read_bytes()
    elsewhere = Settings(workspace=str(tmp_path / "elsewhere"), cache_dir=cache)
    other = Registry(elsewhere, open_store(elsewhere.workspace_uri))
    version = other.import_(path)
    assert other.import_(path) == version
    assert (version.ref, version.aliases, version.metrics) == ("digits/1", [], {"accuracy": 0.9})
    assert version.tags == {"imported_from": "digits/1", "team": "vision"}
    assert version.package.digest == registry.get("digits").package.digest
    assert other.package_folder(version).joinpath("model.onnx").read_text() == "one"
    assert other.import_(path, name="renamed").ref == "renamed/1"


def _rewrite(source: Path, target: Path, change: dict[str, bytes], drop: str = "") -> Path:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            if name != drop:
                new.writestr(name, change.pop(name) if name in change else old.read(name))
        for name, data in change.items():
            new.writestr(name, data)
    return target


def test_a_zip_that_was_changed_or_is_not_ours_is_refused(registry: Registry, store: Store, tmp_path: Path) -> None:
    add(registry, store, tmp_path, "one")
    good = registry.export("digits", tmp_path / "good.zip")
    with zipfile.ZipFile(good) as archive:
        record = json.loads(archive.read("atelier-model.json"))
    record["manifest"]["files"]["model.onnx"]["size"] = 10**12
    bomb = json.dumps(record).encode()
    record["manifest"]["files"]["model.onnx"]["size"] = 4
    other = json.dumps(record).encode()
    cases = [
        (_rewrite(good, tmp_path / "a.zip", {"package/model.onnx": b"eno"}), CorruptArtifactError, "model.onnx"),
        (_rewrite(good, tmp_path / "b.zip", {}, drop="package/model.onnx"), CorruptArtifactError, "model.onnx"),
        (_rewrite(good, tmp_path / "c.zip", {"../evil": b"x"}), UnsafeArchiveError, "evil"),
        (_rewrite(good, tmp_path / "d.zip", {"package/model.onnx": b"x" * 1000}), UnsafeArchiveError, "larger"),
        (_rewrite(good, tmp_path / "e.zip", {"atelier-model.json": bomb}), UnsafeArchiveError, "times the archive"),
        (_rewrite(good, tmp_path / "f.zip", {"atelier-model.json": other}), CorruptArtifactError, "atelier-model.json"),
        (_rewrite(good, tmp_path / "g.zip", {"atelier-model.json": b"{}"}), InvalidSourceError, "not the record"),
        (_rewrite(good, tmp_path / "h.zip", {}, drop="atelier-model.json"), InvalidSourceError, "atelier-model.json"),
        (tmp_path / "package-one" / "model.onnx", InvalidSourceError, "not a zip"),
        (tmp_path / "nothing.zip", SourceNotFoundError, "nothing.zip"),
    ]
    for path, error, words in cases:
        with pytest.raises(error, match=words):
            registry.import_(path)
    assert len(registry.versions()) == 1


def test_a_damaged_package_is_named(registry: Registry, store: Store, tmp_path: Path) -> None:
    version = add(registry, store, tmp_path, "one")
    local = store.local_path(version.package.key)
    assert local is not None
    (local / "model.onnx").chmod(0o644)
    (local / "model.onnx").write_text("eno!")
    with pytest.raises(CorruptArtifactError, match=r"model\.onnx"):
        registry.package_folder(version)


class Killed(BaseException):
    """Ends a call as a kill does: nothing of ours catches it."""


def kill_in(patch: pytest.MonkeyPatch, owner: type, method: str, call: Callable[[], object]) -> None:
    """Make a call that ends when it comes to a certain step."""

    def killed(*args: Any, **more: Any) -> None:
        raise Killed

    with patch.context() as context:
        context.setattr(owner, method, killed)
        with pytest.raises(Killed):
            call()


@pytest.mark.parametrize(("owner", "method", "live"), [(MlflowBackend, "set_alias", 1), (EventLog, "append", 2)])
def test_a_promotion_that_was_killed_is_finished_by_the_next_call(
    owner: type, method: str, live: int, registry: Registry, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(registry, store, tmp_path, "one")
    add(registry, store, tmp_path, "two")
    registry.promote("digits", 1)
    kill_in(monkeypatch, owner, method, lambda: registry.promote("digits", 2, reason="better"))
    assert registry.get("digits").version == live  # the old or the new, nothing between
    events = [(event.operation, event.before, event.after, event.reason) for event in registry.history("digits")]
    assert events[2:] == [("promote", None, 1, ""), ("promote", 1, 2, "better")]
    assert registry.get("digits").version == 2
    assert list(store.list("registry/pending/")) == []


def test_a_killed_process_leaves_no_lock_and_its_promotion_is_finished(
    registry: Registry, settings: Settings, store: Store, tmp_path: Path
) -> None:
    add(registry, store, tmp_path, "one")
    code = """
        import os, signal, sys
        from infra._registry_log import EventLog
        from infra.registry import Registry
        from infra.settings import Settings
        from infra.store import open_store
        settings = Settings(workspace=sys.argv[1], cache_dir=sys.argv[2])
        EventLog.append = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        Registry(settings, open_store(settings.workspace_uri)).promote("digits", 1, reason="the first")
    """
    done = python(code, settings.workspace, str(settings.cache_dir))
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert [(event.operation, event.reason) for event in registry.history("digits")] == [("register", ""), ("promote", "the first")]


def test_a_deletion_that_was_killed_is_finished_by_the_next_call(
    registry: Registry, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = add(registry, store, tmp_path, "one")
    kill_in(monkeypatch, MlflowBackend, "delete_version", lambda: registry.delete("digits", 1))
    assert registry.history("digits")[-1].operation == "delete"
    assert registry.versions() == []
    assert find(store, version.package.key) is None


def test_a_version_that_was_made_and_not_logged_is_logged_by_the_next_call(
    registry: Registry, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kill_in(monkeypatch, EventLog, "append", lambda: add(registry, store, tmp_path, "one"))
    assert add(registry, store, tmp_path, "one").version == 1
    assert [event.operation for event in registry.history("digits")] == ["register"]


def test_an_alias_that_was_moved_on_a_server_is_logged(registry: Registry, settings: Settings, store: Store, tmp_path: Path) -> None:
    registry.start_run("makes the database", {}, {})
    server = settings.model_copy(update={"registry": f"sqlite:///{settings.state_dir / 'mlflow.db'}"})
    shared = Registry(server, store)
    add(shared, store, tmp_path, "one")
    add(shared, store, tmp_path, "two")
    shared.promote("digits", 1)
    shared._ledger.mlflow.set_alias("digits", "champion", 2)
    event = shared.history("digits")[-1]
    assert (event.operation, event.before, event.after, event.who) == ("outside", 1, 2, "unknown")
    assert shared.rollback("digits").version == 1


def test_an_alias_that_was_moved_in_our_own_database_is_put_back(registry: Registry, store: Store, tmp_path: Path) -> None:
    add(registry, store, tmp_path, "one")
    add(registry, store, tmp_path, "two")
    registry.promote("digits", 1)
    registry._ledger.mlflow.set_alias("digits", "champion", 2)
    registry._ledger.mlflow.delete_version("digits", 1)
    assert registry.get("digits").ref == "digits/1"
    assert [event.operation for event in registry.history("digits")] == ["register", "register", "promote"]


def test_a_new_database_takes_the_versions_from_the_log(
    registry: Registry, settings: Settings, store: Store, tmp_path: Path, cache: Path
) -> None:
    for content in ("one", "two", "three"):
        add(registry, store, tmp_path, content, tags={"content": content})
    registry.promote("digits", 3)
    registry.delete("digits", 2)
    lost = shutil.ignore_patterns("mlflow*")
    elsewhere = Settings(workspace=str(shutil.copytree(settings.workspace, tmp_path / "elsewhere", ignore=lost)), cache_dir=cache)
    fresh = Registry(elsewhere, open_store(elsewhere.workspace_uri))
    assert fresh.versions() == registry.versions()
    assert fresh.get("digits").version == 3
    assert fresh.history("digits") == registry.history("digits")


def test_another_machine_sees_the_versions_of_a_workspace_on_s3(
    s3_workspace: str, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(workspace=s3_workspace, cache_dir=cache)
    store = open_store(s3_workspace)
    monkeypatch.setenv("HOME", str(tmp_path / "one"))
    first = Registry(settings, store)
    version = add(first, store, tmp_path, "one")
    first.promote("digits", 1)
    monkeypatch.setenv("HOME", str(tmp_path / "other"))
    other = Registry(settings, store)
    assert other.get("digits") == first.get("digits@champion")
    assert other.package_folder(version).joinpath("model.onnx").read_text() == "one"
    assert add(other, store, tmp_path, "two").version == 2
    assert [event.operation for event in other.history("digits")] == ["register", "promote", "register"]


@pytest.fixture
def machines(s3_workspace: str, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> list[Registry]:
    """Three machines with one workspace, each with a database of its own."""
    made = []
    for name in ("one", "two", "three"):
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / name))
        registry = Registry(Settings(workspace=s3_workspace, cache_dir=cache), open_store(s3_workspace))
        assert registry._ledger.lock.lock_file.startswith(str(tmp_path / name))
        made.append(registry)
    return made


def test_machines_in_turn_go_on_where_the_other_was(s3_workspace: str, tmp_path: Path, machines: list[Registry]) -> None:
    store = open_store(s3_workspace)
    one, two, three = machines
    add(one, store, tmp_path, "one")
    one.promote("digits", 1)
    assert add(two, store, tmp_path, "two").version == 2
    two.promote("digits", 2)
    assert one.get("digits").ref == "digits/2"
    assert add(one, store, tmp_path, "three").version == 3
    one.promote("digits", 3, "challenger")
    two.delete("digits", 1)
    assert add(three, store, tmp_path, "four").version == 4
    for machine in machines:
        assert [(version.version, version.aliases) for version in machine.versions()] == [(2, ["champion"]), (3, ["challenger"]), (4, [])]
    operations = [(event.operation, event.version) for event in one.history("digits")]
    assert operations == [
        ("register", 1),
        ("promote", 1),
        ("register", 2),
        ("promote", 2),
        ("register", 3),
        ("promote", 3),
        ("delete", 1),
        ("register", 4),
    ]


def test_a_package_that_only_another_machine_knows_of_stays(s3_workspace: str, tmp_path: Path, machines: list[Registry]) -> None:
    store = open_store(s3_workspace)
    add(machines[0], store, tmp_path, "one")
    other = add(machines[1], store, tmp_path, "one", name="other")
    machines[0].delete("digits", 1)
    assert find(store, other.package.key) is not None


@pytest.mark.parametrize("method", ["create_version", "set_alias", "set_mark"])
def test_a_restoration_that_was_killed_is_finished_by_the_next_call(
    method: str, s3_workspace: str, tmp_path: Path, machines: list[Registry], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(s3_workspace)
    one, two, _ = machines
    for content in ("one", "two"):
        add(one, store, tmp_path, content)
    one.promote("digits", 2)
    calls, real = [], getattr(MlflowBackend, method)

    def second_time(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 2 or method != "create_version":
            raise Killed
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(MlflowBackend, method, second_time)
        with pytest.raises(Killed):
            two.versions()
    assert two.versions() == one.versions()
    assert two.history("digits") == one.history("digits")
    assert add(two, store, tmp_path, "three").version == 3


def test_a_version_in_the_way_of_a_logged_one_goes(registry: Registry, settings: Settings, store: Store, tmp_path: Path) -> None:
    add(registry, store, tmp_path, "one")
    registry._ledger.mlflow.create_version("digits", "of somebody else", "", {})
    elsewhere = settings.model_copy(update={"workspace": str(tmp_path / "elsewhere")})
    other = Registry(elsewhere, store)  # the same log, another database
    assert add(other, store, tmp_path, "two").version == 2
    assert [version.ref for version in registry.versions()] == ["digits/1", "digits/2"]
    assert registry.versions() == other.versions()


def test_a_database_without_its_log_is_written_into_a_new_one(registry: Registry, store: Store, tmp_path: Path) -> None:
    add(registry, store, tmp_path, "one")
    registry.promote("digits", 1)
    store.delete("registry")
    assert add(registry, store, tmp_path, "two").version == 2
    assert [(event.operation, event.version) for event in registry.history("digits")] == [("register", 1), ("promote", 1), ("register", 2)]


def test_events_are_never_replaced_and_sort_by_time(registry: Registry, store: Store, tmp_path: Path) -> None:
    add(registry, store, tmp_path, "one")
    log = registry._ledger.log
    (first,) = log.read("digits")
    log.append(first)
    assert log.read("digits") == [first]
    log.append(first.model_copy(update={"who": "twin"}))
    assert [event.who for event in log.read("digits")] == [first.who, "twin"]
    future = LogEvent(at="2999-01-01T00:00:00.000000+00:00", who="clock", operation="register", name="digits", version=1)
    log.append(future)
    assert log.stamp("digits") == "2999-01-01T00:00:00.000001+00:00"


def test_reading_imports_no_mlflow(registry: Registry, settings: Settings, store: Store, tmp_path: Path) -> None:
    add(registry, store, tmp_path, "one")
    code = """
        import sys
        from infra.registry import Registry
        from infra.settings import Settings
        from infra.store import open_store
        settings = Settings(workspace=sys.argv[1], cache_dir=sys.argv[2])
        version = Registry(settings, open_store(settings.workspace_uri)).get("digits")
        assert not {"mlflow", "torch", "pandas", "prefect"} & sys.modules.keys()
        print(version.ref)
    """
    done = python(code, settings.workspace, str(settings.cache_dir))
    assert (done.stdout, done.stderr) == ("digits/1\n", "")


def test_two_processes_may_register_at_the_same_time(settings: Settings, store: Store, tmp_path: Path) -> None:
    artifacts = [package(store, tmp_path, content) for content in ("one", "two")]
    code = """
        import sys
        from infra.artifacts import Artifact
        from infra.registry import Registry
        from infra.settings import Settings
        from infra.store import open_store
        settings = Settings(workspace=sys.argv[1], cache_dir=sys.argv[2])
        registry = Registry(settings, open_store(settings.workspace_uri))
        registry.register("digits", Artifact.model_validate_json(sys.argv[3]), algorithm="a/b", dataset="d", metrics={})
    """
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code), settings.workspace, str(settings.cache_dir), artifact.model_dump_json()],
            cwd=Path(__file__).parents[2],
            env=os.environ,
            stderr=subprocess.PIPE,
            text=True,
        )
        for artifact in artifacts
    ]
    errors = [process.communicate(timeout=240)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    versions = Registry(settings, store).versions("digits")
    assert [version.version for version in versions] == [1, 2]
    assert {version.package.digest for version in versions} == {artifact.digest for artifact in artifacts}


def test_a_server_that_does_not_answer_is_named(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    settings = Settings(workspace=str(tmp_path / "workspace"), cache_dir=cache, registry="http://127.0.0.1:9")
    with pytest.raises(ServiceError, match=r"127\.0\.0\.1:9"):
        Registry(settings, open_store(settings.workspace_uri)).start_run("digits", {}, {})
