"""Which kinds there are, how they are named, and what is wrong with what is none."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from infra.cluster import check_cluster
from infra.cluster_settings import KubernetesSettings
from infra.clusters import KINDS, kind_of
from infra.errors import InvalidSettingError, MissingExtraError
from infra.settings import Settings, load_settings


@pytest.mark.parametrize(
    ("cluster", "name"),
    [
        ("local", "local"),
        ("tcp://host:8786", "address"),
        ("tls://10.0.0.1:8786", "address"),
        ("tcp://[::1]:8786", "address"),
        ("ssh://a", "ssh"),
        ("ssh://me@a.example.org:2222,b,[fe80::1]", "ssh"),
        ("kubernetes", "kubernetes"),
        ("slurm", "slurm"),
    ],
)
def test_a_setting_means_a_kind(cluster: str, name: str) -> None:
    assert kind_of(cluster).name == name


@pytest.mark.parametrize(
    "cluster",
    [
        "",
        "Local",
        "k8s",
        "tcp://",
        "tcp://host",
        "tls://10.0.0.1",
        "tcp://me@host:1",
        "ssh://",
        "ssh://a b",
        "ssh://a,,b",
        "ssh://-oProxyCommand=x",
        "http://a:1",
    ],
)
def test_what_is_no_kind_is_told_with_all_that_are(cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATELIER_CLUSTER", cluster)
    with pytest.raises(InvalidSettingError) as caught:
        load_settings()
    assert all(kind.form in str(caught.value) for kind in KINDS)


@pytest.mark.parametrize("kind", KINDS, ids=[kind.name for kind in KINDS])
def test_every_kind_can_be_opened_and_is_documented(kind: object) -> None:
    found = next(one for one in KINDS if one is kind)
    assert callable(importlib.import_module(found.module).open_kind)
    page = (Path(__file__).parents[3] / "docs" / "clusters.md").read_text()
    assert found.form.split(" or ")[0] in page
    if found.name in Settings.model_fields:
        section = Settings.model_fields[found.name].annotation
        assert section is not None
        fields = getattr(section, "model_fields", {})
        assert [name for name in fields if f"`{name}`" not in page] == []


def test_sections_come_from_the_file_and_from_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "atelier.toml").write_text('cluster = "slurm"\n[slurm]\nqueue = "gpu"\ncores = 8\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ATELIER_SLURM__CORES", "4")
    settings = load_settings()
    assert (settings.cluster, settings.slurm.queue, settings.slurm.cores) == ("slurm", "gpu", 4)


def test_wrong_sections_are_told_all_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "atelier.toml").write_text(
        'slots = 2\nmin_slots = 1\n[slurm]\nqueue = "--exclude"\nque = "gpu"\n[kubernetes]\nmemory = "much"\n'
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidSettingError) as caught:
        load_settings()
    assert all(words in str(caught.value) for words in ("slurm.queue", "slurm.que:", "kubernetes.memory"))


def test_a_minimum_above_the_most_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATELIER_SLOTS", "2")
    monkeypatch.setenv("ATELIER_MIN_SLOTS", "3")
    with pytest.raises(InvalidSettingError, match=r"min_slots \(3\) is more than slots \(2\)"):
        load_settings()


@pytest.mark.parametrize(("cluster", "package"), [("kubernetes", "dask_kubernetes"), ("slurm", "dask_jobqueue")])
def test_a_missing_package_is_named_before_anything_is_opened(
    cluster: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    settings = Settings(workspace=str(tmp_path), cluster=cluster, kubernetes=KubernetesSettings(image="example/atelier:1"))
    with pytest.raises(MissingExtraError, match=rf"atelier\[{cluster}\]"):
        check_cluster(settings)
