"""Workers as jobs of a Slurm queue, through dask-jobqueue; the scheduler is in this process, and all is encrypted.

The certificates lie in a folder that the nodes share and only this user can read; without ``ATELIER_TLS`` they are new for each cluster.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import shutil
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

from infra.cluster import python_path
from infra.clusters import Opened
from infra.clusters.tls import FILES, make_pems, read_pems, security_of
from infra.errors import MissingExtraError
from infra.settings import Settings

if TYPE_CHECKING:
    from dask_jobqueue import SLURMCluster

WITHOUT_SCHEDULER_S = 120  # a worker that finds no scheduler for so long ends
RETRY_S = 30.0  # after a refused submission


def own_address() -> str:
    """The address under which this machine's own name is known; that of a login node is in its cluster's DNS."""
    try:
        return socket.gethostbyname(socket.gethostname())
    except OSError:
        return "127.0.0.1"


def job_options(settings: Settings) -> dict[str, Any]:
    """What dask-jobqueue is given for one job: one worker of one thread and one slot, whatever its cores are."""
    slurm = settings.slurm
    prologue = [f"export PYTHONPATH={shlex.quote(python_path())}", "export PYTHONUNBUFFERED=1", *slurm.prologue]
    return {
        "queue": slurm.queue or None,
        "account": slurm.account or None,
        "cores": 1,
        "job_cpu": slurm.cores,
        "processes": 1,
        "memory": slurm.memory,
        "walltime": slurm.walltime,
        "nanny": False,
        "python": sys.executable,
        "death_timeout": WITHOUT_SCHEDULER_S,
        "job_name": "atelier",
        "log_directory": str(folder_of(settings) / "logs"),
        "job_script_prologue": prologue,
        "job_extra_directives": [*([f"--gres=gpu:{slurm.gpus}"] if slurm.gpus else []), *slurm.directives],
        "worker_extra_args": ["--resources", "slot=1", "--no-dashboard"],
    }


def check(settings: Settings) -> None:
    """Raises:
    MissingExtraError: dask-jobqueue is not installed.
    """
    if find_spec("dask_jobqueue") is None:  # not imported, see `_check_installed`
        raise MissingExtraError("dask-jobqueue", "slurm")


def folder_of(settings: Settings) -> Path:
    return Path(settings.slurm.folder).expanduser() if settings.slurm.folder else settings.state_dir / "slurm"


def job_script(settings: Settings) -> str:
    """The script of one job, as it would be given to ``sbatch``.

    Raises:
        MissingExtraError: dask-jobqueue is not installed.
    """
    _check_installed()
    from dask_jobqueue.slurm import SLURMJob

    options = {**job_options(settings), "log_directory": None}
    return str(SLURMJob(scheduler="tls://SCHEDULER", name="atelier-0", protocol="tls://", **options).job_script())


def _check_installed() -> None:
    """Import dask-jobqueue, which as a whole takes Ctrl-C for itself: it would end us without a word, and only a main thread may do so; we are in another."""
    import distributed  # noqa: F401  # whole, before a part of it is asked for while another thread is importing it

    try:
        with _no_signal_handlers():
            import dask_jobqueue  # noqa: F401
    except ImportError:
        raise MissingExtraError("dask-jobqueue", "slurm") from None


@contextlib.contextmanager
def _no_signal_handlers() -> Iterator[None]:
    """Whatever this thread sets as a handler of a signal is not set."""
    thread, before = threading.get_ident(), signal.signal

    def set_handler(number: int, handler: Any) -> Any:
        return signal.getsignal(number) if threading.get_ident() == thread else before(number, handler)

    with mock.patch.object(signal, "signal", set_handler):
        yield


class _Jobs:
    """The ``Pool`` of dask-jobqueue's cluster."""

    def __init__(self, cluster: SLURMCluster, log_dir: Path) -> None:
        self._cluster, self._log_dir = cluster, log_dir
        self._refusal = ""
        self._refused_at = -RETRY_S

    def grow(self, num_workers: int) -> None:
        if num_workers <= len(self._cluster.worker_spec) or time.monotonic() < self._refused_at + RETRY_S:
            return
        try:
            self._cluster.sync(self._submit, num_workers)
            self._refusal = ""
        except FileNotFoundError as error:
            self._refusal = f"{error.filename} is not on the PATH of this machine."
        except RuntimeError as error:
            self._refusal = str(error).strip()
        if self._refusal:
            self._refused_at = time.monotonic()

    async def _submit(self, num_workers: int) -> None:
        """As ``SpecCluster.scale``, which does not tell what went wrong and takes refused jobs for running ones."""
        cluster = self._cluster
        new: list[Any] = []
        while len(cluster.worker_spec) < num_workers:
            spec = cluster.new_worker_spec()
            cluster.worker_spec.update(spec)
            new += spec
        try:
            await cluster._correct_state()
        except BaseException:
            for name in new:
                job = cluster.workers.get(name)
                if job is None or not job.job_id:
                    cluster.worker_spec.pop(name, None)
                    cluster.workers.pop(name, None)
            for job in [job for job in cluster._created if not job.job_id]:
                cluster._created.discard(job)
            raise

    def shrink(self, names: list[str]) -> None:
        self._cluster.sync(self._cluster.scale_down, names)

    @property
    def failed(self) -> bool:
        return bool(self._refusal)

    def settle(self) -> None:
        """A job that ends is not started again; with min_slots, one is submitted in its place when it is wanted."""

    def last_words(self) -> str:
        if self._refusal:
            return self._refusal
        logs = sorted(self._log_dir.glob("*.err"), key=lambda path: path.stat().st_mtime)
        words = logs[-1].read_text(errors="replace").strip().splitlines()[-15:] if logs else []
        return "\n".join(words or ["its jobs wait in the queue: `squeue --me` says why"]) + f"\nLogs: {self._log_dir}"


def open_kind(settings: Settings, stack: ExitStack) -> Opened:
    _check_installed()
    from dask_jobqueue import SLURMCluster
    from distributed import Client

    folder = folder_of(settings) / f"tls-{uuid.uuid4().hex[:8]}"
    pems = read_pems(settings.tls) if settings.tls else make_pems()
    folder.mkdir(parents=True, mode=0o700)
    stack.callback(_remove, folder)
    for part, name in FILES.items():
        with os.fdopen(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(pems[part])
    security = security_of({part: str(folder / name) for part, name in FILES.items()})
    scheduler = {"host": settings.slurm.address or own_address(), "dashboard": False, "dashboard_address": "127.0.0.1:0"}
    options = job_options(settings)
    cluster = SLURMCluster(protocol="tls://", security=security, scheduler_options=scheduler, silence_logs=logging.CRITICAL, **options)
    stack.callback(_close, cluster)
    client = stack.enter_context(Client(cluster, security=security, set_as_default=False))
    jobs = _Jobs(cluster, Path(options["log_directory"]))
    jobs.grow(settings.min_slots or settings.slots)
    return Opened(client, jobs, wait_s=settings.slurm.start_timeout_s)


def _close(cluster: SLURMCluster) -> None:
    with contextlib.suppress(OSError, RuntimeError, TimeoutError):  # a job that is gone already
        cluster.close(timeout=30)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
