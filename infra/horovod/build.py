"""Builds Horovod's wheel from its published source, once per machine and version: ``python -m infra.horovod.build`` prints its path.

Runs in the set-up, before anything else of the project: only the standard library here. The interpreter that runs it is the one that
the wheel is built for; it has torch, setuptools, wheel and cmake installed (requirements.lock).

Variables:
    ATELIER_HOROVOD_GPU   1: NCCL operations or an error; 0: no GPU operations; unset: NCCL if this machine has a GPU and a CUDA toolkit.
    XDG_CACHE_HOME        the wheels are kept in ``$XDG_CACHE_HOME/atelier/wheels``, default ``~/.cache``.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from infra.horovod.patching import PatchError, apply_patch
from infra.horovod.toolchain import Toolkit, find_toolkit, has_gpu, missing_tools, nccl_folder

VERSION = "0.28.1"
SDIST_SHA256 = "92a43f5a94c43907a56805bad15f19700c62ffc83b7ca483f9e104e229f67ef0"
PATCH = Path(__file__).with_name(f"horovod-{VERSION}.patch")
DEADLINE_S = 3600.0
RECIPE = {
    "HOROVOD_WITH_PYTORCH": "1",
    "HOROVOD_WITHOUT_TENSORFLOW": "1",
    "HOROVOD_WITHOUT_MXNET": "1",
    "HOROVOD_WITHOUT_MPI": "1",
    "HOROVOD_WITH_GLOO": "1",
    "HOROVOD_WITHOUT_NVTX": "1",
}
GO_ON_WITHOUT = "To go on without Horovod (training then uses torch.distributed): ATELIER_WITHOUT_HOROVOD=1 make run"


class BuildError(Exception):
    """The wheel cannot be built; the message says what to do."""


@dataclass(frozen=True)
class Plan:
    """What is to be built.

    Attributes:
        torch: version of the installed torch, which the wheel is compiled against.
        operations: ``gloo`` (CPU tensors) or ``nccl`` (also GPU tensors).
        toolkit: the CUDA toolkit, for ``nccl``.
    """

    torch: str
    operations: str
    toolkit: Toolkit | None = None

    @property
    def key(self) -> str:
        """Names the wheel's folder in the cache: all that its machine code depends on."""
        tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
        libc = "".join(platform.libc_ver()) or "libc"
        patched = hashlib.sha256(PATCH.read_bytes() + json.dumps(RECIPE, sort_keys=True).encode()).hexdigest()[:12]
        target = f"{sysconfig.get_platform()}-{libc}"
        operations = self.operations + (f"-cuda{self.toolkit.version}" if self.toolkit else "")
        return f"horovod-{VERSION}-torch{self.torch}-{tag}-{target}-{operations}-{patched}"


def say(message: str) -> None:
    """One line for a person, on standard error: standard output is for the wheel's path."""
    print(message, file=sys.stderr, flush=True)


def make_plan(environment: Mapping[str, str]) -> Plan:
    """Decide which operations to build for.

    Raises:
        BuildError: torch is missing, or ATELIER_HOROVOD_GPU=1 on a machine that cannot build them.
    """
    try:
        torch = version("torch")
    except PackageNotFoundError:
        raise BuildError("torch is not installed here; run the whole set-up: infra/setup.sh") from None
    wish = environment.get("ATELIER_HOROVOD_GPU", "")
    if wish not in {"", "0", "1"}:
        raise BuildError(f"ATELIER_HOROVOD_GPU is {wish!r}; allowed are 0, 1 or nothing.")
    if wish == "0" or (wish == "" and not has_gpu()):
        return Plan(torch, "gloo")
    toolkit, why_not = find_toolkit(environment)
    if toolkit is not None:
        return Plan(torch, "nccl", toolkit)
    if wish == "1":
        raise BuildError(f"ATELIER_HOROVOD_GPU=1, but {why_not}")
    say(f"Horovod is built for the CPU, although there is a GPU: {why_not}")
    return Plan(torch, "gloo")


