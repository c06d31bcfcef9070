"""Images: small labelled images held in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

Split = tuple[Tensor, Tensor]
"""Examples x and their answers y: images (n, channels, height, width) float32 in [0, 1] and labels
(n,) int64; or windows of a text, (n, context) int64 both."""


@dataclass(frozen=True)
class Images:
    """Labelled images, split once and for all.

    Args:
        name: what a row or a table calls the data.
        train: x (n, channels, height, width) float32 and y (n,) int64; pixels lie in [0, 1] until
            they are standardised.
        validation: the same, or None where nothing was set aside.
        test: the same; measured once, at the end.
        n_classes: labels are 0 to n_classes - 1.
    """

    name: str
    train: Split
    validation: Split | None
    test: Split
    n_classes: int
    criterion: ClassVar[Literal["error", "loss"]] = "error"

    def __post_init__(self) -> None:
        splits = {"training": self.train, "test": self.test}
        if self.validation is not None:
            splits["validation"] = self.validation
        sizes = {split: tuple(x.shape[1:]) for split, (x, _) in splits.items()}
        if len(set(sizes.values())) > 1:
            raise ValueError(
                f"{self.name} has images of several sizes, (channels, height, width): {sizes}; all "
                "splits need the same"
            )
        for split, (x, y) in splits.items():
            if not len(x) or len(x) != len(y):
                raise ValueError(f"{self.name}: {len(x)} {split} images and {len(y)} labels")
            least, most = int(y.min()), int(y.max())
            if least < 0 or most >= self.n_classes:
                raise ValueError(
                    f"{self.name}: the {split} split has label {least if least < 0 else most}, and "
                    f"classes are 0 to {self.n_classes - 1}, as in the training split: leave out "
                    "what has no label, and use data whose splits share their classes"
                )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one image."""
        channels, height, width = self.train[0].shape[1:]
        return channels, height, width

    def to(self, device: torch.device) -> Images:
        """The same images on a device."""
        return self._map(lambda x, y: (x.to(device), y.to(device)))

    def standardised(self) -> Images:
        """Shift and scale all pixels alike, so that the training pixels have mean 0, variance 1.

        Raises:
            ValueError: training images that are all of one colour.
        """
        deviation, mean = torch.std_mean(self.train[0])
        if not deviation > 0:
            raise ValueError(f"all training pixels of {self.name} are {float(mean):g}")
        return self._map(lambda x, y: ((x - mean) / deviation, y))

    def fewer(self, n_train: int) -> Images:
        """The same with fewer training images, drawn at random, always the same ones.

        Args:
            n_train: images to keep.

        Raises:
            ValueError: there are not so many.
        """
        x, y = self.train
        if not 1 <= n_train <= len(y):
            raise ValueError(f"n_train is {n_train}: {self.name} has {len(y)} training images")
        order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
        kept = order[:n_train].sort().values
        return replace(self, train=(x[kept], y[kept]))

    def _map(self, change: Callable[[Tensor, Tensor], Split]) -> Images:
        aside = None if self.validation is None else change(*self.validation)
        train, test = change(*self.train), change(*self.test)
        return replace(self, train=train, validation=aside, test=test)
