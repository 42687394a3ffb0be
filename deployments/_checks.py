"""What ``atelier doctor`` looks at. Each check finds out one thing and never raises; what may crash or hang is asked of a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import infra
from infra.errors import AtelierError, InvalidSettingError
from infra.settings import Settings

State = Literal["ok", "warn", "fail"]
PROBE_TIMEOUT_S = 120.0
LOW_DISK_GIB, LEAST_DISK_GIB, LOW_MEMORY_GIB = 10.0, 1.0, 4.0
SET_UP_AGAIN = "rm -f .venv/.set-up && make setup"


@dataclass(frozen=True)
class Check:
    """One finding.

    Attributes:
        name: what was looked at.
        state: ``warn``: it works, but less than it could; ``fail``: something will not work.
        found: what is there.
        mend: what to do; empty if nothing.
    """

    name: str
    state: State
    found: str
    mend: str = ""


def probe(name: str, environment: dict[str, str] | None = None) -> dict[str, Any]:
    """Run a function of ``deployments._probes`` in a process of its own.

    Returns:
        Its JSON value, or ``{"error": last line}`` if it failed, crashed or hung.
    """
    command = [sys.executable, "-m", "deployments._probes", name]
    values = {**os.environ, **(environment or {}), "PYTHONWARNINGS": "ignore"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_TIMEOUT_S, check=False, env=values, cwd=_root())
    except subprocess.TimeoutExpired:
        return {"error": f"no answer within {PROBE_TIMEOUT_S:.0f} s"}
    if done.returncode:
        words = [line for line in done.stderr.splitlines() if line.strip()]
        return {"error": words[-1] if words else f"it ended with status {done.returncode}"}
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def _root() -> Path:
    return Path(infra.__file__).resolve().parent.parent


def check_python() -> Check:
    here = f"{sys.version.split()[0]} ({sys.executable})"
    if sys.version_info < (3, 11):  # noqa: UP036 - pip refuses such a Python, but a PYTHONPATH does not
        return Check("Python", "fail", here, "Install Python 3.11 or newer, then: rm -rf .venv && make setup")
    return Check("Python", "ok", here)


def check_compiler() -> Check:
    from infra.horovod.toolchain import missing_tools

    if missing := missing_tools():
        what, _, how = missing.partition(". ")
        return Check("compiler", "warn", f"{what}; only building Horovod needs it", how)
    told = subprocess.run([shutil.which("c++") or "g++", "--version"], capture_output=True, text=True, timeout=60, check=False).stdout
    return Check("compiler", "ok", told.splitlines()[0] if told else "found")


def locked_versions(lock: str) -> Iterator[tuple[str, str]]:
    """Name and version of everything that a lock file holds for this machine."""
    from packaging.requirements import Requirement

    for line in lock.splitlines():
        if line and not line[0].isspace() and line[0] != "#":
            requirement = Requirement(line.rstrip("\\ ").strip())
            if requirement.marker is None or requirement.marker.evaluate():
                yield requirement.name, next(iter(requirement.specifier)).version


def check_lock() -> Check:
    path = _root() / "requirements.lock"
    if not path.is_file():
        return Check("packages", "warn", "there is no requirements.lock beside this installation to compare with", "")
    wrong: list[str] = []
    wanted = dict(locked_versions(path.read_text(encoding="utf-8")))
    for name, locked in wanted.items():
        try:
            if version(name) != locked:
                wrong.append(f"{name} {version(name)} instead of {locked}")
        except PackageNotFoundError:
            wrong.append(f"{name} missing")
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        return Check(
            "packages", "fail", f"{len(wrong)} of {len(wanted)} differ from requirements.lock: {', '.join(wrong[:5])}{more}", SET_UP_AGAIN
        )
    return Check("packages", "ok", f"{len(wanted)} packages, as in requirements.lock")


def check_horovod() -> Check:
    try:
        installed = version("horovod")
    except PackageNotFoundError:
        mend = "make setup (needs a C++ compiler)"
        return Check(
            "Horovod", "warn", "not installed: several workers train with torch.distributed", f"unset ATELIER_WITHOUT_HOROVOD; {mend}"
        )
    answer = probe("horovod")
    if "error" in answer:
        return Check("Horovod", "fail", f"{installed} does not load: {answer['error']}", SET_UP_AGAIN)
    built = [f"{what}: {', '.join(answer[what]) or 'none'}" for what in ("frameworks", "controllers", "operations")]
    found = f"{installed}; {'; '.join(built)}"
    if "gloo" not in answer["controllers"]:
        return Check("Horovod", "fail", found, SET_UP_AGAIN)
    if "nccl" not in answer["operations"] and shutil.which("nvidia-smi") and _gpu_names():
        return Check(
            "Horovod", "warn", f"{found}; this machine has a GPU", "Install the CUDA toolkit, then: ATELIER_HOROVOD_GPU=1 make setup"
        )
    return Check("Horovod", "ok", found)


def check_torch() -> Check:
    answer = probe("torch")
    if "error" in answer:
        return Check("torch", "fail", answer["error"], SET_UP_AGAIN)
    return Check(
        "torch", "ok", f"{answer['version']}, {answer['threads']} threads, precision auto means {answer['precision']} on {answer['device']}"
    )


def _gpu_names() -> list[str]:
    if not shutil.which("nvidia-smi"):
        return []
    told = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=False)
    return [line.split(" (UUID")[0] for line in told.stdout.splitlines() if line.startswith("GPU ")] if told.returncode == 0 else []


def check_gpu() -> Check:
    names = _gpu_names()
    if not names:
        return Check("GPU", "ok", "none; training and inference run on the CPU")
    seen, runtime = probe("gpu"), probe("onnxruntime")
    if seen.get("error") or not seen.get("names"):
        why = seen.get("error") or "torch sees none of them"
        return Check(
            "GPU", "fail", f"{', '.join(names)}, but {why}", "The driver may be too old for this torch: nvidia-smi shows its CUDA version."
        )
    found = f"torch: {', '.join(seen['names'])}; onnxruntime: {', '.join(runtime.get('providers', []))}"
    if "CUDAExecutionProvider" not in runtime.get("providers", []):
        why = runtime.get("error") or "CUDA provider does not load"
        return Check(
            "GPU",
            "warn",
            f"{found} ({why})",
            "Models are served on the CPU. Compare the CUDA versions of onnxruntime-gpu and of the driver.",
        )
    return Check("GPU", "ok", found)


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    return next(folder for folder in (path, *path.parents) if folder.exists())


def check_workspace(settings: Settings) -> Check:
    """Whether a small object can be written, read and removed; nothing is left behind."""
    from infra.store import open_store

    uri = settings.workspace_uri
    folder = None if "://" in uri else Path(uri)
    if folder is not None and not folder.exists():
        parent = _existing(folder)
        if os.access(parent, os.W_OK | os.X_OK) and parent.is_dir():
            return Check("workspace", "ok", f"{folder} (the first run makes it)")
        return Check(
            "workspace", "fail", f"{folder} cannot be made: {parent} is not writable", "Set ATELIER_WORKSPACE to a folder of yours."
        )
    key = f"doctor/{os.getpid()}-{os.urandom(4).hex()}"
    store = open_store(uri)
    store.write_bytes(key, b"atelier")
    try:
        came_back = store.read_bytes(key)
    finally:
        store.delete(key)
    if came_back != b"atelier":
        return Check("workspace", "fail", f"{uri} gives back other bytes than were written", "Check the disk or the object store.")
    return Check("workspace", "ok", f"{uri}: write, read, delete work")


def check_registry(settings: Settings) -> Check:
    from infra.registry import Registry
    from infra.store import open_store

    uri = settings.registry
    if not uri and not (settings.state_dir / "mlflow.db").exists():
        return Check("registry", "ok", f"{settings.state_dir / 'mlflow.db'} (the first run makes it)")
    if uri.startswith(("http://", "https://")):
        from urllib.request import Request, urlopen

        try:  # first of all quickly: MLflow's own client tries for minutes
            with urlopen(Request(f"{uri.rstrip('/')}/health"), timeout=10):
                pass
        except OSError as error:
            return Check("registry", "fail", f"{uri} does not answer: {error}", "Start the MLflow server, or correct ATELIER_REGISTRY.")
    models = {one.name for one in Registry(settings, open_store(settings.workspace_uri)).versions()}
    return Check("registry", "ok", f"{uri or settings.state_dir / 'mlflow.db'}: {len(models)} model{'s' if len(models) != 1 else ''}")


def check_package_key(settings: Settings) -> Check:
    from algorithms._package_sealing import VARIABLE, key_id, read_key

    text = settings.package_key.get_secret_value()
    if not text:
        return Check("package key", "ok", f"none: packages are not sealed ({VARIABLE})")
    try:
        key = read_key(text)
    except InvalidSettingError as error:
        what, _, how = error.problems[0].removeprefix("package_key: ").partition("; ")
        return Check("package key", "fail", f"{VARIABLE} is no key: {what}", how)
    return Check("package key", "ok", f"{key_id(key)}: packages are sealed with it")


def check_disk(settings: Settings) -> Check:
    folders = {_existing(path): None for path in (settings.state_dir, settings.cache_path)}
    free = {folder: shutil.disk_usage(folder).free / 2**30 for folder in folders}
    found = ", ".join(f"{gib:.0f} GiB free at {folder}" for folder, gib in free.items())
    least = min(free.values())
    if least < LOW_DISK_GIB:
        mend = "Free some space, or move things: ATELIER_WORKSPACE, ATELIER_CACHE_DIR; ATELIER_CACHE_GIB bounds the cache."
        return Check("disk", "fail" if least < LEAST_DISK_GIB else "warn", found, mend)
    return Check("disk", "ok", found)


def check_memory() -> Check:
    import psutil

    memory = psutil.virtual_memory()
    found = f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB available"
    if memory.available < LOW_MEMORY_GIB * 2**30:
        return Check(
            "memory", "warn", found, "Use fewer workers (--workers, ATELIER_SLOTS): each takes about 1 GiB and its share of the data."
        )
    return Check("memory", "ok", found)


def guarded(name: str, check: Callable[[], Check]) -> Check:
    """The check's finding; an error of ours becomes a failed check that says what the error says."""
    try:
        return check()
    except AtelierError as error:
        return Check(name, "fail", str(error))
    except (OSError, RuntimeError, ValueError, subprocess.SubprocessError) as error:
        return Check(name, "fail", f"{type(error).__name__}: {error}")
