"""A server over time: aliases that move, canaries, shadows, keys, workers that die, and its end; while a client sends without pause."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from deployments.serving.keys import create_key, revoke_key
from infra.audit import read as read_audit
from infra.errors import InvalidOptionError
from infra.registry import Registry
from infra.settings import Settings
from infra.store import open_store
from tests.deployments.serving.conftest import Running, fill, running
from tests.deployments.serving.test_server import png, wait_until


@pytest.fixture
def own(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, Registry]:
    """A workspace of the test's own."""
    settings = Settings(workspace=str(tmp_path / "workspace"), cache_dir=tmp_path_factory.getbasetemp() / "atelier-cache")
    return settings, fill(settings, tmp_path / "packages")


@contextmanager
def asked_all_the_time(server: Running, num_clients: int = 2) -> Iterator[Counter[tuple[int, str]]]:
    """Clients that ask without pause while the block runs; how often each status and version came."""
    seen: Counter[tuple[int, str]] = Counter()
    stop, errors = threading.Event(), []

    def ask(number: int) -> None:
        try:
            while not stop.is_set():
                answer = server.ask("/v2/models/colours/predict", png(), content_type="image/png", atelier_key=f"client {number}")
                seen[answer.status, answer.headers.get("atelier-version", "")] += 1
        except OSError as error:
            errors.append(error)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(num_clients)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert errors == []


def served(settings: Settings) -> list[str]:
    """What the audit log says of servers that began to serve."""
    return [entry.what for entry in read_audit(open_store(settings.workspace_uri)) if entry.action == "serve"]


def version_that_answers(server: Running, key: str = "") -> str:
    headers = {"atelier_key": key} if key else {}
    return server.ask("/v2/models/colours/predict", png(), content_type="image/png", **headers).headers["atelier-version"]


def test_a_promoted_version_takes_over_without_a_lost_request(own: tuple[Settings, Registry], tmp_path: Path) -> None:
    settings, registry = own
    with running(settings, tmp_path, "colours") as server, asked_all_the_time(server) as seen:
        wait_until(lambda: seen[200, "1"] > 20)
        registry.promote("colours", 2, reason="better")
        wait_until(lambda: seen[200, "2"] > 20)
        registry.rollback("colours")
        before = seen[200, "1"]
        wait_until(lambda: seen[200, "1"] > before + 20)
        assert {status for status, _ in seen} == {200}
        assert "version 2 took over from 1" in server.log.read_text()


def test_a_damaged_package_is_not_served_and_the_present_one_stays(own: tuple[Settings, Registry], tmp_path: Path) -> None:
    settings, registry = own
    model = registry.package_folder(registry.get("colours/2")) / "model.onnx"
    good = model.read_bytes()
    model.chmod(0o644)
    model.write_bytes(good[:-1] + b"!")
    with running(settings, tmp_path, "colours") as server:
        registry.promote("colours", 2)
        state = server.until("/admin/models", lambda answer: "damaged" in answer.json["models"]["colours"]["failure"])
        assert state.json["models"]["colours"]["live"] == 1
        assert version_that_answers(server) == "1"
        model.write_bytes(good)
        server.until("/admin/models", lambda answer: answer.json["models"]["colours"]["live"] == 2)
    model.write_bytes(good[:-1] + b"!")
    with pytest.raises(AssertionError, match="is damaged"), running(settings, tmp_path / "again", "colours"):
        pass


def test_a_canary_gets_its_share_and_a_key_stays_where_it_is(own: tuple[Settings, Registry], tmp_path: Path) -> None:
    settings, _ = own
    with running(settings, tmp_path, "colours") as server:
        keys = [f"key {number}" for number in range(60)]

        def shared_out(weight: float) -> dict[str, str]:
            answer = server.ask("/admin/models/colours/route", {"canary": 2, "weight": weight}, "PUT")
            assert answer.status == 200
            return {key: version_that_answers(server, key) for key in keys}

        third, most = shared_out(30), shared_out(70)
        assert 8 <= Counter(third.values())["2"] <= 30
        assert Counter(most.values())["2"] > Counter(third.values())["2"]
        assert {key for key in keys if third[key] == "2"} <= {key for key in keys if most[key] == "2"}
        assert shared_out(70) == most
        assert set(shared_out(100).values()) == {"2"}
        assert server.ask("/admin/models/colours/route", {"canary": 7, "weight": 1}, "PUT").error.startswith(
            "canary: 'colours' has no version 7"
        )
        assert server.ask("/admin/models/colours/route", {"canary": 2, "weight": 101}, "PUT").status == 400
        assert server.ask("/admin/models/colours/route", method="DELETE").status == 200
        assert {version_that_answers(server, key) for key in keys[:5]} == {"1"}
        audit = [json.loads(line) for line in (settings.state_dir / "serving" / "audit.jsonl").read_text().splitlines()]
        assert [(line["who"], line["action"], line["model"]) for line in audit[:1]] == [("anybody", "route", "colours")]


