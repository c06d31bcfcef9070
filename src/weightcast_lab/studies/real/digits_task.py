"""A small convolutional network on 8 x 8 digits, trained here in seconds."""

from __future__ import annotations

from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from weightcast_lab.studies.real.task import Metrics, Task

STEPS, BATCH, RATE = 400, 64, 2e-3
TRAIN, VALIDATION = 1_000, 1_400


class DigitClassifier(Task):
    """Two convolutions and two linear layers, 155,530 numbers, on scikit-learn's 1,797 digits.

    Its error on 397 digits: one of them is a quarter of a point. A network that is small and wide
    for its task, so that much can be left out.
    """

    name, dataset = "digits CNN", "scikit-learn's digits, 397 for the test"

    def __init__(self) -> None:
        digits: Any = load_digits()
        order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(0))
        self._images = (torch.from_numpy(digits.data).float() / 16).view(-1, 1, 8, 8)[order]
        self._labels = torch.from_numpy(digits.target)[order]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.model = nn.Sequential(
                nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
                nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
                nn.Flatten(), nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 10),
            )  # fmt: skip
            self._train()
        self.modules = ["3", "7"]

    def _train(self) -> None:
        """In float64: after as many steps in float32 processors differ by a point of error."""
        self.model.double()
        images = self._images.double()
        optimiser = torch.optim.AdamW(self.model.parameters(), RATE)
        for _ in range(STEPS):
            part = torch.randint(TRAIN, (BATCH,))
            optimiser.zero_grad()
            F.cross_entropy(self.model(images[part]), self._labels[part]).backward()
            optimiser.step()
        self.model.float().eval()

    @override
    def calibration(self, draw: int) -> list[Tensor]:
        """500 of the digits it was trained on."""
        order = torch.randperm(TRAIN, generator=torch.Generator().manual_seed(draw))
        return list(self._images[order[:500]].split(125))

    @override
    def evaluate(self, model: nn.Module) -> Metrics:
        return self._error(model, slice(VALIDATION, None))

    @override
    def validate(self, model: nn.Module) -> Metrics:
        return self._error(model, slice(TRAIN, VALIDATION))

    @torch.no_grad()
    def _error(self, model: nn.Module, part: slice) -> Metrics:
        wrong = model(self._images[part]).argmax(1) != self._labels[part]
        return {"test_error": 100 * float(wrong.float().mean())}
