"""Pictures on the local disk, read at random."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from algorithms.engines.torch_engine import TorchData
from algorithms.images import samples
from algorithms.images.config import ImageClassificationConfig
from infra.datasets.dataset import Dataset
from infra.errors import InvalidSourceError
from tests.algorithms.conftest import Workplace, on_ranks

CONFIG = ImageClassificationConfig(image_size=16)


def opened(workplace: Workplace, dataset: Dataset | None = None) -> TorchData:
    return samples.open_pictures(
        CONFIG, dataset or workplace.dataset(), workplace.run("train", "open"), splits=("train", "test"), fitted=None
    )


def test_samples_are_the_pictures_of_the_split_in_any_order(workplace: Workplace) -> None:
    data = opened(workplace)
    split = data.samples["train"]
    assert data.input_shape == (16, 16, 3)
    assert data.classes == ["class-0", "class-1", "class-2"]
    assert isinstance(split, samples.PictureSamples)
    everything, labels = split.read(np.arange(len(split)))
    order = np.random.default_rng(0).permutation(len(split))
    some, some_labels = split.read(order)
    assert np.array_equal(some, everything[order])
    assert np.array_equal(some_labels, labels[order])
    for number, (path, encoded, label) in enumerate(split.encoded()):
        pixels = np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB").resize((16, 16), Image.Resampling.BILINEAR)).astype(int)
        assert abs(everything[number].astype(int) - pixels).max() <= 1  # Pillow rounds between its two passes
        assert split.ids()[number] == path
        assert labels[number] == label
        assert path.startswith(f"class-{label}/")


def test_a_second_opening_decodes_nothing(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = opened(workplace).samples["train"].read(np.arange(5))
    monkeypatch.setattr(samples, "_make_part", None)
    second, _ = opened(workplace).samples["train"].read(np.arange(5))
    assert np.array_equal(first, second)


def test_ranks_share_the_work(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    make = samples._make_part

    def counting(path: object, dataset: Dataset, part: list[samples.RowGroup], *rest: object) -> None:
        made.extend(f"{group.split} {group.shard} {group.index}" for group in part)
        make(path, dataset, part, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(samples, "_make_part", counting)
    dataset = workplace.dataset()
    found = on_ranks(
        2,
        lambda collectives: samples.open_pictures(
            CONFIG, dataset, workplace.run("train", "shared", collectives=collectives), splits=("train",), fitted=None
        ),
    )
    assert len(made) == len(set(made)) == len(dataset.row_groups("train"))
    one, other = (data.samples["train"].read(np.arange(40))[0] for data in found)
    assert np.array_equal(one, other)


def test_a_picture_that_cannot_be_decoded_is_named(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = workplace.dataset()
    read = Dataset.read

    def damaged(self: Dataset, group: object, columns: object = None) -> object:
        table = read(self, group, columns)  # type: ignore[arg-type]
        return table.set_column(1, "image", [[content[:40] for content in table.column("image").to_pylist()]])

    monkeypatch.setattr(Dataset, "read", damaged)
    with pytest.raises(InvalidSourceError, match=r"class-\d/\d+\.png"):
        opened(workplace, dataset)
