"""What is built, for whom, and when not; the real build is what the set-up of these tests did."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from infra.horovod import build, toolchain
from infra.horovod.build import BuildError, Plan, build_environment, cache_folder, make_plan, wheel_for
from infra.horovod.toolchain import Toolkit, find_toolkit, missing_tools


def _fake_toolkit(folder: Path, release: str = "13.0", *, headers: bool = True) -> Path:
    (folder / "bin").mkdir(parents=True)
    nvcc = folder / "bin" / "nvcc"
    nvcc.write_text(f"#!/bin/sh\necho 'Cuda compilation tools, release {release}, V{release}.88'\n")
    nvcc.chmod(nvcc.stat().st_mode | stat.S_IXUSR)
    if headers:
        (folder / "include").mkdir()
        (folder / "include" / "cuda_runtime.h").write_text("")
    return folder


@pytest.fixture
def cuda_13(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if torch used CUDA 13 on this machine."""
    monkeypatch.setattr(toolchain, "torch_cuda_major", lambda: 13)


def test_the_key_tells_apart_all_that_the_machine_code_depends_on() -> None:
    toolkit = Toolkit(Path("/cuda"), "13.0")
    plans = [
        Plan("2.15.0", "gloo"),
        Plan("2.15.1", "gloo"),
        Plan("2.15.0", "nccl", toolkit),
        Plan("2.15.0", "nccl", Toolkit(Path("/cuda"), "13.2")),
    ]
    assert len({plan.key for plan in plans}) == len(plans)
    assert f"cp{sys.version_info.major}{sys.version_info.minor}" in plans[0].key


def test_a_changed_patch_is_another_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = Plan("2.15.0", "gloo").key
    other = tmp_path / "other.patch"
    other.write_text("something else")
    monkeypatch.setattr(build, "PATCH", other)
    assert Plan("2.15.0", "gloo").key != before


def test_the_cache_follows_xdg_cache_home(tmp_path: Path) -> None:
    assert cache_folder({"XDG_CACHE_HOME": str(tmp_path)}) == tmp_path.resolve() / "atelier" / "wheels"
    assert cache_folder({}) == Path("~/.cache/atelier/wheels").expanduser().resolve()


def test_without_a_gpu_the_wheel_is_for_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "has_gpu", lambda: False)
    assert make_plan({}).operations == "gloo"


def test_a_gpu_and_a_full_toolkit_give_nccl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cuda_13: None) -> None:
    monkeypatch.setattr(build, "has_gpu", lambda: True)
    home = _fake_toolkit(tmp_path / "cuda")
    plan = make_plan({"CUDA_HOME": str(home), "PATH": os.environ["PATH"]})
    assert plan.operations == "nccl"
    assert plan.toolkit is not None
    assert (plan.toolkit.home, plan.toolkit.version) == (home, "13.0")
    assert make_plan({"CUDA_HOME": str(home), "ATELIER_HOROVOD_GPU": "0"}).operations == "gloo"


def test_an_nvcc_without_headers_is_no_toolkit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cuda_13: None) -> None:
    home = _fake_toolkit(tmp_path / "cuda", headers=False)
    monkeypatch.setattr(toolchain, "COMMON_HOMES", ())
    toolkit, why_not = find_toolkit({"CUDA_HOME": str(home), "PATH": str(tmp_path)})
    assert toolkit is None
    assert "cuda_runtime.h" in why_not


def test_a_toolkit_of_another_cuda_than_torchs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cuda_13: None) -> None:
    home = _fake_toolkit(tmp_path / "cuda", "12.4")
    monkeypatch.setattr(toolchain, "COMMON_HOMES", ())
    toolkit, why_not = find_toolkit({"CUDA_HOME": str(home), "PATH": str(tmp_path)})
    assert toolkit is None
    assert "CUDA 12.4" in why_not
    assert "torch uses CUDA 13" in why_not


def test_who_insists_on_gpu_operations_is_told_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cuda_13: None) -> None:
    monkeypatch.setattr(toolchain, "COMMON_HOMES", ())
    with pytest.raises(BuildError, match="no CUDA 13 toolkit"):
        make_plan({"ATELIER_HOROVOD_GPU": "1", "PATH": str(tmp_path)})


def test_a_wrong_wish_is_refused() -> None:
    with pytest.raises(BuildError, match="allowed are 0, 1 or nothing"):
        make_plan({"ATELIER_HOROVOD_GPU": "yes"})


