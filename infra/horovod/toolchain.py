"""What this machine has to build Horovod with: a compiler, Python's headers, a CUDA toolkit, NCCL."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

COMMON_HOMES = ("/usr/local/cuda",)


@dataclass(frozen=True)
class Toolkit:
    """A CUDA toolkit that can compile: ``home/bin/nvcc`` and the runtime's headers.

    Attributes:
        home: its folder.
        version: such as ``13.0``.
        more_includes: header folders of the libraries that torch's wheels brought.
    """

    home: Path
    version: str
    more_includes: tuple[Path, ...] = field(default=())


def missing_tools() -> str:
    """What a build lacks, with the command that brings it; empty if nothing."""
    compiler = os.environ.get("CXX", "c++")
    wanted = {
        "g++": bool(shutil.which(compiler.split()[0]) or shutil.which("g++")),
        "make": bool(shutil.which("make")),
        f"python{sys.version_info.major}.{sys.version_info.minor}-dev": (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file(),
    }
    packages = [name for name, there in wanted.items() if not there]
    if not packages:
        return ""
    what = {"g++": "a C++ compiler", "make": "make"}
    lacking = ", ".join(what.get(name, "Python's header files (Python.h)") for name in packages)
    return f"{lacking} missing. Install with: apt-get install {' '.join(packages)}"


def has_gpu() -> bool:
    """Whether this machine has a working NVIDIA GPU, asked of its driver."""
    if not shutil.which("nvidia-smi"):
        return False
    answer = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=False)
    return answer.returncode == 0 and "GPU " in answer.stdout


def _site_packages() -> Path:
    return Path(sysconfig.get_paths()["purelib"])


def torch_cuda_major() -> int | None:
    """The major version of the CUDA runtime that the installed torch uses; None for a torch without CUDA."""
    try:
        return int(version("nvidia-cuda-runtime").split(".")[0])
    except PackageNotFoundError:
        return None


def find_toolkit(environment: Mapping[str, str]) -> tuple[Toolkit | None, str]:
    """The first full CUDA toolkit of torch's major version, and otherwise why there is none."""
    major = torch_cuda_major()
    if major is None:
        return None, "the installed torch has no CUDA."
    if not (_site_packages() / "nvidia" / "nccl" / "include" / "nccl.h").is_file():
        return None, "NCCL's headers (package nvidia-nccl-cu13) are not installed."
    nvcc = shutil.which("nvcc", path=environment.get("PATH"))
    named = [environment.get("HOROVOD_CUDA_HOME"), environment.get("CUDA_HOME"), environment.get("CUDA_PATH")]
    found = [*named, str(Path(nvcc).resolve().parent.parent) if nvcc else None, *COMMON_HOMES]
    reasons: list[str] = []
    for home in dict.fromkeys(Path(name) for name in found if name):
        if not (home / "bin" / "nvcc").is_file():
            continue
        if not (home / "include" / "cuda_runtime.h").is_file():
            reasons.append(f"{home} has nvcc but not the runtime's headers (cuda_runtime.h)")
            continue
        told = subprocess.run([home / "bin" / "nvcc", "--version"], capture_output=True, text=True, timeout=60, check=False).stdout
        release = re.search(r"release (\d+)\.(\d+)", told)
        if release and int(release[1]) == major:
            more = tuple(path for path in [_site_packages() / "nvidia" / f"cu{major}" / "include"] if path.is_dir())
            return Toolkit(home, f"{release[1]}.{release[2]}", more), ""
        reasons.append(f"{home} is CUDA {release[0].removeprefix('release ') if release else '?'}, torch uses CUDA {major}")
    detail = "; ".join(reasons) or "none was found on the PATH, in CUDA_HOME or in /usr/local/cuda"
    return None, f"no CUDA {major} toolkit to build NCCL operations with: {detail}. Install the toolkit and run the set-up again."


def nccl_folder(scratch: Path) -> Path:
    """NCCL's wheel as the linker wants it: its library is called libnccl.so.2 there, and the linker asks for libnccl.so."""
    wheel = _site_packages() / "nvidia" / "nccl"
    folder = scratch / "nccl"
    (folder / "lib").mkdir(parents=True, exist_ok=True)
    (folder / "include").symlink_to(wheel / "include")
    (folder / "lib" / "libnccl.so").symlink_to(wheel / "lib" / "libnccl.so.2")
    return folder
