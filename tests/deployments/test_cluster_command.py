"""``atelier cluster``, and what the command line says of clusters that are none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from deployments._cluster_checks import check_cluster
from deployments.cli import main
from infra.clusters.tls import read_pems
from infra.errors import InvalidSettingError
from infra.settings import Settings, load_settings


def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *words: str, **settings: str) -> tuple[int, str, str]:
    for name, value in settings.items():
        monkeypatch.setenv(f"ATELIER_{name}", value)
    load_settings.cache_clear()
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    assert isinstance(ended.value.code, int)
    return ended.value.code, *capfd.readouterr()


def test_certificates_are_made_where_they_are_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    status, out, err = run(monkeypatch, capfd, "cluster", "certificates", str(tmp_path / "team"))
    assert status == 0
    assert [Path(line).name for line in out.splitlines()] == ["ca-key.pem", "ca.pem", "key.pem", "cert.pem"]
    assert "ca-key.pem" in err
    read_pems(tmp_path / "team")


@pytest.mark.parametrize(
    ("cluster", "words"),
    [("local", "kubernetes"), ("ssh://a,b", "infra._ssh_worker"), ("slurm", "#SBATCH -n 1")],
)
def test_what_would_be_started_is_shown(
    cluster: str, words: str, workspace: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    status, out, _ = run(monkeypatch, capfd, "cluster", "show", "--json", CLUSTER=cluster)
    assert status == 0
    assert words in json.loads(out)["text"]
    assert list(workspace.iterdir()) == []


def test_a_manifest_can_be_given_to_kubectl(workspace: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("dask_kubernetes", reason="the extra kubernetes is not installed")
    _, out, _ = run(monkeypatch, capfd, "cluster", "show", CLUSTER="kubernetes", KUBERNETES__IMAGE="example/atelier:1")
    assert yaml.safe_load(out)["kind"] == "DaskCluster"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"CLUSTER": "mesos"}, "there is no such cluster"),
        ({"CLUSTER": "kubernetes"}, "no image is named"),
        ({"CLUSTER": "slurm", "SLURM__WALLTIME": "soon"}, "slurm.walltime"),
        ({"CLUSTER": "slurm", "SLURM": "queue=gpu"}, "slurm: no JSON"),
        ({"CLUSTER": "ssh://a", "SSH__OPTIONS": "-i key"}, "ssh: no JSON"),
    ],
)
def test_wrong_settings_have_status_2_and_no_traceback(
    settings: dict[str, str], words: str, workspace: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    status, out, err = run(monkeypatch, capfd, "cluster", "show", **settings)
    assert (status, out) == (2, "")
    assert words in err
    assert "Traceback" not in err


def test_certificates_that_are_none_have_status_2(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettingError, match="cannot be read") as caught:
        check_cluster(Settings(workspace=str(tmp_path), cluster="tls://127.0.0.1:1", tls=tmp_path / "nowhere"))
    assert caught.value.exit_status == 2
