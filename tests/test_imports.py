"""Imports point down only, and the light modules stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAY_IMPORT: dict[str, set[str]] = {
    "infra": set(),
    "algorithms": {"infra"},
    "tasks": {"algorithms", "infra"},
    "flows": {"tasks", "algorithms", "infra"},
    "deployments": {"flows", "tasks", "algorithms", "infra"},
}
FORBIDDEN: dict[str, set[str]] = {"algorithms": {"prefect", "dask", "distributed", "horovod"}}
HEAVY = {"torch", "torchvision", "timm", "sklearn", "xgboost", "lightgbm", "onnx", "onnxruntime", "mlflow", "great_expectations", "pandas"}
# Seconds of import time: only inside the functions that use them.
HEAVY_AT_MODULE_LEVEL = {"tasks": {"torch", "torchvision", "timm", "mlflow", "great_expectations"}, "flows": HEAVY}
# The code that sets a machine up runs before anything is installed.
STANDARD_LIBRARY_ONLY = ("infra/with_uv.py", "infra/horovod/build.py", "infra/horovod/toolchain.py", "infra/horovod/patching.py")

FLOORS = tuple(MAY_IMPORT)
MODULES = sorted(path.relative_to(ROOT).as_posix() for floor in FLOORS for path in (ROOT / floor).rglob("*.py"))


def _is_type_checking(node: ast.If) -> bool:
    test = node.test
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING")


def imports(module: str, *, module_level: bool = False) -> Iterator[tuple[str, int]]:
    """Top-level package and line of every import of a module, lazy ones included; those for types only are not imports.

    Args:
        module: its file, relative to the repository.
        module_level: only those that run when the module is imported.
    """
    tree = ast.parse((ROOT / module).read_text(encoding="utf-8"), module)
    todo: list[ast.AST] = list(tree.body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            yield from ((alias.name.split(".")[0], node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").split(".")[0] if node.level == 0 else module.split("/")[0], node.lineno
        elif isinstance(node, ast.If) and _is_type_checking(node):
            todo.extend(node.orelse)
        elif module_level and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        else:
            todo.extend(ast.iter_child_nodes(node))


def test_every_floor_has_modules() -> None:
    assert {module.split("/")[0] for module in MODULES} == set(FLOORS)


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down_only(module: str) -> None:
    floor = module.split("/")[0]
    allowed = MAY_IMPORT[floor] | {floor}
    upward = [f"{module}:{line} imports {package}" for package, line in imports(module) if package in MAY_IMPORT and package not in allowed]
    assert upward == []


@pytest.mark.parametrize("module", MODULES)
def test_no_floor_imports_what_is_forbidden_to_it(module: str) -> None:
    forbidden = FORBIDDEN.get(module.split("/")[0], set()) | {"tests", "benchmarks"}
    assert [f"{module}:{line} imports {package}" for package, line in imports(module) if package in forbidden] == []


@pytest.mark.parametrize("module", MODULES)
def test_heavy_packages_are_imported_where_they_are_used(module: str) -> None:
    heavy = HEAVY_AT_MODULE_LEVEL.get(module.split("/")[0], set())
    found = imports(module, module_level=True)
    assert [f"{module}:{line} imports {package} at module level" for package, line in found if package in heavy] == []


@pytest.mark.parametrize("module", STANDARD_LIBRARY_ONLY)
def test_the_set_up_needs_the_standard_library_only(module: str) -> None:
    others = [package for package, _ in imports(module) if package not in sys.stdlib_module_names and package != "infra"]
    assert others == []


def _loaded_by(statement: str) -> set[str]:
    """Top-level packages that are loaded after a statement ran in a fresh interpreter."""
    code = f"{statement}\nimport sys\nprint('\\n'.join(sorted({{name.split('.')[0] for name in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_reading_the_catalogue_is_cheap() -> None:
    loaded = _loaded_by("import algorithms.catalog")
    assert loaded & (HEAVY | {"prefect", "dask", "distributed"}) == set()


def test_the_help_of_the_command_is_cheap() -> None:
    loaded = _loaded_by(
        "from click.testing import CliRunner\nfrom deployments.cli import cli\nassert CliRunner().invoke(cli, ['--help']).exit_code == 0"
    )
    assert loaded & (HEAVY | {"prefect", "dask", "distributed"}) == set()


@pytest.mark.parametrize("floor", FLOORS)
def test_importing_a_package_loads_nothing_heavy(floor: str) -> None:
    assert _loaded_by(f"import {floor}") & (HEAVY | {"distributed"}) == set()