def cache_folder(environment: Mapping[str, str]) -> Path:
    base = environment.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser().resolve() / "atelier" / "wheels"


def cached_wheel(folder: Path) -> Path | None:
    """The wheel in its folder of the cache, if one was published there."""
    return next(iter(sorted(folder.glob("horovod-*.whl"))), None)


@contextlib.contextmanager
def only_one(lock: Path) -> Iterator[None]:
    """Holds the file lock; a second build on this machine waits for the first and then finds its wheel."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("Another process builds Horovod just now; waiting for its wheel ...")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _run(command: list[str], log: Path, environment: Mapping[str, str], label: str, deadline_s: float, folder: Path | None = None) -> int:
    """Run a command in ``folder`` with its output in ``log``, telling now and then how far it is; its status. No child of it stays behind."""
    begun = last_told = time.monotonic()
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=dict(environment), cwd=folder, start_new_session=True
        )
        try:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    return process.wait(timeout=1.0)
                now = time.monotonic()
                if now - begun > deadline_s:
                    raise BuildError(f"{label} did not end within {deadline_s:.0f} s and was stopped. Its log: {log}\n{GO_ON_WITHOUT}")
                if now - last_told >= 20:
                    last_told = now
                    seen = re.findall(rb"\[ *(\d+)%\]", log.read_bytes())
                    share = f", {int(seen[-1])} %" if seen else ""
                    say(f"  {label}: {now - begun:.0f} s{share}")
        finally:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _tail(log: Path, lines: int = 40) -> str:
    """The end of a log; before it, the compiler's own error lines, which a parallel build buries."""
    text = log.read_text(encoding="utf-8", errors="replace").splitlines()
    errors = [line for line in text[:-lines] if re.search(r"\b(fatal )?error:|CMake Error", line)][:10]
    return "\n".join([*errors, "...", *text[-lines:]] if errors else text[-lines:])


