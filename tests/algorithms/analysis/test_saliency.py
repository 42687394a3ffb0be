"""Grad-CAM, of networks small enough to know what it must show."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import nn

from algorithms.analysis.saliency import EDGE, find_layer, grad_cam, overlay, shrink


class Split(nn.Module):
    """Two classes: the mean of the left and of the right half of the picture's brightness; works in place behind its map."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(1, 2, 1, bias=False)
        self.act = nn.ReLU(inplace=True)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.features.weight.data = torch.tensor([[[[1.0]]], [[[-1.0]]]])

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        pooled: torch.Tensor = self.pool(self.act(self.features(pictures))).flatten(1)
        return pooled


def prepare(pictures: torch.Tensor) -> torch.Tensor:
    """-1 to 1, [n, 1, S, S]"""
    return pictures.permute(0, 3, 1, 2).float() / 127.5 - 1


def test_the_map_is_where_the_class_gets_its_logit_from() -> None:
    pictures = np.zeros((3, 8, 8, 1), np.uint8)
    pictures[:, :, :4] = 255
    network = Split().eval().requires_grad_(False)
    found = grad_cam(network, prepare, pictures, np.array([0, 1, 0]))
    assert found is not None
    assert found.layer == "act"
    bright = np.zeros((8, 8), np.float32)
    bright[:, :4] = 1
    np.testing.assert_allclose(found.maps, [bright, 1 - bright, bright], atol=1e-6)


def test_it_does_not_depend_on_the_batch() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()
    pictures = np.random.default_rng(0).integers(0, 255, (19, 12, 12, 1)).astype(np.uint8)
    classes = np.arange(19) % 3
    whole, one = grad_cam(network, prepare, pictures, classes), grad_cam(network, prepare, pictures[17:18], classes[17:18])
    assert whole is not None
    assert one is not None
    assert whole.maps.shape == (19, 10, 10)
    assert (whole.maps >= 0).all()
    assert (whole.maps <= 1).all()
    np.testing.assert_allclose(whole.maps[17], one.maps[0], atol=1e-5)


def test_a_network_without_a_map_has_none() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    pictures = np.zeros((1, 8, 8, 1), np.uint8)
    assert find_layer(network, prepare(torch.from_numpy(pictures))) == ""
    assert grad_cam(network, prepare, pictures, np.array([0])) is None


def test_pictures_are_shrunk_or_enlarged_and_coloured_where_the_network_looks() -> None:
    small = shrink(np.full((8, 6, 3), 100, np.uint8))
    assert (small.width, small.height) == (72, 96)
    assert max(shrink(np.zeros((300, 900, 3), np.uint8)).size) == EDGE
    heat = np.zeros((4, 3), np.float32)
    heat[0] = 1
    pixels = np.asarray(overlay(small, heat), int)
    assert (pixels[2, :, 0] - pixels[2, :, 2]).min() > 80, "orange above"
    assert (pixels[-2] == 100).all(), "as it was below"
    assert isinstance(small, Image.Image)
