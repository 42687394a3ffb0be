"""From pixels to what a network takes: the same arithmetic in training, in evaluation and in the exported graph.

    uint8 RGB [N, H, W, 3] -> grey, if one channel is asked for -> resized (antialiased bilinear, float32) -> rounded to 0..255 -> normalised

Rounding is part of it, so that training can keep its resized pictures as bytes on disk.
"""

from __future__ import annotations

import torch
from torch.nn import functional

# ITU-R 601-2 in 16-bit fixed point: what Pillow's convert("L") computes. All sums stay below 2^24, so float32 is exact.
GREY_WEIGHTS = (19595.0, 38470.0, 7471.0)
# Not a half: between two pixels averages of 2^k parts fall on halves, where the last bit of torch and onnxruntime would decide.
ROUNDING = 0.5 + 1 / 256
MEAN = {1: (0.5,), 3: (0.485, 0.456, 0.406)}
STD = {1: (0.25,), 3: (0.229, 0.224, 0.225)}


def resize(pictures: torch.Tensor, size: int, channels: int) -> torch.Tensor:
    """uint8 RGB [N, H, W, 3] -> uint8 [N, size, size, channels]."""
    if channels == 1:
        weights = torch.tensor(GREY_WEIGHTS)
        pictures = torch.floor(((pictures.float() * weights).sum(dim=3, keepdim=True) + 32768.0) / 65536.0).to(torch.uint8)
    if pictures.shape[1:3] == (size, size):
        return pictures
    planes = pictures.permute(0, 3, 1, 2).float().contiguous()
    planes = functional.interpolate(planes, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
    return torch.floor(planes + ROUNDING).clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def shrink(pictures: torch.Tensor, size: int) -> torch.Tensor:
    """uint8 [N, H, W, C] -> uint8 [N, size, size, C]: for training on smaller pictures; kept in bytes, which torch resizes several times faster."""
    planes = functional.interpolate(pictures.permute(0, 3, 1, 2), size=(size, size), mode="bilinear", antialias=True, align_corners=False)
    return planes.permute(0, 2, 3, 1).contiguous()


def normalise(pictures: torch.Tensor, channels_last: bool) -> torch.Tensor:
    """uint8 [N, S, S, C] -> float32 [N, C, S, S] about zero, in the memory layout asked for."""
    channels = pictures.shape[3]
    mean = torch.tensor(MEAN[channels], device=pictures.device) * 255
    scale = 1 / (torch.tensor(STD[channels], device=pictures.device) * 255)
    planes = ((pictures.float() - mean) * scale).permute(0, 3, 1, 2)
    return planes if channels_last else planes.contiguous()


def random_shift(pictures: torch.Tensor, most: float) -> torch.Tensor:
    """Each picture moved by up to ``most`` of its sides, up or down and left or right; the edge is repeated. uint8 [N, H, W, C]."""
    count, height, width = pictures.shape[:3]
    reaches = round(most * height), round(most * width)
    if not any(reaches):
        return pictures
    rows, columns = (
        (torch.arange(side, device=pictures.device) + torch.randint(-reach, reach + 1, (count, 1), device=pictures.device)).clamp(
            0, side - 1
        )
        for side, reach in zip((height, width), reaches, strict=True)
    )
    return pictures[torch.arange(count, device=pictures.device)[:, None, None], rows[:, :, None], columns[:, None, :]]
