from __future__ import annotations

import builtins
import os
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from infra.cluster import num_slots, open_cluster
from infra.cluster_settings import SlurmSettings
from infra.clusters.slurm import job_script
from infra.errors import MissingExtraError, ServiceError
from infra.settings import Settings
from tests.slurm import slurm

__all__ = ["slurm"]


def settings(folder: Path, **more: Any) -> Settings:
    sections: dict[str, Any] = {"slurm": SlurmSettings(address="127.0.0.1", **more.pop("slurm", {}))}
    return Settings(workspace=str(folder / "workspace"), cluster="slurm", **sections, **more)


def test_the_job_script_says_what_the_settings_say(tmp_path: Path) -> None:
    own = SlurmSettings(
        queue="gpu",
        account="team",
        cores=8,
        gpus=1,
        memory="32GB",
        walltime="1-00:00:00",
        prologue=("module load cuda",),
        directives=("--exclusive",),
    )
    script = job_script(Settings(workspace=str(tmp_path), cluster="slurm", slurm=own))
    lines = script.splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    wanted = ["-p gpu", "-A team", "-n 1", "--cpus-per-task=8", "--mem=30G", "-t 1-00:00:00", "--gres=gpu:1", "--exclusive"]
    assert [f"#SBATCH {words}" for words in wanted if f"#SBATCH {words}" not in lines] == []
    assert "module load cuda" in lines
    assert lines.index("module load cuda") > max(index for index, line in enumerate(lines) if line.startswith("#SBATCH"))
    command = lines[-1]
    assert command.startswith(f"{sys.executable} -m distributed.cli.dask_worker tls://")
    assert "--nthreads 1" in command
    assert "--resources slot=1" in command


def test_jobs_hold_slots_do_work_and_are_cancelled(slurm: Path, tmp_path: Path) -> None:
    with open_cluster(settings(tmp_path, slots=2)) as client:
        assert num_slots(client) == 2
        assert client.scheduler is not None
        assert str(client.scheduler.address).startswith("tls://127.0.0.1:")
        assert {variables["SLURM_JOB_ID"] for variables in client.run(lambda: dict(os.environ)).values()} == {"1", "2"}
        assert client.submit(abs, -3, resources={"slot": 1}).result(timeout=60) == 3
        (folder,) = (tmp_path / "workspace" / "slurm").glob("tls-*")
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert list(slurm.glob("*.pid")) == [], "all jobs were cancelled"
    assert not folder.exists()


def test_jobs_come_when_slots_are_wanted_and_go_when_idle(slurm: Path, tmp_path: Path) -> None:
    with open_cluster(settings(tmp_path, min_slots=1, slots=2, idle_s=0.5)) as client:
        assert num_slots(client) == 1
        futures = [client.submit(time.sleep, 1.0, pure=False, resources={"slot": 1}) for _ in range(4)]
        wait_for(lambda: num_slots(client) == 2)
        client.gather(futures)
        del futures
        wait_for(lambda: num_slots(client) == 1)
        wait_for(lambda: len(list(slurm.glob("*.pid"))) == 1)


def wait_for(condition: Any, limit_s: float = 90.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_queue_that_refuses_is_said_in_its_words(slurm: Path, tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match="invalid partition"), open_cluster(settings(tmp_path, slots=1, slurm={"queue": "closed"})):
        raise AssertionError("it must not start")


def test_a_machine_without_slurm_is_told(tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match="sbatch"), open_cluster(settings(tmp_path, slots=1)):
        raise AssertionError("it must not start")


def test_the_missing_package_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("dask_jobqueue"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"atelier\[slurm\]"), open_cluster(settings(tmp_path)):
        raise AssertionError("it must not start")


def test_dask_jobqueue_is_loaded_in_any_thread_and_leaves_ctrl_c_alone() -> None:
    """As `atelier run` does it, which opens its cluster beside the main thread."""
    program = """
import signal, threading
from infra.clusters.slurm import _check_installed
failed = []
def load():
    try:
        _check_installed()
    except BaseException as error:
        failed.append(repr(error))
set_handler = signal.signal
thread = threading.Thread(target=load)
thread.start()
thread.join()
_check_installed()
print(failed, signal.getsignal(signal.SIGINT) is signal.default_int_handler, signal.signal is set_handler)
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (found.stdout, found.stderr) == ("[] True True\n", "")
