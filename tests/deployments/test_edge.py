"""The edge bundle in a Python that has nothing but onnxruntime, numpy and Pillow; and packages that are sealed at rest."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import zipfile
from importlib.metadata import files
from pathlib import Path

import pytest
from PIL import Image

from algorithms._package_sealing import key_id, read_key, seal_package
from algorithms.package import Package
from deployments.edge import write_bundle
from infra.artifacts import Artifact
from infra.errors import CorruptArtifactError, InvalidSettingError
from infra.registry import ModelVersion
from infra.settings import load_settings
from tests.packages import write_colours, write_sums

KEY = base64.b64encode(bytes(range(32))).decode()
OTHER = base64.b64encode(bytes(32)).decode()


def version_of(name: str) -> ModelVersion:
    package = Artifact(key="packages/x", kind="export", digest="0" * 64)
    return ModelVersion(
        name=name, version=3, algorithm="a/b", dataset="d" * 64, metrics={}, created="2026-11-01T00:00:00+00:00", package=package
    )


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the few packages that a device has; nothing else can be imported beside the standard library."""
    folder = tmp_path_factory.mktemp("site-packages")
    for name in ("onnxruntime-gpu", "numpy", "pillow"):
        tops = {
            path.parts[0] for path in files(name) or [] if path.parts[0] not in ("..", "__pycache__") and not path.parts[0].endswith(".pth")
        }
        located = {top: next(path for path in files(name) or [] if path.parts[0] == top).locate() for top in tops}
        for top, path in located.items():
            inside = Path(str(path))
            source = next(parent for parent in [inside, *inside.parents] if parent.name == top)
            (folder / top).symlink_to(source)
    return folder


def run(bare: Path, folder: Path, *arguments: str, text: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-S", "predict.py", *arguments]
    variables = {"PATH": os.environ["PATH"], "PYTHONPATH": str(bare), **environment}
    return subprocess.run(command, cwd=folder, env=variables, input=text, capture_output=True, text=True, timeout=120, check=False)


def unpacked(path: Path, folder: Path) -> Path:
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder)
    return folder


def test_a_bundle_for_pictures_says_what_the_package_says(bare: Path, tmp_path: Path) -> None:
    package = write_colours(tmp_path / "package")
    bundle = write_bundle(version_of("colours"), package, tmp_path / "colours.zip")
    assert write_bundle(version_of("colours"), package, tmp_path / "again.zip").read_bytes() == bundle.read_bytes()
    folder = unpacked(bundle, tmp_path / "edge")
    assert (folder / "requirements.txt").read_text().startswith("onnxruntime==")
    for name, colour in (("red", (200, 10, 10)), ("blue", (10, 10, 200))):
        Image.new("RGB", (6, 6), colour).save(folder / f"{name}.png")
    (folder / "text.png").write_text("no picture")
    done = run(bare, folder, "red.png", "blue.png", "text.png")
    red, blue, broken = (json.loads(line) for line in done.stdout.splitlines())
    assert (done.returncode, red["label"], blue["label"], list(broken)) == (1, "red", "blue", ["input", "error"])
    (wanted,) = Package.load(package, providers=["CPUExecutionProvider"]).predict([folder / "red.png"])
    assert red["scores"] == pytest.approx(wanted["scores"])
    check = run(bare, folder, "-h")
    assert check.returncode == 0
    missing = subprocess.run(
        [sys.executable, "-S", "-c", "import pydantic"], env={"PYTHONPATH": str(bare)}, capture_output=True, check=False
    )
    assert missing.returncode == 1, "the environment is not bare"


def test_a_bundle_for_tables_reads_files_and_lines(bare: Path, tmp_path: Path) -> None:
    folder = unpacked(write_bundle(version_of("sums"), write_sums(tmp_path / "package"), tmp_path / "sums.zip"), tmp_path / "edge")
    (folder / "rows.csv").write_text("size,count,kind\n1,2,big\n,3,small\n")
    done = run(bare, folder, "rows.csv", "-", text='{"size": 4, "count": 1, "kind": null}\n')
    assert [json.loads(line)["value"] for line in done.stdout.splitlines()] == [1003, 103, 505]
    (folder / "package" / "model.onnx").write_bytes(b"changed")
    changed = run(bare, folder, "rows.csv")
    assert (changed.returncode, "is damaged" in changed.stderr) == (2, True)


def test_a_sealed_package_opens_with_its_key_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, sealed = write_sums(tmp_path / "plain"), tmp_path / "sealed"
    seal_package(plain, sealed, read_key(KEY))
    assert not (sealed / "model.onnx").exists()
    assert (plain / "model.onnx").read_bytes()[:64] not in (sealed / "model.onnx.sealed").read_bytes()
    row = {"size": 1, "count": 2, "kind": "big"}
    load_settings.cache_clear()
    with pytest.raises(InvalidSettingError, match="is sealed"):
        Package.load(sealed)
    monkeypatch.setenv("ATELIER_PACKAGE_KEY", OTHER)
    with pytest.raises(InvalidSettingError, match=key_id(read_key(KEY))):
        Package.load(sealed)
    monkeypatch.setenv("ATELIER_PACKAGE_KEY", KEY)
    assert Package.load(sealed).predict([row]) == Package.load(plain).predict([row])
    again = tmp_path / "again"
    seal_package(plain, again, read_key(KEY))
    assert (again / "model.onnx.sealed").read_bytes() == (sealed / "model.onnx.sealed").read_bytes()
    seal_package(sealed, tmp_path / "twice", read_key(KEY))
    assert Package.load(tmp_path / "twice").predict([row]) == Package.load(plain).predict([row])
    data = bytearray((sealed / "model.onnx.sealed").read_bytes())
    data[40] ^= 1
    (sealed / "model.onnx.sealed").write_bytes(bytes(data))
    with pytest.raises(CorruptArtifactError):
        Package.load(sealed, verify=False)


def test_a_wrong_key_is_named_without_being_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidSettingError) as caught:
        read_key("c2VjcmV0")
    assert "c2VjcmV0" not in str(caught.value)
    monkeypatch.setenv("ATELIER_PACKAGE_KEY", KEY)
    load_settings.cache_clear()
    assert KEY not in repr(load_settings())