def download(scratch: Path, log: Path, environment: Mapping[str, str]) -> Path:
    """The unpacked source distribution, its hash checked by pip."""
    wanted = scratch / "horovod.txt"
    wanted.write_text(f"horovod=={VERSION} --hash=sha256:{SDIST_SHA256}\n", encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:", "--no-build-isolation", "--require-hashes"]
    if _run([*pip, "--dest", str(scratch), "--requirement", str(wanted)], log, environment, "Downloading Horovod", 900.0):
        raise BuildError(
            f"Horovod's source could not be had from the package registry:\n{_tail(log)}\n"
            f"Check the network and pip's index settings (PIP_INDEX_URL, pip.conf), then run the same command again. {GO_ON_WITHOUT}"
        )
    archive = next(scratch.glob("horovod-*.tar.gz"))
    with tarfile.open(archive) as tar:
        if hasattr(tarfile, "data_filter"):  # Python 3.11.2, Debian 12's, has no filters yet; the archive's hash is known anyway
            tar.extractall(scratch, filter="data")
        else:
            tar.extractall(scratch)
    return scratch / f"horovod-{VERSION}"


def _num_jobs() -> int:
    """Compilers at once: one a core, but each takes up to 2 GiB."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    return max(1, min(len(os.sched_getaffinity(0)), memory // 2**31))


def build_environment(plan: Plan, scratch: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """The build's variables. HOROVOD_* ones of the caller are dropped: the cache's key would not know of them."""
    tools = Path(sys.executable).parent
    values = {name: value for name, value in environment.items() if not name.startswith("HOROVOD_")}
    values |= RECIPE
    values["PATH"] = f"{tools}{os.pathsep}{environment.get('PATH', os.defpath)}"
    values["HOROVOD_CMAKE"] = str(tools / "cmake")
    values["MAKEFLAGS"] = f"-j{_num_jobs()}"
    if plan.toolkit:
        nccl = nccl_folder(scratch)
        values |= {
            "HOROVOD_GPU_OPERATIONS": "NCCL",
            "HOROVOD_NCCL_INCLUDE": str(nccl / "include"),
            "HOROVOD_NCCL_LIB": str(nccl / "lib"),
            "HOROVOD_NCCL_LINK": "SHARED",
            "HOROVOD_CUDA_HOME": str(plan.toolkit.home),
            "CUDA_HOME": str(plan.toolkit.home),
        }
        values["PATH"] = f"{plan.toolkit.home / 'bin'}{os.pathsep}{values['PATH']}"
        # torch's headers include cuBLAS, cuSPARSE and cuSOLVER, which a toolkit may lack and torch's own wheels bring.
        after_the_toolkits = [values.get("CPLUS_INCLUDE_PATH", ""), *map(str, plan.toolkit.more_includes)]
        values["CPLUS_INCLUDE_PATH"] = os.pathsep.join(filter(None, after_the_toolkits))
    return values


def build(plan: Plan, folder: Path, environment: Mapping[str, str]) -> Path:
    """Build the wheel and publish it in ``folder`` of the cache, atomically; the log stays beside that folder.

    Raises:
        BuildError: with the end of the log.
    """
    if missing := missing_tools():
        raise BuildError(f"Horovod cannot be built here: {missing}\n{GO_ON_WITHOUT}")
    folder.mkdir(parents=True, exist_ok=True)
    log = folder.parent / f"{folder.name}.log"
    log.write_bytes(b"")
    with tempfile.TemporaryDirectory(prefix="atelier-horovod-") as name:
        scratch = Path(name)
        source = download(scratch, log, environment)
        try:
            apply_patch(PATCH.read_text(encoding="utf-8"), source)
        except PatchError as error:
            raise BuildError(f"{PATCH.name} does not fit Horovod {VERSION}: {error}") from None
        wheels = scratch / "wheels"
        # Not through `pip wheel`: its own words would bury the compiler's.
        command = [sys.executable, "setup.py", "bdist_wheel", "--dist-dir", str(wheels)]
        status = _run(command, log, build_environment(plan, scratch, environment), "Building Horovod", DEADLINE_S, source)
        made = cached_wheel(wheels)
        if status or made is None:
            raise BuildError(f"Building Horovod failed. The end of its log, {log}:\n{_tail(log)}\n{GO_ON_WITHOUT}")
        staged = folder / f".{os.getpid()}.part"
        shutil.copyfile(made, staged)
        staged.replace(folder / made.name)
    return folder / made.name


def wheel_for(plan: Plan, environment: Mapping[str, str]) -> Path:
    """The plan's wheel: from the cache, or built now."""
    cache = cache_folder(environment)
    folder = cache / plan.key
    if found := cached_wheel(folder):
        return found
    with only_one(cache / f"{plan.key}.lock"):
        if found := cached_wheel(folder):
            return found
        say(f"Building Horovod {VERSION} for torch {plan.torch}, {plan.operations} operations: some minutes, once on this machine ...")
        begun = time.monotonic()
        wheel = build(plan, folder, environment)
        say(f"Built Horovod in {time.monotonic() - begun:.0f} s: {wheel}")
        return wheel


def _stop(number: int, frame: object) -> None:
    """SIGTERM ends this process as Ctrl-C does: compilers and scratch files go with it."""
    raise SystemExit(128 + number)


def main() -> int:
    """Print the path of this machine's wheel, building it first if need be; the exit status."""
    signal.signal(signal.SIGTERM, _stop)
    try:
        plan = make_plan(os.environ)
        try:
            wheel = wheel_for(plan, os.environ)
        except BuildError as error:
            if plan.toolkit is None or os.environ.get("ATELIER_HOROVOD_GPU") == "1":
                raise
            say(f"{error}\nThe build with NCCL failed; going on with one for the CPU. ATELIER_HOROVOD_GPU=1 insists, 0 does not try.")
            wheel = wheel_for(Plan(plan.torch, "gloo"), os.environ)
    except BuildError as error:
        say(f"error: {error}")
        return 1
    print(wheel)
    return 0


if __name__ == "__main__":
    sys.exit(main())
