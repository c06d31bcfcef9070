"""What the flows learn from, and a network for digits."""

from __future__ import annotations

from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

BYTES = 256  # a text's tokens are its bytes


def texts(file: str = "docs/architecture.md", length: int = 24) -> Tensor:
    """The first 48 lengths of a page of this project: (48, length) int64."""
    page = (Path(__file__).parents[2] / file).read_bytes()
    return torch.tensor(list(page[: 48 * length])).view(48, length)


def digits() -> tuple[Tensor, Tensor]:
    """Images (1797, 1, 8, 8) in [0, 1], and which digits they show."""
    data = load_digits()
    return torch.from_numpy(data.data / 16).float().view(-1, 1, 8, 8), torch.from_numpy(data.target)


def classifier() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 10)
    )
