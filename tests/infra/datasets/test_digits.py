"""The bundled digits as an image folder."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from infra.datasets.digits import NUM_IMAGES, write_digits


def _digest(folder: Path) -> str:
    files = sorted(folder.rglob("*.png"))
    return hashlib.sha256(b"".join(file.relative_to(folder).as_posix().encode() + file.read_bytes() for file in files)).hexdigest()


def test_every_digit_is_there_in_the_folder_of_its_class(digits_folder: Path) -> None:
    counts = {folder.name: len(list(folder.iterdir())) for folder in digits_folder.iterdir()}
    target = load_digits().target
    assert counts == {str(digit): int((target == digit).sum()) for digit in range(10)}
    assert sum(counts.values()) == NUM_IMAGES


def test_the_pixels_are_those_of_scikit_learn(digits_folder: Path) -> None:
    digits = load_digits()
    for index in (0, 1, NUM_IMAGES - 1):
        with Image.open(digits_folder / str(digits.target[index]) / f"{index:04d}.png") as image:
            assert image.mode == "L"
            assert np.array_equal(np.round(np.asarray(image, np.float64) * 16 / 255), digits.images[index])


def test_the_bytes_are_the_same_each_time(digits_folder: Path, tmp_path: Path) -> None:
    assert _digest(write_digits(tmp_path / "again")) == _digest(digits_folder)


def test_a_second_call_writes_nothing(digits_folder: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in digits_folder.rglob("*")}
    write_digits(digits_folder)
    assert {file: file.stat().st_mtime_ns for file in digits_folder.rglob("*")} == before


def test_what_is_something_else_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="0 digits instead of 1797"):
        write_digits(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(self: Image.Image, path: Path, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_digits(tmp_path / "digits")
    assert list(tmp_path.iterdir()) == []