def test_a_shadow_is_compared_and_never_answers(own: tuple[Settings, Registry], tmp_path: Path) -> None:
    settings, _ = own
    with running(settings, tmp_path, "colours") as server:
        assert server.ask("/admin/models/colours/route", {"shadow": 2}, "PUT").status == 200
        assert {version_that_answers(server) for _ in range(10)} == {"1"}
        assert (
            server.ask("/v2/models/colours/predict", png((10, 200, 10)), content_type="image/png").json["predictions"][0]["label"]
            == "green"
        )
        differ = 'atelier_shadow_total{agree="false",model="colours",shadow="2",version="1"}'
        agree = differ.replace("false", "true")
        wait_until(lambda: server.metrics().get(differ) == 10 and server.metrics().get(agree) == 1)


def test_keys_open_what_their_role_allows(own: tuple[Settings, Registry], tmp_path: Path) -> None:
    settings, _ = own
    store = open_store(settings.workspace_uri)
    predict, admin = create_key(store, "anna", "predict"), create_key(store, "root", "admin")
    stored = (Path(settings.workspace) / "serving" / "keys.json").read_text()
    assert predict not in stored
    assert admin not in stored
    with pytest.raises(InvalidOptionError):
        create_key(store, "anna", "admin")
    with running(settings, tmp_path, "colours") as server:

        def status(path: str, key: str | None, body: object = None) -> int:
            return server.ask(path, body, **({"authorization": f"Bearer {key}"} if key else {})).status

        row = {"image": ""}
        assert [status("/v2/models/colours/predict", key, row) for key in (None, "atl_wrong", predict, admin)] == [401, 401, 400, 400]
        assert [status("/admin/models", key) for key in (None, "atl_wrong", predict, admin)] == [401, 401, 403, 200]
        assert [status("/v2/health/ready", None), status("/metrics", None), status("/metrics", predict)] == [200, 401, 200]
        assert server.ask("/v2/models/colours", x_api_key=predict).status == 200
        assert server.ask("/v2/models/colours").headers["www-authenticate"].startswith("Bearer")
        revoke_key(store, "anna")
        wait_until(lambda: status("/v2/models/colours", predict) == 401)
        assert predict not in server.log.read_text()
    for name in ("root",):
        revoke_key(store, name)
    with pytest.raises(AssertionError, match="there is no API key"), running(settings, tmp_path / "open", "colours", "--host", "0.0.0.0"):
        pass


def test_a_killed_worker_is_replaced_and_metrics_are_those_of_all(own: tuple[Settings, Registry], tmp_path: Path) -> None:
    settings, _ = own
    with running(settings, tmp_path, "colours", "--workers", "2") as server:
        assert served(settings) == ["colours"]
        parent = psutil.Process(server.process.pid)
        workers = parent.children()
        assert len(workers) == 2
        for _ in range(20):
            assert version_that_answers(server) == "1"
        wait_until(lambda: server.metrics()['atelier_requests_total{model="colours",outcome="ok",version="1"}'] == 20)
        workers[0].kill()
        wait_until(lambda: len({one.pid for one in parent.children()} - {one.pid for one in workers}) == 1)
        server.until("/v2/health/ready", lambda answer: answer.status == 200)
        server.process.kill()  # without its supervisor no worker stays
        wait_until(lambda: not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in workers))


def test_a_stopping_server_finishes_what_it_has_begun(own: tuple[Settings, Registry], tmp_path: Path) -> None:
    settings, _ = own
    with running(settings, tmp_path, "colours", "--drain-s", "1") as server:
        assert served(settings) == ["colours"]
        assert version_that_answers(server) == "1"
        os.kill(server.process.pid, signal.SIGTERM)
        refused = server.until("/v2/health/ready", lambda answer: answer.status == 503)
        assert refused.headers["connection"] == "close"
        answer = server.ask("/v2/models/colours/predict", png(), content_type="image/png")
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert server.process.wait(timeout=60) == 0


def test_what_cannot_be_served_is_said_at_the_start(own: tuple[Settings, Registry], tmp_path: Path) -> None:
    settings, _ = own
    with pytest.raises(AssertionError, match="No model 'nobody'"), running(settings, tmp_path, "nobody"):
        pass
    with pytest.raises(AssertionError, match="--workers"), running(settings, tmp_path, "colours", "--workers", "0"):
        pass
    assert served(settings) == []
