"""Where a network looks: Grad-CAM."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

_BATCH = 8
EDGE = 192  # pixels of the pictures that are kept


@dataclass(frozen=True)
class Saliency:
    """``layer`` is the name of the module whose output was looked at; ``maps`` float32 [N, h, w], 0 to 1."""

    layer: str
    maps: NDArray[np.float32]


def find_layer(network: nn.Module, example: torch.Tensor) -> str:
    """The last innermost module whose output is a map (float [N, C, h, w], more than one place); empty if there is none.

    Args:
        example: what the network takes, [N, ...].
    """
    found: list[str] = []
    hooks = []
    for name, module in network.named_modules():
        if next(module.children(), None) is None:

            def note(module: nn.Module, inputs: Any, output: Any, name: str = name) -> None:
                if isinstance(output, torch.Tensor) and output.dim() == 4 and output.shape[2] * output.shape[3] > 1:
                    found.append(name)

            hooks.append(module.register_forward_hook(note))
    try:
        with torch.no_grad():
            network(example)
    finally:
        for hook in hooks:
            hook.remove()
    return found[-1] if found else ""


def grad_cam(
    network: nn.Module, prepare: Callable[[torch.Tensor], torch.Tensor], pictures: NDArray[np.uint8], classes: NDArray[np.int64]
) -> Saliency | None:
    """Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391) of the logits of ``classes`` int64 [N], one a picture.

    The map is the mean of the last feature map's channels, each weighted with the mean gradient of the logit with respect to it; what speaks against the
    class is cut off, and each map is scaled to 1.

    Args:
        network: in evaluation mode, on the CPU.
        prepare: from pictures as training reads them, uint8 [n, S, S, C], to what the network takes.
        pictures: uint8 [N, S, S, C].

    Returns:
        None if no layer of the network gives a map (some transformers).
    """
    layer = find_layer(network, prepare(torch.from_numpy(pictures[:1])))
    if not layer:
        return None
    module = network.get_submodule(layer)
    maps = []
    for start in range(0, len(pictures), _BATCH):
        chosen = torch.from_numpy(classes[start : start + _BATCH])
        kept: list[torch.Tensor] = []

        def cut(module: nn.Module, inputs: Any, output: torch.Tensor, kept: list[torch.Tensor] = kept) -> torch.Tensor:
            kept[:] = [output.detach().requires_grad_(True)]
            return kept[0].clone()  # what follows may work in place

        hook = module.register_forward_hook(cut)
        try:
            with torch.enable_grad():
                logits = network(prepare(torch.from_numpy(pictures[start : start + _BATCH])))
                (gradient,) = torch.autograd.grad(logits.gather(1, chosen[:, None]).sum(), kept[0])
        finally:
            hook.remove()
        weights = gradient.mean(dim=(2, 3), keepdim=True)
        found = (weights * kept[0].detach()).sum(dim=1).relu()
        maps.append((found / found.amax(dim=(1, 2), keepdim=True).clamp(min=1e-12)).float().numpy())
    return Saliency(layer, np.concatenate(maps).astype(np.float32))


def shrink(pixels: NDArray[np.uint8]) -> Image.Image:
    """A picture, uint8 [H, W, 3], at ``EDGE`` pixels at most; tiny ones are enlarged by a whole factor, so that their pixels stay visible."""
    picture = Image.fromarray(pixels)
    factor = EDGE // 2 // max(picture.size)
    if factor > 1:
        return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    picture.thumbnail((EDGE, EDGE))
    return picture


def overlay(picture: Image.Image, heat: NDArray[np.float32]) -> Image.Image:
    """The picture in grey, and over it where the network looks: from nothing over orange to yellow."""
    heat_map = Image.fromarray((heat * 255).round().astype(np.uint8)).resize(picture.size, Image.Resampling.BICUBIC)
    strength = np.asarray(heat_map, np.float32)[:, :, None] / 255
    grey = np.asarray(picture.convert("L").convert("RGB"), np.float32)
    colour = np.array([235, 90, 10], np.float32) + strength * np.array([20, 130, 30], np.float32)
    mixed = grey * (1 - 0.75 * strength) + colour * 0.75 * strength
    return Image.fromarray(mixed.round().clip(0, 255).astype(np.uint8))
