"""The same run with the workspace on S3, through a network that fails now and then."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flows import pipeline
from infra.settings import load_settings
from tests.faulty_proxy import FaultyProxy
from tests.runs import QUICK


def test_a_run_on_s3_passes_while_one_request_in_twenty_fails(
    s3_workspace: str, s3_server: str, prefect_api: str, few_digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", prefect_api)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("ATELIER_SLOTS", "2")
    with FaultyProxy(s3_server, rate=0.05, seed=7) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        load_settings.cache_clear()
        result = pipeline(algorithm="image-classification/small-cnn", data=str(few_digits), workers=2, options=QUICK)
        again = pipeline(algorithm="image-classification/small-cnn", data=str(few_digits), workers=2, options=QUICK)
        assert proxy.num_faults > 0, "the proxy let everything pass: nothing was tested"

    assert result.package.startswith("s3://")
    assert result.metrics["accuracy"] >= 0.8
    assert {stage.state for stage in again.stages} == {"cached"}
    assert os.environ["ATELIER_WORKSPACE"] == s3_workspace
