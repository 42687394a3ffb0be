"""Rules about the files themselves that no linter knows."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FLOORS = ("infra", "algorithms", "tasks", "flows", "deployments")
MODULES = sorted(path.relative_to(ROOT).as_posix() for floor in FLOORS for path in (ROOT / floor).rglob("*.py"))
MAX_LINES = 400
# Written in two halves, so that this file does not find itself.
HOSTS = ["pypi" + ".org", "python" + "hosted.org", "download.py" + "torch.org", "arti" + "factory", "pypi" + ".nvidia.com"]
MACHINE_PATHS = [
    r"/op" + r"t/(?:pypi|wheels)",
    r"(?<![\w.-])/roo" + r"t/",
    r"(?<![\w.-])/wor" + r"k/(?:main|shared)",
    r"/home/(?!user|you)\w+",
]
ADDRESSED = re.compile("|".join([*map(re.escape, HOSTS), *MACHINE_PATHS]))
BROAD = {"Exception", "BaseException", "AtelierError"}


def tracked_files() -> list[Path]:
    """All text files under version control."""
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("this is no git checkout")
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, timeout=60, check=True).stdout
    paths = [ROOT / name.decode() for name in listing.split(b"\0") if name]
    return [path for path in paths if path.is_file() and b"\0" not in path.read_bytes()[:4096]]


def test_no_file_names_a_registry_or_a_path_of_one_machine() -> None:
    found = []
    for path in tracked_files():
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
            if match := ADDRESSED.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {match[0]}")
    assert found == []


def test_the_lock_has_hashes_for_everything() -> None:
    for name in ("requirements.lock", "infra/bootstrap.lock"):
        text = (ROOT / name).read_text(encoding="utf-8")
        pinned = re.findall(r"^[a-z0-9][^\s;=]*==", text, flags=re.MULTILINE)
        hashed = re.findall(r"^[a-z0-9][^\n]*\\\n +--hash=sha256:[0-9a-f]{64}", text, flags=re.MULTILINE)
        assert len(pinned) == len(hashed) > 0, name


@pytest.mark.parametrize("module", MODULES)
def test_a_module_stays_small(module: str) -> None:
    num_lines = len((ROOT / module).read_text(encoding="utf-8").splitlines())
    assert num_lines <= MAX_LINES, f"{module} has {num_lines} lines: split it"


def _swallows(handler: ast.ExceptHandler) -> bool:
    types = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    is_broad = any(one is None or (isinstance(one, ast.Name) and one.id in BROAD) for one in types)
    return is_broad and all(isinstance(line, ast.Pass | ast.Continue) for line in handler.body)


@pytest.mark.parametrize("module", MODULES)
def test_no_error_is_swallowed(module: str) -> None:
    tree = ast.parse((ROOT / module).read_text(encoding="utf-8"))
    assert [f"{module}:{node.lineno}" for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler) and _swallows(node)] == []


@pytest.mark.parametrize("module", MODULES)
def test_nothing_is_left_to_be_implemented(module: str) -> None:
    assert "raise NotImplemented" not in (ROOT / module).read_text(encoding="utf-8")


@pytest.mark.parametrize("module", MODULES)
def test_a_module_says_what_it_is(module: str) -> None:
    text = (ROOT / module).read_text(encoding="utf-8")
    assert not text.strip() or ast.get_docstring(ast.parse(text))
