"""``atelier data``, as a person and as a program use it."""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deployments.cli import main
from infra.store import FolderStore


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of ``atelier ARGUMENTS``."""
    with pytest.raises(SystemExit) as caught:
        main(["data", *arguments])
    captured = capsys.readouterr()
    return int(caught.value.code or 0), captured.out, captured.err


def document(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    status, out, err = call(capsys, *arguments, "--json")
    assert (status, err) == (0, "")
    return json.loads(out)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "fruit.csv"
    path.write_text("weight,label\n" + "".join(f"{i},{'apple' if i % 3 else 'pear'}\n" for i in range(90)))
    return path


def test_import_list_and_show_print_one_document_each(workspace: Path, table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    imported = document(capsys, "import", str(table), "--target", "label", "--splits", "80/10/10", "--split-seed", "3")
    assert imported["name"] == "fruit"
    assert imported["num_rows"] == {"train": 72, "valid": 9, "test": 9}
    assert imported["classes"] == ["apple", "pear"]
    assert document(capsys, "list") == [imported]
    shown = document(capsys, "show", "fruit")
    assert shown["digest"] == imported["digest"]
    assert shown["split_rule"] == {"seed": 3, "ratios": [0.8, 0.1, 0.1], "stratified_by": "label"}
    assert [entry["digest"] for entry in shown["history"]] == [imported["digest"]]
    assert document(capsys, "show", imported["digest"][:8])["digest"] == imported["digest"]


def test_a_person_sees_what_was_imported(workspace: Path, table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = call(capsys, "import", str(table), "--target", "label", "--name", "basket")
    assert status == 0
    assert re.match(r"Imported basket: train 63, valid \d+, test \d+ rows; version [0-9a-f]{12}\.\n", out)
    assert "basket" in call(capsys, "list")[1]
    shown = call(capsys, "show", "basket")[1]
    for words in ("to predict 'label'", str(table.name), "70/15/15 with seed 0, by 'label'", "weight", "apple", "60", "█"):
        assert words in shown, shown


def test_an_empty_workspace_says_how_to_begin(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "list")[:2] == (0, "No data sets yet. `atelier data import SOURCE --name NAME` makes one.\n")
    assert document(capsys, "list") == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["import", "nowhere"], "There is no data at 'nowhere'"),
        (["import", "TABLE", "--target", "lable"], "Did you mean label?"),
        (["import", "TABLE", "--regression"], "--regression needs --target"),
        (["import", "TABLE", "--splits", "70/20"], "three are needed"),
        (["import", "TABLE", "--splits", "most/some/few"], "is not three numbers"),
        (["import", "TABLE", "--name", "../evil"], "allowed are up to 100 letters"),
        (["show", "nothing"], "No data set 'nothing'"),
        (["import"], "Missing argument 'SOURCE'"),
        (["import", "https://host/data.csv"], "addresses; allowed are a path"),
    ],
)
def test_a_mistake_is_one_message_and_status_2(
    workspace: Path, table: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    status, out, err = call(capsys, *[str(table) if part == "TABLE" else part for part in arguments])
    assert (status, out) == (2, "")
    assert words in err
    assert "Traceback" not in err
    assert list(FolderStore(workspace).list("")) == []


def test_a_disk_that_is_full_is_one_message_and_leaves_nothing(workspace: Path, tmp_path: Path) -> None:
    for label in ("a", "b"):
        (tmp_path / "things" / label).mkdir(parents=True)
        for i in range(10):
            (tmp_path / "things" / label / f"{i}.png").write_bytes(bytes([i]) * 50_000 + label.encode())

    def no_large_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    done = subprocess.run(
        [sys.executable, "-m", "deployments.cli", "data", "import", str(tmp_path / "things")],
        capture_output=True, text=True, check=False, preexec_fn=no_large_files,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith(f"Error: Cannot use the store {workspace}")
    assert "Traceback" not in done.stderr
    assert list(FolderStore(workspace).list("")) == []
    assert not list((workspace / ".staging").iterdir())
