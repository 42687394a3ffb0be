"""What ``atelier up`` decides before it starts anything, how a keeper keeps parts, and the files that start the same as containers."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from pydantic import SecretStr

from deployments.local import _check_doors, _tell_addresses
from deployments.presets import deployables
from deployments.serving.keys import create_key
from deployments.stack import health
from deployments.stack.addresses import OUTSIDE, addresses_file, read_addresses, seen_from_outside
from deployments.stack.databases import plan_databases, prepare_databases
from deployments.stack.keeper import Keeper
from deployments.stack.lost_runs import MOST_STARTS, fate
from deployments.stack.options import USUAL, UpOptions, choose_ports
from deployments.stack.parts import Part, make_parts
from deployments.stack.serving import served_names
from infra.errors import InvalidOptionError, InvalidSettingError, ServiceError
from infra.settings import Settings
from infra.store import open_store
from tests.stack import wait_for

ROOT = Path(__file__).parents[2]


def test_taken_ports_are_all_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as first:
        base = first.getsockname()[1]
        if base > 64_000:
            pytest.skip("the system gave a port too near the end")
        with pytest.raises(InvalidOptionError, match=rf"port {base} \(prefect\)"):
            choose_ports(UpOptions(port_base=base))


def test_free_ports_are_five_different_ones() -> None:
    assert len(set(choose_ports(UpOptions(free_ports=True)).values())) == 5


def test_postgresql_is_two_databases_of_one_url() -> None:
    found = plan_databases(Settings(database=SecretStr("postgresql://me:pass%40word@db:5433/atelier")))
    assert found.prefect == "postgresql+asyncpg://me:pass%40word@db:5433/atelier_prefect"
    assert found.mlflow == found.registry == "postgresql+pg8000://me:pass%40word@db:5433/atelier_mlflow"
    assert "pass" not in repr(found)


@pytest.mark.parametrize("url", ["mysql://me@db/x", "postgresql://db", "postgresql://me@db/x;drop", "db"])
def test_another_database_is_refused_without_showing_its_password(url: str) -> None:
    with pytest.raises(InvalidSettingError, match="postgresql://USER"):
        plan_databases(Settings(database=SecretStr(url)))


def test_the_databases_are_made_in_a_real_postgresql(postgres_url: str) -> None:
    import pg8000.native

    settings = Settings(database=SecretStr(postgres_url.replace("/postgres", "/team")))
    for _ in range(2):
        prepare_databases(settings)
    port = int(re.findall(r":(\d+)/", postgres_url)[0])
    connection = pg8000.native.Connection("atelier", host="127.0.0.1", port=port, database="postgres")
    try:
        names = {row[0] for row in connection.run("SELECT datname FROM pg_database")}
    finally:
        connection.close()
    assert {"team_prefect", "team_mlflow"} <= names


def test_a_postgresql_that_is_not_there_says_which(free_port: int) -> None:
    with pytest.raises(ServiceError, match=rf"127\.0\.0\.1:{free_port}"):
        prepare_databases(Settings(database=SecretStr(f"postgresql://me@127.0.0.1:{free_port}/x")))


def test_every_part_listens_on_loopback_and_waits_for_parts_that_come_before(tmp_path: Path) -> None:
    settings = Settings(workspace=str(tmp_path), slots=2)
    parts = make_parts(UpOptions(), settings, USUAL, plan_databases(settings))
    names = [part.name for part in parts]
    assert names == ["prefect", "scheduler", "mlflow", "slot-0", "slot-1", "worker", "triggers", "serving"]
    for place, part in enumerate(parts):
        assert "0.0.0.0" not in " ".join(part.command)
        assert set(part.after) <= set(names[:place])


def test_a_run_is_taken_up_within_seconds_or_as_the_user_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(workspace=str(tmp_path))
    for said, expected in ((None, "2"), ("30", "30")):
        if said is not None:
            monkeypatch.setenv("PREFECT_WORKER_QUERY_SECONDS", said)
        parts = {part.name: part for part in make_parts(UpOptions(), settings, USUAL, plan_databases(settings))}
        assert parts["worker"].environment["PREFECT_WORKER_QUERY_SECONDS"] == expected


def test_what_other_machines_reach_needs_a_login_and_a_key(tmp_path: Path) -> None:
    options = UpOptions(host="0.0.0.0")
    with pytest.raises(InvalidSettingError, match="ATELIER_LOGIN"):
        _check_doors(options, Settings(workspace=str(tmp_path)))
    settings = Settings(workspace=str(tmp_path), login=SecretStr("admin:a-long-password"))
    with pytest.raises(InvalidOptionError, match="no API key"):
        _check_doors(options, settings)
    create_key(open_store(settings.workspace_uri), "ada", "predict")
    _check_doors(options, settings)
    _check_doors(UpOptions(), Settings(workspace=str(tmp_path)))

    parts = {part.name: part for part in make_parts(options, settings, USUAL, plan_databases(settings))}
    assert parts["prefect"].listens == ("0.0.0.0", USUAL["prefect"])
    assert parts["prefect"].environment["PREFECT_SERVER_API_AUTH_STRING"] == "admin:a-long-password"
    assert "basic-auth" in parts["mlflow"].command
    assert {"0.0.0.0"} <= set(parts["mlflow"].command) & set(parts["serving"].command)
    assert not {"0.0.0.0"} & set(parts["scheduler"].command), "Dask has no login"
    seen = seen_from_outside("0.0.0.0")
    assert seen not in ("", "0.0.0.0")
    assert parts["serving"].address == f"http://127.0.0.1:{USUAL['serving']}/docs"
    assert parts["serving"].outside == f"http://{seen}:{USUAL['serving']}/docs"
    assert parts["scheduler"].outside == "", "it stays on loopback"
    assert f"{seen}:{USUAL['mlflow']}" in str(parts["mlflow"].environment["MLFLOW_SERVER_ALLOWED_HOSTS"]).split(",")
    assert f"http://{seen}:{USUAL['mlflow']}" in str(parts["mlflow"].environment["MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"]).split(",")
    said: list[str] = []
    _tell_addresses(settings, list(parts.values()), "http://127.0.0.1:4200/api", "tcp://127.0.0.1:8786", said.append)
    assert [f"http://{seen}:{USUAL['mlflow']}" in line for line in said] == [False, False, True, False]
    assert read_addresses(settings)["serving"] == parts["serving"].address
    assert json.loads(addresses_file(settings).read_text())[OUTSIDE]["api"] == f"http://{seen}:{USUAL['prefect']}/api"
    assert [seen_from_outside(host) for host in ("127.0.0.1", "localhost", "::1", "10.0.0.5")] == [""] * 4
    for name in ("worker", "triggers", "serving"):
        assert parts[name].environment["PREFECT_API_URL"] == f"http://127.0.0.1:{USUAL['prefect']}/api"
        assert parts[name].environment["PREFECT_API_AUTH_STRING"] == "admin:a-long-password"
    assert not any("a-long-password" in repr(part) + " ".join(part.command) for part in parts.values())


@pytest.mark.parametrize(
    ("run", "becomes"),
    [
        ({"labels": {"prefect.worker.name": "up"}, "run_count": 1}, "again"),
        ({"labels": {}, "run_count": 1}, "again"),
        ({"labels": {"prefect.worker.name": "another"}, "run_count": 1}, "leave"),
        ({"labels": {"prefect.worker.name": "up"}, "run_count": MOST_STARTS}, "crashed"),
    ],
)
def test_only_runs_of_the_worker_that_died_begin_again(run: dict[str, Any], becomes: str) -> None:
    assert fate(run) == becomes


def test_models_without_a_champion_are_not_served() -> None:
    assert served_names([]) == []


def part(name: str, code: str, folder: Path, **more: Any) -> Part:
    ready = folder / f"{name}.ready"
    return Part(
        name=name,
        title=name,
        command=[sys.executable, "-c", code],
        environment={"ATELIER_READY_FILE": str(ready)},
        check=health.file_there(ready),
        grace_s=1.0,
        **more,
    )


SLEEPER = "import os, pathlib, time; pathlib.Path(os.environ['ATELIER_READY_FILE']).touch(); time.sleep(600)"


def test_a_part_that_is_killed_comes_back_and_all_end_with_the_keeper(tmp_path: Path) -> None:
    said: list[str] = []
    before: list[str] = []
    keeper = Keeper(
        [part("first", SLEEPER, tmp_path), part("second", SLEEPER, tmp_path, after=("first",))],
        tmp_path / "logs",
        tmp_path,
        said.append,
        before.append,
    )
    pids = tmp_path / "pids.json"
    keeping = threading.Thread(target=keeper.keep)
    try:
        keeper.start(["first", "second"])
        old = json.loads(pids.read_text())
        keeping.start()
        os.kill(old["first"], signal.SIGKILL)
        wait_for("the part", lambda: "first is back" in said, 60)
        new = json.loads(pids.read_text())
        assert new["first"] != old["first"]
        assert new["second"] == old["second"]
        assert before == ["first"]
        assert "first was killed by signal 9; it starts again" in said[0]
    finally:
        keeper.stop()
        keeping.join()
    assert not any(Path(f"/proc/{pid}").exists() for pid in new.values())


def test_a_part_that_does_not_start_is_named_with_the_end_of_its_log(tmp_path: Path) -> None:
    keeper = Keeper([part("broken", "raise SystemExit('no luck')", tmp_path)], tmp_path / "logs", tmp_path, lambda line: None)
    try:
        with pytest.raises(ServiceError, match="no luck"):
            keeper.start(["broken"])
    finally:
        keeper.stop()


def test_the_manifests_are_whole_and_start_commands_that_exist() -> None:
    compose = yaml.safe_load((ROOT / "infra" / "compose.yaml").read_text())
    assert {"postgres", "minio", "prefect", "mlflow", "scheduler", "slot", "worker", "triggers", "inference"} <= set(compose["services"])
    for name, service in compose["services"].items():
        assert "image" in service, name
        if "build" in service:
            assert (ROOT / service["build"]["dockerfile"]).exists(), name
        for wanted in service.get("depends_on", {}):
            assert wanted in compose["services"], name
    folder = ROOT / "infra" / "kubernetes"
    listed = yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]
    assert sorted(listed) == sorted(file.name for file in folder.glob("*.yaml") if file.name != "kustomization.yaml")
    found = set()
    for file in listed:
        for one in yaml.safe_load_all((folder / file).read_text()):
            assert {"apiVersion", "kind", "metadata"} <= set(one), file
            found.add(one["metadata"]["name"])
            if one["kind"] in ("Deployment", "StatefulSet"):
                labels = one["spec"]["template"]["metadata"]["labels"]
                assert one["spec"]["selector"]["matchLabels"] == labels
                assert all("image" in container for container in one["spec"]["template"]["spec"]["containers"])
    assert {"postgres", "minio", "prefect", "mlflow", "scheduler", "slot", "worker", "triggers", "inference"} <= found


def test_the_slim_image_has_only_what_is_locked_and_no_torch() -> None:
    wanted = (ROOT / "infra" / "images" / "inference.txt").read_text().split()
    locked = set(re.findall(r"^([a-z0-9_.-]+)==", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    assert {name for name in wanted if name not in locked} == {"onnxruntime"}, "in place of onnxruntime-gpu"
    assert not {"torch", "prefect", "dask", "scikit-learn", "mlflow"} & set(wanted)


def test_the_slim_image_installs_the_versions_of_the_lock(tmp_path: Path) -> None:
    pip = tmp_path / "pip"
    pip.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\nfor one; do case $one in /*) cp "$one" {tmp_path}/constraints;; esac; done\n'
    )
    pip.chmod(0o755)
    script = ROOT / "infra" / "images" / "install_inference.sh"
    subprocess.run(["sh", script, pip, "--quiet"], cwd=ROOT, check=True, timeout=30)
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls[0].startswith("--quiet install -r infra/images/inference.txt -c /")
    assert calls[1] == "--quiet install --no-deps ."
    lines = (tmp_path / "constraints").read_text().splitlines()
    constraints = [Requirement(line) for line in lines]
    # One version for every supported Python: a lock has several of some packages, each for its own.
    for name in (ROOT / "infra" / "images" / "inference.txt").read_text().split():
        for python in ("3.11", "3.12"):
            environment = {"python_full_version": f"{python}.0", "python_version": python}
            fitting = [one for one in constraints if one.name == name and (one.marker is None or one.marker.evaluate(environment))]
            assert len({str(one.specifier) for one in fitting}) == 1, (name, python)
    versions = {one.name: str(one.specifier) for one in constraints}
    assert versions["onnxruntime"] == versions["onnxruntime-gpu"]


def test_prefect_yaml_has_the_flows_and_tags_of_atelier_deploy() -> None:
    found = {one["entrypoint"]: one["tags"] for one in yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]}
    own = {one.entrypoint: ["atelier", *one.tags] for one in deployables() if not one.entrypoint.startswith("flows.deployed.")}
    assert found == own


def test_every_parameter_in_the_forms_is_described() -> None:
    from prefect.flows import Flow, load_flow_from_entrypoint

    for one in deployables():
        flow: Flow[..., Any] = load_flow_from_entrypoint(one.entrypoint, use_placeholder_flow=False)
        bare = [name for name, schema in flow.parameters.properties.items() if not schema.get("description")]
        assert not bare, one.name
