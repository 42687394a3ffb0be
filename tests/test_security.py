"""What lies in the workspace is data and never code; secrets stay where they belong; servers ask who you are."""

from __future__ import annotations

import ast
import base64
import json
import os
import pickle
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from flows._result_guard import check_result
from infra import access
from infra.artifacts import publish
from infra.audit import read as read_audit
from infra.audit import write_down
from infra.errors import InvalidSettingError
from infra.registry import Registry
from infra.settings import Settings, load_settings
from infra.store import MemoryStore, open_store
from tests.packages import write_sums

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted(
    path.relative_to(ROOT).as_posix()
    for floor in ("infra", "algorithms", "tasks", "flows", "deployments")
    for path in (ROOT / floor).rglob("*.py")
)
UNPICKLES = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
# Values between the ranks of one training, over connections that its launcher made; never from a store.
MAY_PICKLE = {"infra/collectives.py"}
SECRET = "Sup3rGeheim-7f9c1e"
LIMIT_S = 240.0


def _calls(tree: ast.AST) -> list[tuple[str, ast.Call]]:
    return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


def _keyword(call: ast.Call, name: str) -> Any:
    return next((ast.literal_eval(word.value) for word in call.keywords if word.arg == name and isinstance(word.value, ast.Constant)), None)


@pytest.mark.parametrize("module", MODULES)
def test_no_module_unpickles(module: str) -> None:
    tree = ast.parse((ROOT / module).read_text(encoding="utf-8"))
    imported = {alias.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {(node.module or "").split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert module in MAY_PICKLE or not imported & UNPICKLES
    for name, call in _calls(tree):
        if name in ("np.load", "numpy.load"):
            assert _keyword(call, "allow_pickle") is False, f"{module}:{call.lineno}: np.load without allow_pickle=False"
        if name == "torch.load":
            assert _keyword(call, "weights_only") is True, f"{module}:{call.lineno}: torch.load without weights_only=True"
        assert not name.endswith(("read_pickle", "skops.io.loads")), f"{module}:{call.lineno}"


class _Bomb:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def _record(serializer: dict[str, Any], result: str) -> bytes:
    return json.dumps({"metadata": {"storage_key": "k", "expiration": None, "serializer": serializer}, "result": result}).encode()


PLAIN = {
    "type": "json",
    "jsonlib": "json",
    "object_encoder": "prefect.serializers.prefect_json_object_encoder",
    "object_decoder": "prefect.serializers.prefect_json_object_decoder",
    "dumps_kwargs": {},
    "loads_kwargs": {},
}


def test_a_planted_pickle_is_not_executed(tmp_path: Path) -> None:
    from prefect._internal.result_records import ResultRecord

    from flows.stages import WorkspaceResults

    store = open_store(str(tmp_path / "workspace"))
    blob = base64.encodebytes(pickle.dumps(_Bomb(tmp_path / "executed"))).decode()
    planted = _record({"type": "pickle", "picklelib": "pickle"}, blob)
    store.write_bytes("prefect/results/train-abc", planted)
    with pytest.raises(ValueError, match="as JSON only"):
        WorkspaceResults(workspace=store.uri).read_path("train-abc")
    assert not (tmp_path / "executed").exists()
    ResultRecord.deserialize(planted)
    assert (tmp_path / "executed").exists(), "without the guard it is executed: the test shows something"


@pytest.mark.parametrize(
    ("serializer", "result"),
    [
        ({**PLAIN, "jsonlib": "pickle"}, "{}"),
        ({**PLAIN, "object_decoder": "os.system"}, "{}"),
        ({"type": "compressed/json"}, "{}"),
        (PLAIN, json.dumps({"a": [{"__class__": "subprocess.Popen", "data": {"args": "true"}}]})),
        (PLAIN, json.dumps({"__exc_type__": "builtins.SystemExit", "message": "x"})),
        (PLAIN, "not json"),
    ],
)
def test_a_result_that_no_stage_of_ours_wrote_is_not_read(serializer: dict[str, Any], result: str) -> None:
    with pytest.raises(ValueError):
        check_result(_record(serializer, result))


def test_a_result_of_ours_is_read() -> None:
    content = _record(PLAIN, json.dumps({"__class__": "tasks.train.Trained", "data": {"x": [1, None]}}))
    assert check_result(content) == content


def test_a_mistyped_setting_does_not_tell_its_value(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "atelier.toml").write_text(f'packagekey = "{SECRET}"\nslots = -3\n')
    monkeypatch.chdir(tmp_path)
    load_settings.cache_clear()
    with pytest.raises(InvalidSettingError) as told:
        load_settings()
    assert SECRET not in str(told.value)
    assert "packagekey" in str(told.value)
    assert "got -3" in str(told.value)


@pytest.mark.parametrize("text", ["admin", f"admin:{SECRET[:5]}", f":{SECRET}", f"admin:{SECRET}\n"])
def test_a_login_that_is_none_is_refused_without_telling_it(text: str) -> None:
    with pytest.raises(InvalidSettingError) as told:
        access.login(Settings(login=SecretStr(text)))
    assert SECRET[:5] not in str(told.value)
    assert SECRET not in repr(Settings(login=SecretStr(text)))


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.3.2.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("gpu-1", False)],
)
def test_without_a_login_servers_stay_on_loopback(host: str, loopback: bool) -> None:
    assert access.is_loopback(host) == loopback
    access.check_exposure("Prefect", host, Settings(login=SecretStr(f"admin:{SECRET}")))
    if loopback:
        access.check_exposure("Prefect", host, Settings())
    else:
        with pytest.raises(InvalidSettingError, match="ATELIER_LOGIN"):
            access.check_exposure("Prefect", host, Settings())


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        (f"postgresql://me:{SECRET}@db:5432/x", "postgresql://db:5432/x"),
        (f"http://me:{SECRET}@host", "http://host"),
        ("sqlite:////tmp/a@b.db", "sqlite:////tmp/a@b.db"),
        ("http://host:5000", "http://host:5000"),
    ],
)
def test_an_address_is_told_without_its_password(uri: str, told: str) -> None:
    assert access.without_password(uri) == told


