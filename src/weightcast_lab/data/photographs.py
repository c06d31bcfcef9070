"""Photographs that packages ship, cut into squares for networks that see ImageNet's classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from weightcast_lab.packages import Package

SCIKIT_IMAGE = Package(
    "scikit-image", "0.26.0", "74aa5518ccea28121f57a95374581d3b979839adc25bb03f289b1bc9b99c58af"
)
GRADIO = Package(
    "gradio", "6.31.0", "7b50b9b6a2d23cd02851ad4c8b1c8312c88d8b911d1f29c93f9761c98348a64a"
)
ULTRALYTICS = Package(
    "ultralytics", "8.4.190", "bd309728efa168af64d39040136828edd2dbcb4aeceb4510bdff4f3ca0ea01b8"
)
CALIBRATION = ("china", "coffee", "motorcycle_left", "cheetah", "cheetah1", "zidane")
TEST = ("flower", "astronaut", "chelsea", "rocket", "lion", "tower", "bus")
"""What is on a photograph is on one side only."""

_PLACES = {
    SCIKIT_IMAGE: ("skimage/data", "coffee.png motorcycle_left.png astronaut.png chelsea.png"),
    GRADIO: ("gradio/media_assets/images", "cheetah.jpg cheetah1.jpg lion.jpg tower.jpg"),
    ULTRALYTICS: ("ultralytics/assets", "zidane.jpg bus.jpg"),
}


def photograph_files() -> dict[str, Path]:
    """The 13 photographs in colour by name; two of them scikit-learn's."""
    import sklearn.datasets

    own = Path(sklearn.datasets.__file__).parent / "images"
    files = [own / "china.jpg", own / "flower.jpg"]
    for package, (folder, names) in _PLACES.items():
        files += [package.fetch() / folder / name for name in names.split()]
    files.append(SCIKIT_IMAGE.fetch() / "skimage" / "data" / "rocket.jpg")
    return {file.stem: file for file in files}


def crops(names: tuple[str, ...], n_each: int, size: int, seed: int) -> Tensor:
    """Draw squares, a third of the shorter side to all of it, at random places.

    Args:
        names: of photographs.
        n_each: squares of each.
        size: of what they are shrunk or blown up to.
        seed: of places and sizes.

    Returns:
        (n, 3, size, size) float32, from -1 to 1, photograph by photograph.
    """
    from PIL import Image

    files, generator = photograph_files(), torch.Generator().manual_seed(seed)
    found = []
    for name in names:
        pixels = np.array(Image.open(files[name]).convert("RGB"))
        picture = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 127.5 - 1
        sides = picture.shape[-2:]
        for _ in range(n_each):
            share, down, right = torch.rand(3, generator=generator).tolist()
            side = int(min(sides) * (1 + 2 * share) / 3)
            top, left = (int(x * (n - side)) for x, n in zip((down, right), sides, strict=True))
            square = picture[..., top : top + side, left : left + side]
            found.append(F.interpolate(square, size=(size, size), mode="bilinear", antialias=True))
    return torch.cat(found)
