"""A registry with small models, and real server processes in front of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from infra.artifacts import publish
from infra.registry import Registry
from infra.settings import Settings
from infra.store import open_store
from tests.packages import write_colours, write_sums

UP_S = 60.0
LABELS = ["blue", "green", "red"]


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        return str(self.json["error"])


@dataclass
class Running:
    """A server process and how to ask it."""

    process: subprocess.Popen[str]
    url: str
    log: Path

    def ask(self, path: str, body: bytes | Any = None, method: str | None = None, **headers: str) -> Answer:
        """One request; a body that is not bytes goes as JSON. Underscores in the headers' names become dashes."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if data is not None and not any(name.lower() == "content-type" for name in named):
            named["Content-Type"] = "application/json"
        request = urllib.request.Request(self.url + path, data, named, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return Answer(answer.status, {name.lower(): value for name, value in answer.headers.items()}, answer.read())
        except urllib.error.HTTPError as error:
            return Answer(error.code, {name.lower(): value for name, value in error.headers.items()}, error.read())

    def until(self, path: str, test: Callable[[Answer], bool]) -> Answer:
        """Ask until the answer is as wanted."""
        end = time.monotonic() + UP_S
        while time.monotonic() < end:
            answer = self.ask(path)
            if test(answer):
                return answer
            time.sleep(0.05)
        raise AssertionError(f"{path} never was as wanted; last {answer.status} {answer.body!r}")

    def metrics(self) -> dict[str, float]:
        """Every sample of ``/metrics``."""
        lines = self.ask("/metrics").body.decode().splitlines()
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line and not line.startswith("#")}


@contextmanager
def running(settings: Settings, folder: Path, *arguments: str) -> Iterator[Running]:
    """``atelier serve ARGUMENTS`` on a free port, until it answers; stopped at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "server.log"
    environment = {**os.environ, "ATELIER_WORKSPACE": settings.workspace, "ATELIER_CACHE_DIR": str(settings.cache_dir)}
    command = [sys.executable, "-m", "deployments.cli", "serve", "--port", "0", "--poll-s", "0.1", "--drain-s", "0.2", *arguments]
    with log.open("w") as output:
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=output, text=True)
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("serving http://"), f"{line!r}\n{log.read_text()}"
            yield Running(process, line.split()[1], log)
        finally:
            process.terminate()
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            assert process.stdout is not None
            process.stdout.close()


def register(settings: Settings, name: str, folder: Path, algorithm: str = "image-classification/small-cnn") -> int:
    """Register the package in ``folder``; its number."""
    store = open_store(settings.workspace_uri)
    artifact = publish(store, folder, f"runs/{name}-{folder.name}/package", "export")
    metrics = {"accuracy": 0.9} if algorithm.startswith("image") else {"rmse": 1.5}
    return Registry(settings, store).register(name, artifact, algorithm=algorithm, dataset="d" * 64, metrics=metrics).version


def fill(settings: Settings, folder: Path) -> Registry:
    """colours/1 (champion), colours/2 (the same with the labels red and blue changed over), sums/1."""
    registry = Registry(settings, open_store(settings.workspace_uri))
    register(settings, "colours", write_colours(folder / "colours-1"))
    # The graph of the first, but red is called blue and blue red: it is wrong about both.
    from tests.packages import colour_model

    register(
        settings, "colours", write_colours(folder / "colours-2", labels=["red", "green", "blue"], onnx_model_bytes=colour_model(LABELS))
    )
    register(settings, "sums", write_sums(folder / "sums"), "tabular-regression/linear")
    registry.promote("colours", 1, reason="the first")
    return registry


@pytest.fixture(scope="package")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A workspace that the tests of this folder share."""
    folder = tmp_path_factory.mktemp("serving")
    return Settings(workspace=str(folder / "workspace"), cache_dir=tmp_path_factory.getbasetemp() / "atelier-cache")


@pytest.fixture(scope="package")
def registry(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Registry:
    return fill(settings, tmp_path_factory.mktemp("packages"))


@pytest.fixture(scope="package")
def server(settings: Settings, registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server with colours (1 and 2) and sums; nothing is promoted while it runs."""
    options = ["--capture", "1", "--capture-s", "0.2", "--max-body-mib", "8"]
    with running(settings, tmp_path_factory.mktemp("server"), "colours/1", "colours/2", "sums", *options) as one:
        yield one
