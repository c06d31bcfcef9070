"""ResNet-20: three stages of three residual blocks, for images of 32 x 32 pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weightcast_lab.networks.drawing import check_sizes, seeded

BLOCKS = 3
"""Residual blocks of a stage: 1 + 3 stages * 3 blocks * 2 convolutions + 1 classifier = 20."""


def resnet20(
    shape: Sequence[int] = (3, 32, 32),
    n_classes: int = 10,
    widths: Sequence[int] = (16, 32, 64),
    *,
    seed: int | None = None,
) -> ResNet:
    """ResNet-20 with shortcuts that have no weights, as its authors trained it on CIFAR-10.

    Args:
        shape: channels, height and width of an image.
        n_classes: outputs.
        widths: channels of the three stages; each must be at least as wide as the one before.
        seed: of the initial weights; None draws from torch's global generator, as torch does.

    Raises:
        ValueError: other than three widths, a width that shrinks, or a size below 1.

    References: He, Zhang, Ren and Sun 2016, *Deep residual learning*, section 4.2, option A.
    """
    if len(widths) != 3:
        raise ValueError(f"widths has {len(widths)} entries: resnet20 has three stages to size")
    check_sizes(*shape, n_classes, *widths)
    if list(widths) != sorted(widths):
        raise ValueError(
            f"widths is {list(widths)}: a shortcut adds channels and never drops one, so each "
            "stage must be at least as wide as the one before"
        )
    with seeded(seed):
        return ResNet(shape[0], n_classes, widths)


class ResNet(nn.Module):
    """Images to logits through ``conv``, ``stage1`` to ``stage3`` and ``classifier``.

    Args:
        channels: of an image.
        n_classes: outputs.
        widths: channels of each stage; all but the first halve the image.
    """

    def __init__(self, channels: int, n_classes: int, widths: Sequence[int]) -> None:
        super().__init__()
        width = widths[0]
        self.conv = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        for i, wider in enumerate(widths, start=1):
            strides = (1 if i == 1 else 2, *(1 for _ in range(BLOCKS - 1)))
            inputs = (width, *(wider for _ in range(BLOCKS - 1)))
            blocks = (ResidualBlock(n, wider, s) for n, s in zip(inputs, strides, strict=True))
            self.add_module(f"stage{i}", nn.Sequential(*blocks))
            width = wider
        self.n_stages = len(widths)
        self.classifier = nn.Linear(width, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width) to logits (batch, n_classes)."""
        x = F.relu(self.norm(self.conv(x)))
        for i in range(1, self.n_stages + 1):
            x = self.get_submodule(f"stage{i}")(x)
        return self.classifier(x.mean(dim=(2, 3)))


class ResidualBlock(nn.Module):
    """relu(shortcut(x) + norm2(conv2(relu(norm1(conv1(x)))))).

    The shortcut takes every ``stride``-th pixel and fills new channels with zeros.

    Args:
        channels: of the input.
        width: channels of the output, no fewer.
        stride: of the first convolution.
    """

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.stride, self.new_channels = stride, width - channels

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width) to (batch, width, height / stride, width / stride)."""
        y = F.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        shortcut = x[:, :, :: self.stride, :: self.stride]
        # Channels are the third axis from behind; half of the new ones on either side.
        before = self.new_channels // 2
        shortcut = F.pad(shortcut, (0, 0, 0, 0, before, self.new_channels - before))
        return torch.relu(shortcut + y)
