"""The local stack with all its real parts over HTTP: deployments, a storm of events, the closed loop, and what survives kill -9."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import numpy as np
import pytest
from PIL import Image

from algorithms._package_format import read_description, write_description
from algorithms.catalog import ALGORITHMS
from deployments.presets import _FLOWS
from flows.presets import flow_name
from infra import events
from infra.artifacts import MANIFEST, publish
from infra.audit import read as read_audit
from infra.datasets import names
from infra.promotion import CHALLENGER, CHAMPION
from infra.registry import ModelVersion, Registry
from infra.settings import Settings
from infra.store import Store, open_store
from tests.stack import Stack, running_stack, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
MODEL = "digits"
OPTIONS = {"epochs": 12, "image_size": 8}
LOGIN = "admin:of-the-stack-of-the-tests"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    workspace = tmp_path_factory.mktemp("stack") / "workspace"
    cache = os.environ.get("ATELIER_CACHE_DIR") or str(tmp_path_factory.getbasetemp() / "atelier-cache")
    with running_stack(workspace, uuid.uuid4().hex, ATELIER_CACHE_DIR=cache, ATELIER_LOGIN=LOGIN) as found:
        yield found


def registry_of(stack: Stack) -> Registry:
    settings = Settings(workspace=str(stack.workspace))
    return Registry(settings, open_store(settings.workspace_uri))


def versions(stack: Stack, name: str = MODEL) -> list[ModelVersion]:
    return registry_of(stack).versions(name)


def with_alias(stack: Stack, alias: str) -> int | None:
    return next((one.version for one in versions(stack) if alias in one.aliases), None)


@pytest.fixture(scope="module")
def pictures(digits_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of labelled pictures of four digits: ``old``; ``new`` and ``asked``, which are other ones, and negatives."""
    root = tmp_path_factory.mktemp("pictures")
    for digit in "0123":
        files = sorted((digits_folder / digit).iterdir())[:150]
        for name, some in (("old", files[:80]), ("new", files[80:120]), ("asked", files[120:])):
            (root / name / digit).mkdir(parents=True)
            for file in some:
                (root / name / digit / file.name).write_bytes(file.read_bytes() if name == "old" else negative(file.read_bytes()))
    return {name: root / name for name in ("old", "new", "asked")}


def negative(encoded: bytes) -> bytes:
    """The picture with black and white exchanged: what the first model has never seen."""
    turned = Image.fromarray(255 - np.asarray(Image.open(io.BytesIO(encoded)).convert("L")))
    kept = io.BytesIO()
    turned.save(kept, "png")
    return kept.getvalue()


class Client(threading.Thread):
    """Sends pictures without pause, and tells the server the truth about each; every answer that is none of success is kept."""

    def __init__(self, url: str, samples: list[tuple[bytes, str]]) -> None:
        super().__init__(daemon=True)
        self.samples = samples
        self.failures: list[str] = []
        self.num_answered = 0
        self.versions: set[str] = set()
        self._address = urlsplit(url)
        self._ending = threading.Event()

    def run(self) -> None:
        connection = HTTPConnection(str(self._address.hostname), self._address.port, timeout=60)
        while not self._ending.is_set():
            picture, truth = self.samples[self.num_answered % len(self.samples)]
            try:
                connection.request(
                    "POST", f"/v2/models/{MODEL}/predict", picture, {"Content-Type": "image/png", "Atelier-Key": str(self.num_answered)}
                )
                answer = connection.getresponse()
                body = answer.read()
                if answer.status != 200:
                    self.failures.append(f"{answer.status} {body[:200]!r}")
                else:
                    self.versions.add(answer.headers["Atelier-Version"])
                    token = answer.headers["Atelier-Prediction"]
                    told = json.dumps({"prediction": token, "truth": [truth]})
                    connection.request("POST", f"/v2/models/{MODEL}/feedback", told, {"Content-Type": "application/json"})
                    connection.getresponse().read()
                self.num_answered += 1
            except (HTTPException, OSError) as error:
                self.failures.append(repr(error))
                connection.close()
        connection.close()

    def end(self) -> None:
        self._ending.set()
        self.join(60)
        assert not self.is_alive()


