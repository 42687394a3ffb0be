"""``atelier models`` and ``atelier predict`` as they are called, through the command line's own error handling."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from deployments.cli import main
from infra.artifacts import publish
from infra.registry import Registry
from infra.settings import load_settings
from infra.store import open_store
from tests.caches import fresh_cache
from tests.packages import write_colours, write_sums

RGB = {"red": (200, 10, 10), "green": (10, 200, 10), "blue": (10, 10, 200)}


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared by this module's tests."""
    return fresh_cache(tmp_path_factory.mktemp("shared") / "cache", tmp_path_factory)


@pytest.fixture
def registry(workspace: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """An empty registry, of the workspace that the commands use."""
    monkeypatch.setenv("ATELIER_CACHE_DIR", str(cache))
    load_settings.cache_clear()
    settings = load_settings()
    return Registry(settings, open_store(settings.workspace_uri))


@pytest.fixture
def full(registry: Registry, tmp_path: Path) -> Registry:
    """colours/1 (champion), colours/2 (challenger) and sums/1."""
    store = open_store(load_settings().workspace_uri)
    for number, accuracy in enumerate((0.9, 0.8), start=1):
        folder = write_colours(tmp_path / f"colours-{number}", metrics={"accuracy": accuracy})
        artifact = publish(store, folder, f"runs/colours-{number}/package", "export")
        algorithm = "image-classification/small-cnn"
        registry.register(
            "colours", artifact, algorithm=algorithm, dataset="d" * 64, metrics={"accuracy": accuracy}, tags={"team": f"t{number}"}
        )
    registry.promote("colours", 1, reason="the first")
    registry.promote("colours", 2, "challenger", reason="not better")
    artifact = publish(store, write_sums(tmp_path / "sums"), "runs/sums/package", "export")
    registry.register("sums", artifact, algorithm="tabular-regression/linear", dataset="e" * 64, metrics={"rmse": 1.5})
    return registry


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of ``atelier ARGUMENTS``."""
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return int(caught.value.code or 0), out, err


def ask(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    """The JSON document that ``atelier ARGUMENTS --json`` prints, and nothing else."""
    status, out, err = call(capsys, *arguments, "--json")
    assert (status, err) == (0, "")
    return json.loads(out)


def picture(path: Path, colour: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 6), RGB[colour]).save(path)
    return path


def test_the_list_has_what_was_promised_and_no_more(full: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    listed = ask(capsys, "models", "list")
    assert [list(version) for version in listed] == [["name", "version", "aliases", "algorithm", "metrics", "created"]] * 3
    assert [(v["name"], v["version"], v["aliases"]) for v in listed] == [
        ("colours", 1, ["champion"]),
        ("colours", 2, ["challenger"]),
        ("sums", 1, []),
    ]
    assert listed[0]["metrics"] == {"accuracy": 0.9}
    assert len(ask(capsys, "models", "list", "colours")) == 2


def test_an_empty_registry_says_so(registry: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(capsys, "models", "list") == []
    assert "no models yet" in call(capsys, "models", "list")[1]
    status, out, err = call(capsys, "models", "show", "colours")
    assert (status, out) == (2, "")
    assert err.startswith("Error: No model 'colours'")


def test_tables_for_people_name_the_versions(full: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["list"], ["show", "colours"], ["compare", "colours", "colours/2"], ["search"], ["history", "colours"]):
        status, out, err = call(capsys, "models", *arguments)
        assert (status, err) == (0, "")
        assert "colours/1" in out


def test_show_tells_all_about_a_version(full: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    shown = ask(capsys, "models", "show", "colours@challenger")
    assert (shown["version"], shown["tags"], shown["description"]["labels"]) == (2, {"team": "t2"}, ["blue", "green", "red"])
    assert (Path(shown["package_folder"]) / "model.onnx").is_file()
    assert ask(capsys, "models", "show", "colours")["version"] == 1


def test_compare_puts_metrics_side_by_side(full: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    compared = ask(capsys, "models", "compare", "colours/1", "colours/2")
    assert compared["same_test_split"] is True
    assert compared["metrics"] == [{"metric": "accuracy", "first": 0.9, "second": 0.8}]
    assert "different data" in call(capsys, "models", "compare", "colours", "sums")[1]


def test_compare_writes_a_page(full: Registry, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    page = tmp_path / "compare.html"
    compared = ask(capsys, "models", "compare", "colours/1", "colours/2", "--html", page)
    assert compared["html"] == str(page)
    assert "colours/1 and colours/2" in page.read_text().replace(' <span class="version">and</span> ', " and ")
    assert str(page) in call(capsys, "models", "compare", "colours/1", "colours/2", "--html", page)[1].replace("\n", "")


def test_search_by_metric_and_tag(full: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    assert [v["version"] for v in ask(capsys, "models", "search", "--metric", "accuracy>=0.85")] == [1]
    assert [v["version"] for v in ask(capsys, "models", "search", "--tag", "team=t2", "--name", "col*")] == [2]
    status, _, err = call(capsys, "models", "search", "--metric", "good")
    assert status == 2
    assert "accuracy>=0.9" in err


def test_promote_roll_back_and_the_history_of_it(full: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(capsys, "models", "promote", "colours", "--reason", "trial")["version"] == 2
    assert ask(capsys, "models", "list", "colours")[1]["aliases"] == ["champion"]
    assert "colours/2 was champion already: nothing changed." in call(capsys, "models", "promote", "colours/2")[1]
    assert ask(capsys, "models", "rollback", "colours", "--reason", "complaints")["version"] == 1
    events = ask(capsys, "models", "history", "colours")
    assert [(event["operation"], event["version"], event["reason"]) for event in events[-2:]] == [
        ("promote", 2, "trial"),
        ("rollback", 1, "complaints"),
    ]
    assert ask(capsys, "models", "history", "colours", "--at", events[-2]["at"])["version"] == 2
    assert ask(capsys, "models", "history", "colours", "--at", "2020-01-01")["version"] is None
    assert call(capsys, "models", "history", "colours", "--at", "then")[0] == 2
    assert call(capsys, "models", "rollback", "colours")[0] == 2


def test_export_delete_and_import(full: Registry, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "colours.zip"
    assert ask(capsys, "models", "export", "colours/2", file)["size"] == file.stat().st_size
    assert call(capsys, "models", "delete", "colours")[0] == 2
    status, _, err = call(capsys, "models", "delete", "colours/1")
    assert status == 2
    assert "--force" in err
    assert ask(capsys, "models", "delete", "colours/2") == {"deleted": "colours/2"}
    imported = ask(capsys, "models", "import", file)
    assert (imported["name"], imported["version"], imported["metrics"]) == ("colours", 3, {"accuracy": 0.8})
    assert ask(capsys, "models", "import", file, "--name", "others")["version"] == 1
    assert call(capsys, "models", "import", tmp_path / "none.zip")[0] == 2


def test_predict_prints_label_and_scores_of_files_and_folders(full: Registry, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    one = picture(tmp_path / "one.png", "green")
    picture(tmp_path / "many" / "b" / "2.png", "blue")
    picture(tmp_path / "many" / "a" / "1.png", "red")
    (tmp_path / "many" / "notes.txt").write_text("no picture")
    found = ask(capsys, "predict", "colours", one, tmp_path / "many")
    assert [(Path(result["input"]).name, result["label"]) for result in found] == [
        ("one.png", "green"),
        ("1.png", "red"),
        ("2.png", "blue"),
    ]
    assert list(found[0]) == ["input", "label", "scores"]
    assert sum(found[0]["scores"].values()) == pytest.approx(1)
    (best,) = ask(capsys, "predict", "colours@challenger", one, "--top", 1)
    assert list(best["scores"]) == ["green"]
    status, out, _ = call(capsys, "predict", "colours/1", one)
    assert status == 0
    assert "green" in out
    assert "colours/1 @champion: 1 input" in out


def test_the_exit_status_tells_how_much_was_predicted(full: Registry, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    good, bad = picture(tmp_path / "good.png", "red"), tmp_path / "bad.png"
    bad.write_text("no picture")
    (tmp_path / "empty").mkdir()
    status, out, _ = call(capsys, "predict", "colours", good, bad, "--json")
    assert status == 1
    assert ["error" in result for result in json.loads(out)] == [False, True]
    status, out, _ = call(capsys, "predict", "colours", bad, tmp_path / "nowhere.png", tmp_path / "empty", "--json")
    assert status == 2
    assert [result["error"] for result in json.loads(out)][1:] == ["there is no such file", "there are no pictures in this folder"]
    assert call(capsys, "predict", "colours", bad)[0] == 2
    for model in ("colorz", "colours@live", "colours/9", "colours/x", "Colours"):
        status, out, err = call(capsys, "predict", model, good)
        assert (status, out) == (2, "")
        assert err.startswith("Error: ")


def test_predict_reads_tables_and_standard_input(
    full: Registry, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "t.csv").write_text("size,count,kind\n1,2,big\n3,4,small\n")
    assert [result["value"] for result in ask(capsys, "predict", "sums", tmp_path / "rows")] == [1003.0, 7.0]
    lines = '{"size": 1, "count": 2, "kind": "x"}\n\nnot json\n[]\n{"size": 1}\n{"size": 5, "count": 2, "kind": "x"}\n'
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    status, out, _ = call(capsys, "predict", "sums", "-", "--json")
    found = json.loads(out)
    assert status == 1
    assert [result["input"] for result in found] == ["-:1", "-:3", "-:4", "-:5", "-:6"]
    assert [result.get("value") for result in found] == [3.0, None, None, None, 7.0]
    assert "missing columns: count, kind" in found[3]["error"]
    one = picture(tmp_path / "one.png", "green")
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps({"image": str(one)}) + "\n" + '{"path": 1}\n'))
    status, out, _ = call(capsys, "predict", "colours", "-", "--json")
    assert [result.get("label") for result in json.loads(out)] == ["green", None]


@pytest.mark.parametrize("suffix", ["json", "jsonl", "csv"])
def test_predictions_are_written_to_a_file(suffix: str, full: Registry, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    one, output = picture(tmp_path / "one.png", "green"), tmp_path / "out" / f"predictions.{suffix}"
    assert call(capsys, "predict", "colours", one, tmp_path / "none.png", "--output", output)[0] == 1
    text = output.read_text()
    if suffix == "csv":
        assert text.splitlines()[0] == "input,label,score_blue,score_green,score_red,error"
        assert text.splitlines()[2] == f"{tmp_path / 'none.png'},,,,,there is no such file"
    else:
        results = json.loads(text) if suffix == "json" else [json.loads(line) for line in text.splitlines()]
        assert [result.get("label") for result in results] == ["green", None]
    assert call(capsys, "predict", "colours", one, "--output", tmp_path / "x.txt")[0] == 2


def test_predict_imports_neither_torch_nor_mlflow_nor_prefect(full: Registry, tmp_path: Path) -> None:
    one = picture(tmp_path / "one.png", "green")
    code = (
        "import sys; from deployments.cli import cli; "
        "cli.main(sys.argv[1:], standalone_mode=False); "
        "heavy = {'torch', 'mlflow', 'prefect', 'pandas', 'sklearn', 'distributed', 'pyarrow'} & sys.modules.keys(); "
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code, "predict", "colours", str(one), "--json"],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)[0]["label"] == "green"
    assert time.monotonic() - begin < 60


@pytest.mark.parametrize("alias", ["latest", "v2", "Live", "a b"])
def test_an_alias_that_means_something_else_is_refused(full: Registry, capsys: pytest.CaptureFixture[str], alias: str) -> None:
    status, out, err = call(capsys, "models", "promote", "colours/2", "--alias", alias)
    assert (status, out) == (2, "")
    assert repr(alias) in err
    assert full.get("colours/2").aliases == ["challenger"]


def test_predict_says_why_there_is_nothing_to_predict(full: Registry, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    empty = tmp_path / "t.csv"
    empty.write_text("size,count,kind\n")
    for model, why in (("sums", "no rows"), ("colours", "pictures, not tables")):
        status, out, _ = call(capsys, "predict", model, empty, "--json")
        assert status == 2
        assert why in json.loads(out)[0]["error"]


def test_a_workspace_that_is_a_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("ATELIER_WORKSPACE", str(tmp_path / "file"))
    load_settings.cache_clear()
    for command in (["models", "list"], ["data", "list"]):
        status, out, err = call(capsys, *command)
        assert (status, out) == (2, "")
        assert "it is a file, not a folder" in err
