"""The judge with a real server, a real registry and clients: a good version comes through, a broken one does not."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from deployments.serving.canary import Judge, grown, read_counts, seen_of
from deployments.serving.verdict import Bars
from infra.errors import InvalidOptionError
from infra.events import MODEL_CHALLENGED, pending
from infra.settings import Settings
from infra.store import MemoryStore, open_store
from tests.deployments.serving.conftest import Running, fill, register, running
from tests.packages import write_colours

COLOURS = {"red": (200, 10, 10), "green": (10, 200, 10), "blue": (10, 10, 200)}


def encoded(colour: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (6, 6), COLOURS[colour]).save(file, "PNG")
    return file.getvalue()


@contextmanager
def clients(server: Running, colours: list[str]) -> Iterator[list[int]]:
    """Two clients that ask without pause, and tell the truth afterwards; the statuses that came."""
    statuses: list[int] = []
    stop = threading.Event()

    def ask(number: int) -> None:
        turn = number
        while not stop.is_set():
            colour, turn = colours[turn % len(colours)], turn + 1
            answer = server.ask("/v2/models/colours/predict", encoded(colour), content_type="image/png", atelier_key=f"{number}-{turn}")
            statuses.append(answer.status)
            token = answer.headers.get("atelier-prediction", "")
            statuses.append(server.ask("/v2/models/colours/feedback", {"prediction": token, "truth": [colour]}).status)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield statuses
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def judged(settings: Settings, server: Running, model: str) -> tuple[int, dict[str, object]]:
    """Exit status and document of ``atelier canary MODEL``."""
    command = [
        sys.executable,
        "-m",
        "deployments.cli",
        "canary",
        model,
        "--server",
        server.url,
        "--steps",
        "20,60,100",
        "--min-requests",
        "25",
    ]
    command += ["--look-s", "0.1", "--latency-factor", "100", "--json"]
    environment = {**os.environ, "ATELIER_WORKSPACE": settings.workspace, "ATELIER_CACHE_DIR": str(settings.cache_dir)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180, check=False)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_a_good_version_is_promoted_and_a_broken_one_is_rolled_back(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    settings = Settings(workspace=str(tmp_path / "workspace"), cache_dir=tmp_path_factory.getbasetemp() / "atelier-cache")
    registry = fill(settings, tmp_path / "packages")
    good = register(settings, "colours", write_colours(tmp_path / "packages" / "good", config={"seed": 1}))
    registry.promote("colours", good, "challenger")
    # The broken version (2) calls red blue and blue red, evenly, so only the truth tells.
    with running(settings, tmp_path, "colours") as server, clients(server, ["red", "green", "blue"]) as statuses:
        status, told = judged(settings, server, "colours")
        assert (status, told["outcome"], told["weight"]) == (0, "promoted", 100)
        server.until("/v2/models/colours", lambda answer: answer.json["parameters"]["version"] == str(good))
        status, told = judged(settings, server, "colours/2")
        assert (status, told["outcome"]) == (1, "rolled back")
        assert "predictions were wrong" in str(told["reason"])
        assert server.ask("/v2/models/colours").json["parameters"]["version"] == str(good)
        assert set(statuses) == {200}
    events = [(event.operation, event.version) for event in registry.history("colours")][-4:]
    assert events == [("canary", good), ("promote", good), ("canary", 2), ("canary", 2)]
    last = registry.history("colours")[-1]
    assert last.reason.startswith("canary rolled back at")
    assert last.compared["p_values"]["accuracy"] < 0.01
    assert registry.get("colours").version == good


def test_without_requests_nothing_is_promoted(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    settings = Settings(workspace=str(tmp_path / "workspace"), cache_dir=tmp_path_factory.getbasetemp() / "atelier-cache")
    registry, store = fill(settings, tmp_path / "packages"), MemoryStore("memory://canary")
    for _ in range(2):  # what was sent back can be put forward again
        assert registry.promote("colours", 2, "challenger").aliases == ["challenger"]
        outcome = Judge(registry, store, lambda: [""], bars=Bars(), look_s=0.01, step_s=0.05).run("colours", 2)
        assert (outcome.outcome, "too few requests" in outcome.reason) == ("rolled back", True)
        assert registry.get("colours/2").aliases == []
    told = [one.payload["version"] for one in pending(open_store(settings.workspace_uri)) if one.event == MODEL_CHALLENGED]
    assert told == [2, 2]
    assert list(store.list("serving/")) == []
    with pytest.raises(InvalidOptionError, match="live already"):
        Judge(registry, store, lambda: [""], bars=Bars()).run("colours", 1)
    with pytest.raises(InvalidOptionError, match="growing shares"):
        Judge(registry, store, lambda: [""], bars=Bars(), steps=(50, 10))


def test_counts_are_summed_over_servers_and_survive_a_restart() -> None:
    text = 'atelier_requests_total{model="m",version="1",outcome="ok"} 5\natelier_predictions_total{model="m",version="1",label="a"} 5\n'
    both = read_counts([text, text.replace(" 5", " 7")])
    assert seen_of(both, "m", 1).answered == 12
    assert seen_of(grown(both, read_counts([text, text])), "m", 1).predictions == {"a": 10}  # fell from 12: started anew
    assert seen_of(both, "m", 2).answered == 0