def test_every_preset_is_a_deployment_with_a_described_form(stack: Stack) -> None:
    found = {f"{one['name']}": one for one in stack.api("/deployments/filter", {"limit": 200})}
    assert found, "no deployments"
    names = set()
    for one in stack.api("/deployments/filter", {"limit": 200}):
        flow = stack.api(f"/flows/{one['flow_id']}")["name"]
        names.add(flow)
        if flow == "image-classification:small-cnn":
            properties = one["parameter_openapi_schema"]["properties"]
            assert properties["epochs"]["type"] == "integer"
            assert [key for key, value in properties.items() if not value.get("description")] == []
            assert {"atelier", "image-classification"} <= set(one["tags"])
            assert one["work_pool_name"] == "atelier"
        if flow in ("tune", "compress"):
            properties = one["parameter_openapi_schema"]["properties"]
            assert [key for key, value in properties.items() if not value.get("description")] == []
            assert {"tune": "pruner", "compress": "mode"}[flow] in properties
    assert {flow_name(algorithm.name) for algorithm in ALGORITHMS} | {one.name for one in _FLOWS} <= names


def test_a_wrong_value_in_the_form_is_refused_by_the_server(stack: Stack) -> None:
    with pytest.raises(HTTPError) as refused:
        stack.start_run("image-classification:small-cnn/default", {"data": "x", "epochs": "many"})
    refused.value.close()
    assert refused.value.code in (409, 422)


def test_a_storm_of_events_starts_one_run_with_the_newest_data(stack: Stack, pictures: dict[str, Path]) -> None:
    stack.command("deploy", "import-data", "--name", "storm", "--set", "name=stormed", "--trigger", "dataset:storm", "--quiet-s", "3")
    store = open_store(str(stack.workspace))
    begun = time.monotonic()
    for number in range(200):
        data = str(pictures["old"]) if number == 199 else f"/nowhere/{number}"
        events.emit(events.DATASET_CREATED, "dataset:storm", {"data": data}, store=store)
    seconds = time.monotonic() - begun
    runs = wait_for("the run of the storm", lambda: stack.runs_of("import-data/storm"))
    stack.finish(runs[0]["id"])
    wait_for("the end of its claim", lambda: '"claimed":null' in (stack.workspace / "triggers" / "ledger.json").read_text())
    runs = stack.runs_of("import-data/storm")
    assert [run["parameters"]["data"] for run in runs] == [str(pictures["old"])], f"200 events in {seconds:.1f} s"
    assert list(store.list("events/outbox/")) == []
    names = [one["name"] for one in stack.api("/automations/filter", {})]
    assert "import-data/storm on dataset:storm" in names


def test_who_has_no_login_learns_nothing(stack: Stack) -> None:
    mlflow = f"{stack.addresses['mlflow']}/api/2.0/mlflow/experiments/search?max_results=1"
    for url, known in ((f"{stack.addresses['api']}/flows/filter", b"{}"), (mlflow, None)):
        with pytest.raises(HTTPError) as refused:
            urlopen(Request(url, known, {"Content-Type": "application/json"}), timeout=60)
        refused.value.close()
        assert refused.value.code == 401, url
    logs = [path.read_text(errors="replace") for path in (stack.workspace / "logs").rglob("*.log")]
    assert logs
    assert not any(LOGIN.split(":")[1] in text for text in logs)


