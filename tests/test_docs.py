"""The docs say what there is: every command, preset, setting and benchmark; their links lead somewhere."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import click
import pytest

from algorithms.catalog import ALGORITHMS
from deployments.cli import COMMANDS, SUMMARIES
from infra.settings import Settings

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXT = "\n".join(page.read_text() for page in PAGES)


def test_every_preset_is_documented() -> None:
    assert ALGORITHMS, "no presets: the test would say nothing"
    assert [algorithm.name for algorithm in ALGORITHMS if algorithm.name not in TEXT and algorithm.name.split("/")[1] not in TEXT] == []


def test_every_command_is_documented_and_loads() -> None:
    assert set(COMMANDS) == set(SUMMARIES)
    missing = []
    for name, home in COMMANDS.items():
        module, _, attribute = home.partition(":")
        command = getattr(importlib.import_module(module), attribute)
        words = [name] + [f"{name} {sub}" for sub in command.commands] if isinstance(command, click.Group) else [name]
        for word in words:
            last = word.split()[-1]
            if f"atelier {word}" not in TEXT and not re.search(rf"atelier {name} [^\n]*\b{last}\b", TEXT):
                missing.append(word)
    assert missing == []


def test_every_setting_is_documented() -> None:
    readme = (ROOT / "README.md").read_text()
    assert [name for name in Settings.model_fields if f"ATELIER_{name.upper()}" not in readme] == []


def test_every_benchmark_is_documented() -> None:
    page = (ROOT / "docs" / "benchmarks.md").read_text()
    assert [script.name for script in (ROOT / "benchmarks").glob("[a-z]*.py") if script.name not in page] == []


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)", page.read_text())
    assert [target for target in targets if "://" not in target and not (page.parent / target).exists()] == []


def test_the_readme_names_the_commands_that_ci_runs() -> None:
    readme, makefile = (ROOT / "README.md").read_text(), (ROOT / "Makefile").read_text()
    for target in re.findall(r"make ([a-z]+)", readme):
        assert f"\n{target}:" in makefile, f"`make {target}` is in the README, not in the Makefile"
    assert "make test" in (ROOT / ".ci" / "run").read_text()