def _status(url: str, user: str = "", password: str = "") -> int:
    """HTTP status of a request; 0: nothing answers yet."""
    headers = {"Content-Type": "application/json"}
    if user:
        headers["Authorization"] = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, b"{}", headers), timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except (urllib.error.URLError, OSError):
        return 0


def _port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.slow
def test_prefect_and_mlflow_answer_only_who_has_the_login(workspace: Path, monkeypatch: pytest.MonkeyPatch, prefect_api: str) -> None:
    from infra.prefect_server import EmbeddedServer

    settings = Settings(workspace=str(workspace), cache_dir=load_settings().cache_dir, login=SecretStr(f"admin:{SECRET}"))
    port = _port()
    database = f"sqlite:///{workspace / 'tracking.db'}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", database, *access.mlflow_server_arguments(settings)]
    environment = {**os.environ, **access.mlflow_server_variables(settings), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    runs = f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/search"
    with ExitStack() as stack:
        with (workspace / "mlflow.log").open("w") as log:
            mlflow = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        stack.callback(_end, mlflow)
        for name, value in access.prefect_server_variables(settings).items():
            monkeypatch.setenv(name, value)
        server = stack.enter_context(EmbeddedServer(settings))
        flows = f"{server.url}/flows/filter"
        limit = time.monotonic() + LIMIT_S
        for url in (flows, runs):
            while _status(url) == 0:
                assert time.monotonic() < limit, (workspace / "mlflow.log").read_text()
                assert mlflow.poll() is None, (workspace / "mlflow.log").read_text()
                time.sleep(0.1)
            assert [_status(url), _status(url, "admin", "wrong-password")] == [401, 401], url
        assert _status(flows, "admin", SECRET) == 200
        ours = settings.model_copy(update={"registry": f"http://127.0.0.1:{port}"})
        registry = Registry(ours, open_store(ours.workspace_uri))
        for name in access.mlflow_client_variables(settings):  # the client sets them; so they go with the test
            monkeypatch.setenv(name, "")
            monkeypatch.delenv(name)
        run_id = registry.start_run("x", {"a": 1}, {})
        assert registry.has_run(run_id)
    assert oct((workspace / "mlflow-auth" / "basic_auth.ini").stat().st_mode)[-3:] == "600"
    assert _told(workspace, SECRET) == []


def _end(process: subprocess.Popen[Any]) -> None:
    import signal

    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _told(folder: Path, secret: str) -> list[str]:
    """Files below a folder in which a secret stands, plain or in base64."""
    wanted = [secret.encode(), base64.b64encode(secret.encode()).rstrip(b"=")[:-2]]
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [str(path.relative_to(folder)) for path in files if any(one in path.read_bytes() for one in wanted)]


@pytest.mark.slow
def test_no_secret_is_told_by_a_whole_run(
    shared_services: Path,
    wine_table: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    prefect_api: str,
    package_key: str,
) -> None:
    secrets = {
        "AWS_SECRET_ACCESS_KEY": f"{SECRET}-aws",
        "ATELIER_LOGIN": f"admin:{SECRET}-login",
        "ATELIER_PACKAGE_KEY": package_key,
    }
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    load_settings.cache_clear()
    from flows import pipeline

    # The session's Prefect asks for no login, and takes one that is given.
    result = pipeline(algorithm="tabular-classification/linear", data=str(wine_table), options={"target": "kind"})
    out, err = capfd.readouterr()
    told = json.dumps(result.model_dump(mode="json")) + out + err
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.sorting import FlowRunSort
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: prefect_api}), get_client(sync_client=True) as client:
        told += json.dumps([run.model_dump(mode="json") for run in client.read_flow_runs(sort=FlowRunSort.ID_DESC, limit=50)])
        told += client.request("POST", "/artifacts/filter", json={"limit": 200}).text
        told += client.request("POST", "/logs/filter", json={"limit": 200}).text
    for value in secrets.values():
        secret = value.removeprefix("admin:")
        assert secret not in told
        assert _told(shared_services, secret) == []