def test_the_loop_closes(stack: Stack, pictures: dict[str, Path], tmp_path: Path) -> None:
    """v1 serves; other pictures come, as files and as requests; the monitor sees that, and by its event v2 is trained on both, wins and takes
    over through a canary; a wrong v3 is sent back. Meanwhile no request fails."""
    first = stack.start_run("image-classification:small-cnn/default", {"data": str(pictures["old"]), "name": MODEL, **OPTIONS})
    watched = tmp_path / "arriving"
    watched.mkdir()
    set_up(stack, watched)
    stack.finish(first)
    wait_for("the server", lambda: ready(stack))
    store, registry = open_store(str(stack.workspace)), registry_of(stack)

    client = Client(stack.serving, samples(pictures["old"]))
    client.start()
    try:
        shutil.copytree(pictures["new"], watched, dirs_exist_ok=True)
        client.samples = samples(pictures["asked"])
        (arrived,) = wait_for("the import of the files", lambda: stack.runs_of("import-data/arriving"))
        stack.finish(arrived["id"])
        watch = ["min_rows=300", "max_drifted_share=0.2"]
        bars = json.dumps(
            {name: float(value) if "." in value else int(value) for name, _, value in (word.partition("=") for word in watch)}
        )
        stack.command(*("deploy", "monitor", "--name", MODEL, "--set", f"model={MODEL}", "--set", f"bars={bars}", "--schedule", "15s"))
        told = wait_for("the drift", lambda: [one for one in happened(store) if one.event == events.MODEL_DRIFTED])
        stack.api(f"/deployments/{stack.api(f'/deployments/name/monitor/{MODEL}')['id']}/pause_deployment", {})
        run_id = wait_for("the retraining", lambda: next((run["id"] for run in stack.runs_of(f"retrain/{MODEL}")), ""))
        approve(stack, run_id)
        wait_for("version 2 as champion", lambda: with_alias(stack, CHAMPION) == 2)
        wait_for("version 2 in the answers", lambda: "2" in client.versions)

        put_forward(stack, tmp_path)
        wait_for("the verdict on version 3", lambda: verdict(stack, 3))
    finally:
        client.end()
    assert "rolled back" in verdict(stack, 3)
    assert with_alias(stack, CHAMPION) == 2
    assert client.failures == []
    assert client.num_answered > 300

    assert told[0].payload["version"] == 1
    assert "brightness" in told[0].payload["columns"]
    run = stack.api(f"/flow_runs/{run_id}")
    assert run["created_by"]["type"] == "AUTOMATION"
    assert run["parameters"]["reason"] == told[0].payload["reason"]
    log = registry.history(MODEL)
    chosen = next(one for one in log if one.compared.get("by") == "retrain")
    assert (chosen.version, chosen.alias, chosen.compared["winner"]) == (2, CHALLENGER, "challenger")
    assert chosen.compared["interval"][0] > 0
    assert chosen.reason.endswith("approved (looks right)")
    assert {"the old data", "the new data"} <= {one["name"] for one in chosen.compared["slices"]}
    parts = [names.resolve(store, name).digest for name in (f"{MODEL}-new", f"{MODEL}-labelled")]
    history = [entry.digest for entry in names.history(store, f"{MODEL}-all")]
    card = next(card for card in names.list_versions(store) if card.digest == history[0])
    assert card.lineage.details["with"] == parts, "the files that came, and the requests whose truth came"
    steps = [one.reason for one in log if one.version == 2 and one.operation == "canary"]
    assert "10, 50, 100 %" in steps[0]
    promoted = next(one for one in log if one.version == 2 and one.alias == CHAMPION)
    assert f"(flow run {stack.runs_of(f'canary/{MODEL}')[0]['id']})" in promoted.who
    deeds = {(entry.action, entry.what) for entry in read_audit(store)}
    wanted = {("deploy", f"retrain/{MODEL}"), ("trigger", f"retrain/{MODEL}"), ("retrain", f"{MODEL}/2"), ("up", "127.0.0.1")}
    assert wanted | {("models.promote", f"{MODEL}/2"), ("models.promote", f"{MODEL}/3"), ("models.canary", f"{MODEL}/3")} <= deeds


def set_up(stack: Stack, watched: Path) -> None:
    """The deployments of the loop, made at the same time."""
    canary = ["min_requests=30", "min_feedback=60", "look_s=0.5", "steps=[10, 50, 100]", "latency_factor=20", "max_shift=1"]
    retrain = [f"data={MODEL}-new", "promotion=challenger", "approval=true", "max_slice_loss=0.25"]
    wanted = [
        ("import-data", "arriving", [f"name={MODEL}-new"], f"files:{watched}", 1.0),
        ("retrain", MODEL, [f"model={MODEL}", *retrain], f"drift:{MODEL}", 0.5),
        ("canary", MODEL, [f"model={MODEL}", *canary], f"challenger:{MODEL}", 0.5),
    ]

    def deploy(one: tuple[str, str, list[str], str, float]) -> None:
        flow, name, values, trigger, quiet_s = one
        words = [word for value in values for word in ("--set", value)]
        stack.command("deploy", flow, "--name", name, *words, "--trigger", trigger, "--quiet-s", str(quiet_s))

    with ThreadPoolExecutor(len(wanted)) as pool:
        list(pool.map(deploy, wanted))


