"""Pixels become the same numbers in training and in the exported graph."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
import torch
from PIL import Image

from algorithms.images.config import ImageClassificationConfig
from algorithms.images.export import preprocessing_graph
from algorithms.images.preprocess import normalise, random_shift, resize


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", [(8, 8), (32, 32), (45, 31), (7, 90), (300, 200), (1, 1)])
def test_onnxruntime_and_torch_prepare_a_picture_alike(shape: tuple[int, int], channels: int) -> None:
    config = ImageClassificationConfig(image_size=32, channels=1 if channels == 1 else 3)
    pixels = np.random.default_rng(1).integers(0, 256, (2, *shape, 3), dtype=np.uint8)
    session = ort.InferenceSession(preprocessing_graph(config).SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"image": pixels})
    expected = normalise(resize(torch.from_numpy(pixels), 32, channels), channels_last=True).numpy()
    assert found.shape == expected.shape == (2, channels, 32, 32)
    # Where a value falls on the border between two levels of 255, the last bit decides: rarely, and by one level.
    difference = np.abs(found - expected)
    assert difference.max() <= 1.01 / 255 / 0.224
    assert (difference > 1e-5).mean() <= 1e-3


def test_grey_is_what_pillow_makes_of_colour() -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    grey = resize(torch.from_numpy(pixels)[None], 16, 1)[0, :, :, 0].numpy()
    assert np.array_equal(grey, np.asarray(Image.fromarray(pixels).convert("L")))


def test_shifting_moves_a_picture_by_at_most_its_reach_and_repeats_the_edge() -> None:
    torch.manual_seed(0)
    pictures = torch.arange(20, dtype=torch.uint8).repeat_interleave(20).view(1, 20, 20, 1).expand(64, 20, 20, 1)
    shifted = random_shift(pictures, 0.1)
    moves = shifted[:, 10, 0, 0].int() - 10
    assert moves.unique().tolist() == [-2, -1, 0, 1, 2]
    assert shifted.min() == 0
    assert shifted.max() == 19
    assert random_shift(pictures, 0.01) is pictures
