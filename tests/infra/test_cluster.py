from __future__ import annotations

import os
import signal
import sys
import threading
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from infra.cluster import known_workers, num_slots, open_cluster, python_path
from infra.errors import CorruptArtifactError, ServiceError, StoreAccessError
from infra.settings import Settings

if TYPE_CHECKING:
    from distributed import Client


def wait_for_slots(client: Client, wanted: int, limit_s: float = 60.0) -> None:
    deadline = time.monotonic() + limit_s
    while num_slots(client) != wanted:
        assert time.monotonic() < deadline, f"{num_slots(client)} slots"
        time.sleep(0.05)


def _raise() -> None:
    raise CorruptArtifactError("model.bin", "a" * 64, "b" * 64)


def _floors() -> list[str]:
    import algorithms
    import deployments
    import flows
    import infra
    import tasks

    return [str(module.__file__) for module in (infra, algorithms, tasks, flows, deployments)]


def _listening() -> list[str]:
    return [connection.laddr.ip for connection in psutil.Process().net_connections("inet") if connection.status == psutil.CONN_LISTEN]


def test_each_worker_is_a_process_with_one_slot(cluster: Client) -> None:
    assert num_slots(cluster) == 2
    pids = cluster.run(os.getpid)
    assert len({os.getpid(), *pids.values()}) == 3
    workers = cluster.scheduler_info(n_workers=-1)["workers"].values()
    assert [worker["nthreads"] for worker in workers] == [1, 1]


def test_a_task_that_holds_a_slot_keeps_the_next_one_waiting(cluster: Client) -> None:
    futures = [cluster.submit(time.sleep, 0.3, pure=False, resources={"slot": 1}) for _ in range(4)]
    start = time.monotonic()
    cluster.gather(futures)
    assert time.monotonic() - start > 0.5


def test_workers_find_all_floors(cluster: Client) -> None:
    root = Path(__file__).resolve().parent.parent.parent
    for paths in cluster.run(_floors).values():
        assert all(Path(path).is_relative_to(root) for path in paths)


def test_an_error_of_ours_survives_the_way_back(cluster: Client) -> None:
    with pytest.raises(CorruptArtifactError) as caught:
        cluster.submit(_raise, pure=False).result()
    assert caught.value.file == "model.bin"


def test_only_loopback_is_listened_on(cluster: Client) -> None:
    addresses = [address for found in cluster.run(_listening).values() for address in found] + _listening()
    assert addresses
    assert {address for address in addresses if not address.startswith("127.")} <= {"::1"}


def test_the_terminals_ctrl_c_does_not_reach_a_worker(cluster: Client) -> None:
    own = os.getpgid(0)
    assert all(os.getpgid(pid) != own and os.getsid(pid) != os.getsid(0) for pid in cluster.run(os.getpid).values())


def test_a_worker_that_dies_is_replaced(cluster: Client) -> None:
    address, pid = next(iter(cluster.run(os.getpid).items()))
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while address in cluster.scheduler_info(n_workers=-1)["workers"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    wait_for_slots(cluster, 2)


def test_a_cluster_closes_at_once_though_a_task_runs_and_says_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with open_cluster(Settings(workspace=str(tmp_path / "workspace"), slots=1)) as client:
        pid = client.submit(os.getpid, pure=False).result()
        busy = client.submit(time.sleep, 100, pure=False)
        time.sleep(0.2)
        start = time.monotonic()
        del busy
    assert time.monotonic() - start < 3
    assert not psutil.pid_exists(pid)
    assert capfd.readouterr() == ("", "")
    assert [path.name for path in tmp_path.iterdir()] == ["workspace"]
    with open_cluster(Settings(workspace=str(tmp_path / "workspace"), slots=1)) as second:
        assert num_slots(second) == 1


def test_a_running_cluster_is_joined_by_its_address(cluster: Client, tmp_path: Path) -> None:
    assert cluster.scheduler is not None
    with open_cluster(Settings(workspace=str(tmp_path), cluster=str(cluster.scheduler.address))) as client:
        assert num_slots(client) == 2
        assert client.submit(abs, -3).result() == 3


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1"])
def test_an_address_where_nothing_answers_is_said_in_words(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infra.clusters.address.CONNECT_TIMEOUT_S", 0.5)
    with pytest.raises(ServiceError, match="ATELIER_CLUSTER"), open_cluster(Settings(workspace=str(tmp_path), cluster=address)):
        raise AssertionError("nothing can be there")


def test_workers_that_cannot_start_are_reported_with_their_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infra.clusters.local.MAX_FAILURES", 2)
    monkeypatch.setenv("DASK_DISTRIBUTED__WORKER__PRELOAD", "a_module_that_is_not_there")
    with pytest.raises(ServiceError, match="a_module_that_is_not_there"), open_cluster(Settings(workspace=str(tmp_path), slots=1)):
        raise AssertionError("it must not start")


def test_a_state_folder_that_cannot_be_written_is_said_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreAccessError, match="ATELIER_WORKSPACE"), open_cluster(Settings(workspace=str(tmp_path / "file"))):
        raise AssertionError("it must not start")


def test_workers_are_known_also_while_the_client_asks_without_them(cluster: Client) -> None:
    """The client's own heartbeat asks for no workers, and its answer must not be taken for the cluster's state."""
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            cluster.sync(cluster._update_scheduler_info)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    try:
        assert {num_slots(cluster) for _ in range(300)} == {2}
        assert {len(known_workers(cluster) or {}) for _ in range(300)} == {2}
    finally:
        done.set()
        thread.join()


def test_only_folders_and_zip_files_are_handed_on_as_python_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "packages.zip", "w"):
        pass
    (tmp_path / "text").write_text("no place for packages")
    names = ("packages.zip", "text", "nowhere")
    hook = "__editable__.some-0.1.0.finder.__path_hook__"
    monkeypatch.setattr(sys, "path", [*sys.path, hook, str(tmp_path), *(str(tmp_path / name) for name in names)])
    found = python_path().split(os.pathsep)
    assert found[-2:] == [str(tmp_path), str(tmp_path / "packages.zip")]
    assert all(Path(entry).exists() for entry in found)
