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
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from algorithms.catalog import ALGORITHMS
from flows.presets import flow_name
from infra import events
from infra.promotion import CHALLENGER, CHAMPION
from infra.registry import ModelVersion, Registry
from infra.settings import Settings
from infra.store import open_store
from tests.stack import Stack, running_stack, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
MODEL = "digits"
OPTIONS = {"epochs": 12, "image_size": 8}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    workspace = tmp_path_factory.mktemp("stack") / "workspace"
    cache = os.environ.get("ATELIER_CACHE_DIR") or str(tmp_path_factory.getbasetemp() / "atelier-cache")
    with running_stack(workspace, uuid.uuid4().hex, ATELIER_CACHE_DIR=cache) as found:
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
    """Folders of labelled pictures of four digits: ``old``; ``new``, which are negatives; ``wrong``, whose labels are all wrong."""
    root = tmp_path_factory.mktemp("pictures")
    for digit in "0123":
        files = sorted((digits_folder / digit).iterdir())[:150]
        for name in ("old", "new", "wrong"):
            (root / name / digit).mkdir(parents=True, exist_ok=True)
        wrong = root / "wrong" / str((int(digit) + 1) % 4)
        wrong.mkdir(parents=True, exist_ok=True)
        for file in files[:80]:
            shutil.copy(file, root / "old" / digit)
            shutil.copy(file, wrong / f"{digit}-{file.name}")
        for file in files[80:]:
            negative(file.read_bytes(), root / "new" / digit / file.name)
    return {name: root / name for name in ("old", "new", "wrong")}


def negative(encoded: bytes, path: Path | None = None) -> bytes:
    """The picture with black and white exchanged: what the first model has never seen."""
    turned = Image.fromarray(255 - np.asarray(Image.open(io.BytesIO(encoded)).convert("L")))
    kept = io.BytesIO()
    turned.save(kept, "png")
    if path is not None:
        path.write_bytes(kept.getvalue())
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
    assert {flow_name(algorithm.name) for algorithm in ALGORITHMS} | {"retrain", "canary", "import-data", "pipeline"} <= names


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


def test_the_loop_closes(stack: Stack, pictures: dict[str, Path], tmp_path: Path) -> None:
    """v1 serves; other pictures come; v2 is trained by that event, wins and takes over through a canary; a wrong v3 is sent back."""
    form = {"data": str(pictures["old"]), "name": MODEL, **OPTIONS}
    stack.finish(stack.start_run("image-classification:small-cnn/default", form))
    broken = stack.start_run("image-classification:small-cnn/default", {**form, "data": str(pictures["wrong"]), "name": "wrong"})
    wait_for("the server", lambda: ready(stack))

    watched = tmp_path / "arriving"
    watched.mkdir()
    stack.command(
        *("deploy", "retrain", "--name", MODEL, "--set", f"model={MODEL}", "--set", "promotion=challenger", "--set", "approval=true"),
        *("--set", "max_slice_loss=0.25"),
        *("--quiet-s", "1"),
        *("--trigger", f"files:{watched}", "--trigger", f"drift:{MODEL}"),
    )
    bars = ["min_requests=30", "min_feedback=60", "look_s=0.5", "steps=[10, 50, 100]", "latency_factor=20", "max_shift=1"]
    settings = [word for bar in bars for word in ("--set", bar)]
    stack.command(
        "deploy", "canary", "--name", MODEL, "--set", f"model={MODEL}", *settings, "--trigger", f"challenger:{MODEL}", "--quiet-s", "0.5"
    )

    client = Client(stack.serving, samples(pictures["old"]))
    client.start()
    try:
        client.samples = samples(pictures["new"])
        shutil.copytree(pictures["new"], watched, dirs_exist_ok=True)
        approve(stack)
        wait_for("version 2 as champion", lambda: with_alias(stack, CHAMPION) == 2)
        (run,) = stack.runs_of(f"retrain/{MODEL}")
        assert run["parameters"]["data"] == str(watched)
        wait_for("version 2 in the answers", lambda: "2" in client.versions)

        stack.finish(broken)
        put_forward(stack, tmp_path)
        wait_for("the verdict on version 3", lambda: verdict(stack, 3))
    finally:
        client.end()
    assert "rolled back" in verdict(stack, 3)
    assert with_alias(stack, CHAMPION) == 2
    log = registry_of(stack).history(MODEL)
    chosen = next(one for one in log if one.compared.get("by") == "retrain")
    assert (chosen.version, chosen.alias, chosen.compared["winner"]) == (2, CHALLENGER, "challenger")
    assert chosen.compared["interval"][0] > 0
    assert chosen.reason.endswith("approved (looks right)")
    assert {"the old data", "the new data"} <= {one["name"] for one in chosen.compared["slices"]}
    assert client.failures == []
    assert client.num_answered > 200


def ready(stack: Stack) -> bool:
    address = urlsplit(stack.serving)
    connection = HTTPConnection(str(address.hostname), address.port, timeout=10)
    try:
        connection.request("GET", f"/v2/models/{MODEL}/ready")
        return connection.getresponse().status == 200
    finally:
        connection.close()


def approve(stack: Stack) -> None:
    """What a person does in Prefect's page when the run pauses."""

    def paused() -> str:
        runs = stack.runs_of(f"retrain/{MODEL}")
        assert all(run["state_type"] not in ("FAILED", "CRASHED") for run in runs), stack.logs(runs[0]["id"])
        return next((run["id"] for run in runs if run["state_type"] == "PAUSED"), "")

    run_id = wait_for("the question", paused)
    stack.api(f"/flow_runs/{run_id}/resume", {"run_input": {"approve": True, "comment": "looks right"}})


def samples(folder: Path) -> list[tuple[bytes, str]]:
    found = [(file.read_bytes(), file.parent.name) for file in sorted(folder.glob("*/*.png"))]
    np.random.default_rng(0).shuffle(found)
    return found


def put_forward(stack: Stack, folder: Path) -> None:
    """The model with the wrong labels as version 3, by hand."""
    file = folder / "wrong.zip"
    stack.command("models", "export", "wrong", str(file))
    stack.command("models", "import", str(file), "--name", MODEL)
    assert versions(stack)[-1].version == 3
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
