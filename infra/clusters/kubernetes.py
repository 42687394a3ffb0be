"""Workers in pods, through Dask's operator for Kubernetes (dask-kubernetes); the scheduler is a pod, too."""

from __future__ import annotations

import contextlib
import uuid
from contextlib import ExitStack
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from infra.clusters import Opened
from infra.errors import InvalidSettingError, MissingExtraError, ServiceError
from infra.settings import Settings

if TYPE_CHECKING:
    from dask_kubernetes.operator import KubeCluster

WORKER_COMMAND = ["dask", "worker", "--nthreads", "1", "--resources", "slot=1", "--memory-limit", "0", "--no-nanny"]
IDLE_TIMEOUT_S = 3600  # the operator deletes a cluster whose driver was killed and could not


def check(settings: Settings) -> None:
    """Raises:
    InvalidSettingError: no image is set, or TLS, which the operator does not speak.
    MissingExtraError: dask-kubernetes is not installed.
    """
    if not settings.kubernetes.image:
        raise InvalidSettingError(["kubernetes.image: no image is named; it holds Python, this project and its libraries"])
    if settings.tls:
        why = "Dask's operator for Kubernetes speaks to its schedulers without TLS"
        raise InvalidSettingError([f"tls: {why}; start such a cluster yourself and give its address, tls://..., or leave ATELIER_TLS out"])
    if find_spec("dask_kubernetes") is None:
        raise MissingExtraError("dask-kubernetes", "kubernetes")


def manifest(settings: Settings, name: str) -> dict[str, Any]:
    """The ``DaskCluster`` resource that is created.

    Raises:
        InvalidSettingError, MissingExtraError: see ``check``.
    """
    check(settings)
    from dask_kubernetes.operator import make_cluster_spec

    own = settings.kubernetes
    limits = {"cpu": own.cpu, "memory": own.memory, **({"nvidia.com/gpu": str(own.gpus)} if own.gpus else {})}
    spec: dict[str, Any] = make_cluster_spec(
        name,
        image=own.image,
        n_workers=settings.min_slots or settings.slots,
        resources={"requests": limits, "limits": limits},
        env={"PYTHONUNBUFFERED": "1", **own.environment},
        worker_command=WORKER_COMMAND,
        idle_timeout=IDLE_TIMEOUT_S,
    )
    worker, scheduler = (spec["spec"][role]["spec"]["containers"][0] for role in ("worker", "scheduler"))
    scheduler["resources"] = {"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"memory": "4Gi"}}  # it needs no GPU
    if own.secret:
        for container in (worker, scheduler):
            container["envFrom"] = [{"secretRef": {"name": own.secret}}]
    # Ranks of torch pass data of loaders through shared memory, of which a container has 64 MiB unless it is given more.
    worker["volumeMounts"] = [{"name": "shared-memory", "mountPath": "/dev/shm"}]
    spec["spec"]["worker"]["spec"]["volumes"] = [{"name": "shared-memory", "emptyDir": {"medium": "Memory"}}]
    return spec


class _Pods:
    """The ``Pool`` of the operator's default worker group."""

    def __init__(self, cluster: KubeCluster, num_workers: int) -> None:
        self._cluster, self._num_workers = cluster, num_workers

    def grow(self, num_workers: int) -> None:
        if num_workers > self._num_workers:
            self._resize(num_workers)

    def shrink(self, names: list[str]) -> None:
        """The operator itself asks the scheduler which workers are idle: the same ones."""
        self._resize(self._num_workers - len(names))

    def _resize(self, num_workers: int) -> None:
        self._num_workers = num_workers
        self._cluster.scale(num_workers)

    @property
    def failed(self) -> bool:
        return False  # only time tells

    def settle(self) -> None:
        """Jobs and pods that end are started again by nobody or the operator."""

    def last_words(self) -> str:
        return f"its pods are not running: `kubectl describe pods -l dask.org/cluster-name={self._cluster.name}` says why"


def open_kind(settings: Settings, stack: ExitStack) -> Opened:
    own = settings.kubernetes
    spec = manifest(settings, f"{own.name}-{uuid.uuid4().hex[:8]}")
    import httpx
    import kr8s
    from dask_kubernetes.operator import KubeCluster
    from dask_kubernetes.operator.kubecluster.kubecluster import SchedulerStartupError
    from distributed import Client

    try:
        cluster = KubeCluster(
            custom_cluster_spec=spec, namespace=own.namespace or None, resource_timeout=int(own.start_timeout_s), quiet=True
        )
    except (OSError, RuntimeError, ValueError, TimeoutError, httpx.HTTPError, kr8s.ConnectionClosedError, SchedulerStartupError) as error:
        _forget(spec["metadata"]["name"])
        hint = "Check the current context (kubectl config current-context), and that Dask's operator is installed there."
        raise ServiceError("The Dask cluster on Kubernetes", f"{str(error) or type(error).__name__} {hint}") from error
    stack.callback(_close, cluster)
    client = stack.enter_context(Client(cluster, set_as_default=False))
    return Opened(client, _Pods(cluster, settings.min_slots or settings.slots), wait_s=own.start_timeout_s)


def _close(cluster: KubeCluster) -> None:
    import httpx
    import kr8s

    with contextlib.suppress(OSError, RuntimeError, TimeoutError, httpx.HTTPError, kr8s.APITimeoutError, kr8s.ConnectionClosedError):
        cluster.close(timeout=60)


def _forget(name: str) -> None:
    """Close what a constructor that failed has left: at the end of the process the library would try again, with a traceback."""
    from dask_kubernetes.operator import KubeCluster
    from distributed.core import Status

    for cluster in [one for one in KubeCluster._instances if one.name == name]:
        _close(cluster)
        cluster.status = Status.closed
