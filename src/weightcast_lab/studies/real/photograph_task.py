"""EfficientNet-Lite0 on photographs that packages ship."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from weightcast_lab.data.photographs import CALIBRATION, TEST, crops
from weightcast_lab.networks.pretrained.efficientnet import SIZE, efficientnet_lite0
from weightcast_lab.studies.real.task import Metrics, Task


class ImageClassifier(Task):
    """EfficientNet-Lite0: does its first guess stay what it was?

    On 84 crops, 12 of each of 7 photographs; compressed on crops of 6 others. Agreement with
    itself, not accuracy: a crop of an astronaut has no class of ImageNet, and one guess more is 1.2
    points. Depthwise convolutions, the first layer and the classifier stay.
    """

    name, dataset = "EfficientNet-Lite0", "84 crops of 7 photographs"

    def __init__(self) -> None:
        self.model = efficientnet_lite0()
        self.modules = [
            name
            for name, module in self.model.named_modules()
            if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1)
        ]
        self._test = crops(TEST, 12, SIZE, 0)
        self._guesses = self._guess(self.model)

    def calibration(self, draw: int) -> list[Tensor]:
        """24 crops of 6 photographs that the test does not have."""
        return list(crops(CALIBRATION, 4, SIZE, draw + 1).split(8))

    @torch.no_grad()
    def _guess(self, model: nn.Module) -> Tensor:
        return torch.cat([model(batch).argmax(1) for batch in self._test.split(12)])

    def evaluate(self, model: nn.Module) -> Metrics:
        """test_error: first guesses that are not the dense network's."""
        return {"test_error": 100 * float((self._guess(model) != self._guesses).float().mean())}
