"""The set-up script: it needs no second run, and says clearly what a machine lacks."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What the script reads, in a folder of its own."""
    folder = tmp_path / "clone"
    (folder / "infra" / "horovod").mkdir(parents=True)
    for name in ("requirements.lock", "pyproject.toml", "infra/bootstrap.lock", "infra/setup.sh", "infra/with_uv.py"):
        shutil.copy(ROOT / name, folder / name)
    for path in (ROOT / "infra" / "horovod").glob("*.p*"):
        shutil.copy(path, folder / "infra" / "horovod" / path.name)
    return folder


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A folder for PATH with the shell's everyday tools and no Python."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sh", "cat", "cut", "dirname", "env", "flock", "grep", "id", "mv", "rm", "sha256sum", "uname", "timeout"):
        if found := shutil.which(name):
            (folder / name).symlink_to(found)
    return folder


def _run(clone: Path, tools: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": str(tools), "HOME": str(clone), **variables}
    return subprocess.run(
        ["/bin/sh", str(clone / "infra" / "setup.sh")], capture_output=True, text=True, timeout=60, env=environment, check=False
    )


def _fake_python(path: Path, version: tuple[int, int], *, can_make_venvs: bool) -> None:
    """A stand-in that answers the script's questions as that version would."""
    is_new = version >= (3, 11)
    path.write_text(
        "#!/bin/sh\n"
        f'case "$*" in --version) echo Python {version[0]}.{version[1]}.2;;\n'
        f"  *version_info\\ \\<*) exit {int(not is_new)};;\n"
        f"  *version_info*) echo {version[0]}.{version[1]};;\n"
        f"  *ensurepip*) exit {int(not can_make_venvs)};;\n"
        "esac\n"
    )
    path.chmod(0o755)


def test_without_python_it_says_how_to_get_one(clone: Path, tools: Path) -> None:
    done = _run(clone, tools)
    assert done.returncode == 1
    assert "Python 3.11 or newer is needed; found: " in done.stderr
    assert "apt-get install python3.11 python3.11-venv" in done.stderr


def test_an_old_python_is_named(clone: Path, tools: Path) -> None:
    _fake_python(tools / "python3", (3, 9), can_make_venvs=True)
    done = _run(clone, tools)
    assert done.returncode == 1
    assert "found: Python 3.9.2" in done.stderr


def test_a_newer_python_beside_an_old_one_is_taken_and_a_missing_venv_is_told(clone: Path, tools: Path) -> None:
    _fake_python(tools / "python3", (3, 9), can_make_venvs=True)
    _fake_python(tools / "python3.12", (3, 12), can_make_venvs=False)
    done = _run(clone, tools)
    assert done.returncode == 1
    assert "apt-get install python3.12-venv" in done.stderr


def test_a_python_that_was_named_must_be_one(clone: Path, tools: Path) -> None:
    done = _run(clone, tools, PYTHON="/no/such/python")
    assert done.returncode == 1
    assert "PYTHON=/no/such/python" in done.stderr


@pytest.mark.skipif(not (ROOT / ".venv" / ".set-up").exists(), reason="this environment was not made by infra/setup.sh")
def test_a_call_with_nothing_to_do_ends_at_once() -> None:
    begun = time.monotonic()
    done = subprocess.run([ROOT / "infra" / "setup.sh"], capture_output=True, text=True, timeout=600, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert time.monotonic() - begun < 1.0