def happened(store: Store) -> list[events.Event]:
    """All events, oldest first."""
    keys = sorted([*store.list(f"{events.LOG}/"), *store.list(f"{events.OUTBOX}/")], key=lambda key: key.rpartition("/")[2])
    return [events.Event.model_validate_json(store.read_bytes(key)) for key in keys]


def ready(stack: Stack) -> bool:
    address = urlsplit(stack.serving)
    connection = HTTPConnection(str(address.hostname), address.port, timeout=10)
    try:
        connection.request("GET", f"/v2/models/{MODEL}/ready")
        return connection.getresponse().status == 200
    finally:
        connection.close()


def approve(stack: Stack, run_id: str) -> None:
    """What a person does in Prefect's page when the run pauses."""

    def paused() -> bool:
        run = stack.api(f"/flow_runs/{run_id}")
        assert run["state_type"] not in ("FAILED", "CRASHED", "COMPLETED"), stack.logs(run_id)
        return bool(run["state_type"] == "PAUSED")

    wait_for("the question", paused)
    # The run pauses a moment before its form is there.
    answer = {"run_input": {"approve": True, "comment": "looks right"}}
    wait_for("the answer's acceptance", lambda: stack.api(f"/flow_runs/{run_id}/resume", answer)["status"] == "ACCEPT")


def samples(folder: Path) -> list[tuple[bytes, str]]:
    found = [(file.read_bytes(), file.parent.name) for file in sorted(folder.glob("*/*.png"))]
    np.random.default_rng(0).shuffle(found)
    return found


def put_forward(stack: Stack, folder: Path) -> None:
    """By hand: version 3, which says of each class that it is the next one, as a model does that has learned from wrong labels."""
    registry, store = registry_of(stack), open_store(str(stack.workspace))
    live = registry.get(f"{MODEL}@{CHAMPION}")
    broken = folder / "broken"
    shutil.copytree(registry.package_folder(live), broken, ignore=shutil.ignore_patterns(MANIFEST))
    description = read_description(broken)
    write_description(broken, {**description, "labels": [*description["labels"][1:], description["labels"][0]]})
    package = publish(store, broken, "runs/broken/package", "export")
    made = registry.register(MODEL, package, algorithm=live.algorithm, dataset=live.dataset, metrics=live.metrics)
    assert made.version == 3
    stack.command("models", "promote", f"{MODEL}/3", "--alias", CHALLENGER)


def verdict(stack: Stack, version: int) -> str:
    """How the version's canary ended, from the registry's log."""
    ended = [one.reason for one in registry_of(stack).history(MODEL) if one.version == version and "begins" not in one.reason]
    return next((reason for reason in ended if reason.startswith("canary")), "")


def test_what_is_killed_comes_back_and_no_event_is_lost(stack: Stack, pictures: dict[str, Path]) -> None:
    before = stack.pids
    assert {"prefect", "scheduler", "mlflow", "slot-0", "worker", "triggers", "serving"} == set(before)
    for pid in before.values():
        os.kill(pid, signal.SIGKILL)
    store = open_store(str(stack.workspace))
    events.emit(events.DATASET_CREATED, "dataset:storm", {"data": str(pictures["new"])}, store=store)
    wait_for("all parts anew", lambda: len(stack.pids) == len(before) and not set(stack.pids.values()) & set(before.values()))
    wait_for("the server", lambda: with_alias(stack, CHAMPION) is None or ready(stack))
    runs: list[dict[str, Any]] = wait_for(
        "the run of the event", lambda: [run for run in stack.runs_of("import-data/storm") if "new" in run["parameters"]["data"]]
    )
    stack.finish(runs[0]["id"])
