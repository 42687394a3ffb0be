"""What the tests of whole runs share: one Prefect API, one cluster, and small data."""

from __future__ import annotations

import base64
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.caches import fresh_cache

if TYPE_CHECKING:
    from distributed import Client

QUICK = {"epochs": 4, "image_size": 8}
KEY_VARIABLE = "ATELIER_PACKAGE_KEY"


@pytest.fixture(scope="session")
def prefect_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Prefect API server for all runs of the session, so that each need not start its own."""
    from infra.prefect_server import EmbeddedServer
    from infra.settings import Settings

    folder = tmp_path_factory.mktemp("prefect")
    with EmbeddedServer(Settings(workspace=str(folder), cache_dir=fresh_cache(folder / "cache", tmp_path_factory))) as server:
        yield server.wait()


@pytest.fixture
def shared_services(prefect_api: str, cluster: Client, monkeypatch: pytest.MonkeyPatch, workspace: Path) -> Path:
    """Runs of this test use the session's Prefect API and Dask cluster, and a workspace of their own."""
    from infra.settings import load_settings

    monkeypatch.setenv("PREFECT_API_URL", prefect_api)
    monkeypatch.setenv("ATELIER_CLUSTER", cluster.scheduler_info()["address"])
    load_settings.cache_clear()
    return workspace


@pytest.fixture
def package_key(cluster: Client, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A key by which packages are sealed: this process and the session's workers have it, as with a cluster that a run starts itself."""
    from infra.settings import load_settings

    key = base64.b64encode(b"Sup3rGeheim-key-of-thirty-two-by").decode()
    monkeypatch.setenv(KEY_VARIABLE, key)
    cluster.run(lambda: os.environ.update({KEY_VARIABLE: key}))
    load_settings.cache_clear()
    yield key
    cluster.run(lambda: os.environ.pop(KEY_VARIABLE))


@pytest.fixture(scope="session")
def few_digits(digits_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty pictures of each of four digits."""
    folder = tmp_path_factory.mktemp("few") / "few-digits"
    for name in "0123":
        (folder / name).mkdir(parents=True)
        for file in sorted((digits_folder / name).iterdir())[:40]:
            shutil.copy(file, folder / name)
    return folder


@pytest.fixture(scope="session")
def wine_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wine data of scikit-learn as a CSV with a column ``kind``."""
    from sklearn.datasets import load_wine

    frame = load_wine(as_frame=True).frame
    frame["kind"] = frame.pop("target").map({0: "barolo", 1: "grignolino", 2: "barbera"})
    path = tmp_path_factory.mktemp("wine") / "wine.csv"
    frame.to_csv(path, index=False)
    return path


@pytest.fixture
def run_environment(workspace: Path) -> dict[str, str]:
    """For runs in a process of their own, with an embedded server and cluster of their own."""
    return {**os.environ, "ATELIER_WORKSPACE": str(workspace), "ATELIER_SLOTS": "2", "PYTHONUNBUFFERED": "1"}
