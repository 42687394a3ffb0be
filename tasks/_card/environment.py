"""Where a run happened: versions, machine, commit. Only what can be told without loading the libraries."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib import metadata

_LIBRARIES = ("atelier", "prefect", "dask", "torch", "horovod", "scikit-learn", "onnx", "onnxruntime-gpu", "great-expectations", "mlflow")


def describe_environment() -> dict[str, str]:
    """Names and values for people; what cannot be found out is left out."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    found["machine"] = f"{platform.system()} {platform.machine()}, {cores} cores, {_memory_gib():.0f} GiB"
    found["GPU"] = _answer("nvidia-smi", "--query-gpu=name", "--format=csv,noheader").replace("\n", ", ") or "none"
    commit = _answer("git", "rev-parse", "--short=12", "HEAD")
    return {**found, "git commit": commit} if commit else found


def _memory_gib() -> float:
    import psutil

    return float(psutil.virtual_memory().total) / 2**30


def _answer(*command: str) -> str:
    """What a command prints; empty if there is no such command or it fails."""
    if shutil.which(command[0]) is None:
        return ""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
