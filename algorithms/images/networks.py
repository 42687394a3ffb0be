"""Networks of our own."""

from __future__ import annotations

from torch import nn


class SmallCnn(nn.Sequential):
    """A convolutional network for small pictures: three stages of two 3x3 convolutions, each followed by halving, then a mean and a linear layer.

    Takes float32 [N, C, S, S] with S from 8 on; gives logits [N, num_classes].
    """

    def __init__(self, num_classes: int, channels: int = 3, width: float = 1.0, dropout: float = 0.0) -> None:
        widths = [max(8, round(base * width / 8) * 8) for base in (32, 64, 128)]
        layers: list[nn.Module] = []
        before = channels
        for number, wide in enumerate(widths):
            layers += [_convolution(before, wide), _convolution(wide, wide)]
            if number < len(widths) - 1:
                layers.append(nn.MaxPool2d(2))
            before = wide
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(before, num_classes))


def _convolution(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True))