def test_variables_of_the_caller_do_not_change_the_build(tmp_path: Path) -> None:
    values = build_environment(Plan("2.15.0", "gloo"), tmp_path, {"HOROVOD_WITH_MPI": "1", "PATH": "/bin", "CXX": "g++"})
    assert "HOROVOD_WITH_MPI" not in values
    assert values["HOROVOD_WITH_GLOO"] == "1"
    assert values["CXX"] == "g++"
    assert "HOROVOD_GPU_OPERATIONS" not in values


def test_nccl_comes_from_the_wheel_under_the_name_that_the_linker_wants(tmp_path: Path) -> None:
    values = build_environment(Plan("2.15.0", "nccl", Toolkit(Path("/cuda"), "13.0")), tmp_path, {})
    assert values["HOROVOD_GPU_OPERATIONS"] == "NCCL"
    assert (Path(values["HOROVOD_NCCL_INCLUDE"]) / "nccl.h").is_file()
    assert (Path(values["HOROVOD_NCCL_LIB"]) / "libnccl.so").is_file()


def test_a_missing_compiler_is_one_message_with_both_ways_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert "apt-get install g++ make" in missing_tools()
    with pytest.raises(BuildError, match=r"(?s)apt-get install g\+\+ make.*ATELIER_WITHOUT_HOROVOD=1"):
        wheel_for(Plan("2.15.0", "gloo"), {"XDG_CACHE_HOME": str(tmp_path)})


def test_a_wheel_in_the_cache_is_taken_as_it_is(tmp_path: Path) -> None:
    plan = Plan("2.15.0", "gloo")
    folder = cache_folder({"XDG_CACHE_HOME": str(tmp_path)}) / plan.key
    folder.mkdir(parents=True)
    (folder / "horovod-0.28.1-x.whl").write_bytes(b"wheel")
    assert wheel_for(plan, {"XDG_CACHE_HOME": str(tmp_path)}).read_bytes() == b"wheel"


def test_two_at_once_build_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, environment, num_builds = Plan("2.15.0", "gloo"), {"XDG_CACHE_HOME": str(tmp_path)}, []
    first_is_in = threading.Event()

    def slow_build(plan: Plan, folder: Path, environment: dict[str, str]) -> Path:
        num_builds.append(1)
        first_is_in.set()
        threading.Event().wait(0.3)
        folder.mkdir(parents=True)
        wheel = folder / "horovod-0.28.1-x.whl"
        wheel.write_bytes(b"wheel")
        return wheel

    monkeypatch.setattr(build, "build", slow_build)
    second = threading.Thread(target=lambda: (first_is_in.wait(10), wheel_for(plan, environment)))
    second.start()
    wheel_for(plan, environment)
    second.join(30)
    assert len(num_builds) == 1


def test_a_failed_build_shows_the_end_of_its_log_and_leaves_no_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_source(scratch: Path, log: Path, environment: dict[str, str]) -> Path:
        source = scratch / "source"
        source.mkdir()
        (source / "setup.py").write_text("raise SystemExit('the compiler said no')\n")
        return source

    monkeypatch.setattr(build, "download", no_source)
    monkeypatch.setattr(build, "apply_patch", lambda patch, folder: [])
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    with pytest.raises(BuildError, match=r"(?s)the compiler said no.*ATELIER_WITHOUT_HOROVOD=1"):
        wheel_for(Plan("2.15.0", "gloo"), environment)
    assert list(tmp_path.rglob("*.whl")) == []


def _ends(pid: int) -> bool:
    """Whether a process that was sent SIGKILL is gone within 10 s; a zombie, waiting for its parent, is."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False


def test_a_build_that_hangs_is_stopped_with_its_children(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with pytest.raises(BuildError, match="did not end within"):
        build._run(["sh", "-c", "sleep 300 & echo $!; wait"], log, os.environ, "Building", 1.5)
    child = int(log.read_text())
    assert _ends(child)


def test_a_build_that_is_terminated_takes_its_compilers_along(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path; from infra.horovod import build\n"
        "signal.signal(signal.SIGTERM, build._stop)\n"
        "build._run(['sh', '-c', 'sleep 300 & echo $!; wait'], Path(sys.argv[1]), os.environ, 'Building', 60.0)\n"
    )
    log = tmp_path / "log"
    driver = subprocess.Popen([sys.executable, "-c", program, str(log)])
    deadline = time.monotonic() + 30
    while not (log.exists() and log.read_text().strip()) and time.monotonic() < deadline:
        time.sleep(0.05)
    driver.terminate()
    assert driver.wait(30) == 128 + signal.SIGTERM
    child = int(log.read_text())
    assert _ends(child)
