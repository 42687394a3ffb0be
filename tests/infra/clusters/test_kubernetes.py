"""The manifest for Dask's operator, checked by the models of Kubernetes' own client. No pod runs here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from infra.cluster import open_cluster
from infra.cluster_settings import KubernetesSettings
from infra.clusters.kubernetes import manifest
from infra.errors import InvalidSettingError, ServiceError
from infra.settings import Settings

kubernetes = pytest.importorskip("kubernetes", reason="the extra kubernetes is not installed")


def settings(tmp_path: Path, **own: Any) -> Settings:
    values = {"image": "example/atelier:1", **own}
    return Settings(workspace=str(tmp_path), cluster="kubernetes", slots=3, kubernetes=KubernetesSettings(**values))


def as_kubernetes_reads_it(value: dict[str, Any], model: str) -> Any:
    """The value as an object of Kubernetes' client, which refuses wrong types and missing fields; unknown fields would be lost on the way back."""
    client = kubernetes.client.ApiClient()
    read = client.deserialize(json.dumps(value), model, "application/json")
    back = client.sanitize_for_serialization(read)
    assert json.loads(json.dumps(back)) == without_nothing(value)
    return read


def without_nothing(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_nothing(one) for key, one in value.items() if one is not None}
    return [without_nothing(one) for one in value] if isinstance(value, list) else value


def test_kubernetes_takes_the_pods_and_the_service(tmp_path: Path) -> None:
    found = manifest(settings(tmp_path, cpu="2", memory="8Gi", gpus=1, environment={"A": "b"}, secret="s3"), "atelier-1")
    assert (found["kind"], found["metadata"]["name"], found["spec"]["worker"]["replicas"]) == ("DaskCluster", "atelier-1", 3)
    worker = as_kubernetes_reads_it(found["spec"]["worker"]["spec"], "V1PodSpec").containers[0]
    scheduler = as_kubernetes_reads_it(found["spec"]["scheduler"]["spec"], "V1PodSpec").containers[0]
    as_kubernetes_reads_it(found["spec"]["scheduler"]["service"], "V1ServiceSpec")
    assert worker.resources.limits == {"cpu": "2", "memory": "8Gi", "nvidia.com/gpu": "1"}
    assert "nvidia.com/gpu" not in (scheduler.resources.limits or {})
    assert " ".join(worker.args).startswith("dask worker --nthreads 1 --resources slot=1")
    assert "A" in [variable.name for variable in worker.env]
    assert worker.env_from[0].secret_ref.name == "s3"


def test_the_workers_arguments_are_ones_that_dask_takes(tmp_path: Path) -> None:
    from distributed.cli.dask_worker import main

    args = manifest(settings(tmp_path), "x")["spec"]["worker"]["spec"]["containers"][0]["args"]
    context = main.make_context("dask worker", [*args[2:], "tcp://127.0.0.1:1"])
    assert context.params["resources"] == "slot=1"


def test_certificates_are_refused_since_the_operator_speaks_no_tls(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettingError, match="without TLS"):
        manifest(settings(tmp_path).model_copy(update={"tls": tmp_path}), "x")


def test_a_kubernetes_that_does_not_answer_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_port: int) -> None:
    cluster = {"name": "c", "cluster": {"server": f"http://127.0.0.1:{free_port}"}}
    context = {"name": "x", "context": {"cluster": "c", "user": "u", "namespace": "n"}}
    users = [{"name": "u", "user": {"token": "t"}}]
    config = {"apiVersion": "v1", "kind": "Config", "current-context": "x", "clusters": [cluster], "contexts": [context], "users": users}
    (tmp_path / "config").write_text(json.dumps(config))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    with pytest.raises(ServiceError, match="kubectl config current-context"), open_cluster(settings(tmp_path / "w")):
        raise AssertionError("it must not start")
