"""What all tests share: a workspace of their own, an S3 server, a Dask cluster, the digits; and the rule that no process stays behind."""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.caches import fresh_cache

if TYPE_CHECKING:
    from distributed import Client

pytest_plugins = ["tests.runs", "tests.postgres"]

SESSION_MARK = "ATELIER_TEST_SESSION"
# These belong to Python's multiprocessing and end with the process that they serve.
OWN_HELPERS = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")


def pytest_configure(config: pytest.Config) -> None:
    """Mark this session's environment, which every process started by a test inherits, and forget the settings of whoever runs the tests."""
    from infra.settings import Settings

    for name in Settings.model_fields:
        for variable in [one for one in os.environ if one == f"ATELIER_{name.upper()}" or one.startswith(f"ATELIER_{name.upper()}__")]:
            del os.environ[variable]
    os.environ[SESSION_MARK] = uuid.uuid4().hex


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    wanting = [item for item in items if item.get_closest_marker("gpu")]
    if not wanting:
        return
    from infra.horovod.toolchain import has_gpu

    if not has_gpu():
        for item in wanting:
            item.add_marker(pytest.mark.skip(reason="this machine has no NVIDIA GPU (asked of nvidia-smi)"))


def _left_behind() -> list[psutil.Process]:
    """Processes that a test started and that still run: children, and orphans, known by the mark in their environment."""
    mark, own = os.environ[SESSION_MARK], os.getpid()
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid == own or process.status() == psutil.STATUS_ZOMBIE or process.environ().get(SESSION_MARK) != mark:
                continue
            if not any(helper in " ".join(process.cmdline()) for helper in OWN_HELPERS):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run if a test left a process behind (they get 5 s to end), and end it."""
    deadline = time.monotonic() + 5.0
    while (left := _left_behind()) and time.monotonic() < deadline:
        time.sleep(0.1)
    if not left:
        return
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    for process in left:
        with process.oneshot():
            line = f"left behind by a test: process {process.pid}: {' '.join(process.cmdline())[:300]}" if process.is_running() else ""
        if reporter and line:
            reporter.ensure_newline()
            reporter.write_line(line, red=True)
        process.kill()
    session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(autouse=True)
def _fresh_settings(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Settings are read anew in each test, and the cache of whoever runs the tests is not touched."""
    from infra.settings import load_settings

    if "ATELIER_CACHE_DIR" not in os.environ:
        monkeypatch.setenv("ATELIER_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "atelier-cache"))
    load_settings.cache_clear()
    yield
    load_settings.cache_clear()


@pytest.fixture
def own_cache(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This test's own cache, empty but for the migrated databases."""
    return fresh_cache(tmp_path / "cache", tmp_path_factory)


@pytest.fixture
def workspace(tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is this test's ATELIER_WORKSPACE; its cache is its own, too."""
    from infra.settings import load_settings

    folder = tmp_path / "workspace"
    folder.mkdir()
    monkeypatch.setenv("ATELIER_WORKSPACE", str(folder))
    monkeypatch.setenv("ATELIER_CACHE_DIR", str(own_cache))
    load_settings.cache_clear()
    return folder


@pytest.fixture(scope="session")
def digits_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled digits as an image folder, ``0/`` to ``9/``; 1,797 pictures. Not to be changed."""
    from infra.datasets.digits import write_digits

    return write_digits(tmp_path_factory.mktemp("digits") / "digits")


@pytest.fixture
def free_port() -> int:
    """A TCP port of 127.0.0.1 on which nothing listens at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """The address of an S3 server (moto, over HTTP) that lives as long as the session."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_server(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The S3 server's address; the usual AWS variables lead to it while the test runs."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    return s3_endpoint


@pytest.fixture
def s3_workspace(s3_server: str, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """``s3://bucket/workspace`` in a bucket of its own, set as this test's ATELIER_WORKSPACE."""
    import boto3

    from infra.settings import load_settings

    bucket = f"test-{uuid.uuid4().hex}"
    client = boto3.client("s3", endpoint_url=s3_server)
    client.create_bucket(Bucket=bucket)
    client.close()
    monkeypatch.setenv("ATELIER_WORKSPACE", f"s3://{bucket}/workspace")
    monkeypatch.setenv("ATELIER_CACHE_DIR", str(own_cache))
    load_settings.cache_clear()
    return f"s3://{bucket}/workspace"


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A Dask cluster of two worker processes with one slot each, shared by all tests: leave no task running on it."""
    from infra.cluster import open_cluster
    from infra.settings import Settings

    folder = tmp_path_factory.mktemp("cluster")
    with open_cluster(Settings(workspace=str(folder), cache_dir=folder / "cache", slots=2)) as client:
        yield client
