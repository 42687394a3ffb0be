"""The embedded Prefect server, when it does not come up: whoever waits is told why, and what to do."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from infra.errors import ServiceError
from infra.prefect_server import EmbeddedServer
from infra.settings import Settings


def test_a_server_that_is_slow_or_ends_says_why(tmp_path: Path) -> None:
    home = tmp_path / "prefect"
    home.mkdir()
    (home / "prefect.db").write_bytes(b"this is no database" * 1000)
    (home / "server.log").write_text("of an earlier run\n")
    with EmbeddedServer(Settings(workspace=str(tmp_path), cache_dir=tmp_path / "cache", start_s=0.2)) as server:
        with pytest.raises(ServiceError) as slow:
            server.wait()
        for words in ("not ready within 0.2 s", "the load is", "ATELIER_START_S", "server.log"):
            assert words in str(slow.value)

        server.patience_s, begin = 300.0, time.monotonic()
        with pytest.raises(ServiceError) as ended:
            server.wait()
        for words in ("ended by itself with status 3", "file is not a database"):
            assert words in str(ended.value)
        assert "of an earlier run" not in str(ended.value)
        assert time.monotonic() - begin < 300