def test_the_audit_log_only_grows_and_has_what_happened_to_models(workspace: Path, tmp_path: Path) -> None:
    store = MemoryStore(f"memory://{tmp_path.name}")
    first = write_down(store, "keys.create", "ada", who="me@host", role="admin")
    second = write_down(store, "deploy", "nightly", schedule="0 3 * * *")
    assert read_audit(store) == [first, second]
    assert len(list(store.list("audit/"))) == 2
    assert first.who == "me@host"
    assert "@" in second.who
    from datetime import UTC, datetime, timedelta

    from deployments.serving.admin import write_down as write_down_of_servers

    write_down_of_servers(workspace, "ada", "route", model="digits", route=None)
    assert [(entry.who, entry.action, entry.what) for entry in read_audit(store, state_dir=workspace)][-1] == (
        "ada",
        "serve.route",
        "digits",
    )
    assert read_audit(store, datetime.now(UTC) + timedelta(hours=1)) == []

    registry = Registry(Settings(workspace=str(workspace)), open_store(str(workspace)))
    for number in (1, 2):
        package = publish(
            open_store(str(workspace)), write_sums(tmp_path / f"p{number}", metrics={"rmse": number}), f"runs/{number}/p", "export"
        )
        registry.register("sums", package, algorithm="x/y", dataset="d" * 64, metrics={"rmse": number}, who="ada")
        registry.promote("sums", number, who="ada")
    registry.note("sums", 2, reason="canary rolled back", who="a flow")
    registry.rollback("sums", who="grace", reason="it errs")
    registry.delete("sums", 2, who="grace")
    told = [(entry.who, entry.action, entry.what) for entry in read_audit(open_store(str(workspace)))]
    assert told[4:] == [("a flow", "models.canary", "sums/2"), ("grace", "models.rollback", "sums/1"), ("grace", "models.delete", "sums/2")]
    assert [action for _, action, _ in told[:4]] == ["models.register", "models.promote"] * 2
