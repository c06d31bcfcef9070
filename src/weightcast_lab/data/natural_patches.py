"""Image patches: drawn from images or photographs, normalised, and whitened without losing place.

The preparation is that of Coates, Lee and Ng 2011, *An analysis of single-layer networks in
unsupervised feature learning*: brightness and contrast taken out of every patch, then ZCA.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from weightcast.dictionaries.spectra import eigenvectors

PHOTOGRAPHS = "photographs"
"""What configs call the packaged photographs."""

CONTRAST_FLOOR = 10 / 255**2
"""Added to a patch's variance before its root: noise in flat patches is not blown up."""


def load_photographs() -> list[Tensor]:
    """Load the two photographs that scikit-learn ships, in grey and at half their size.

    Halving by averages takes out most of what JPEG did to single pixels.

    Returns:
        Two images (1, 213, 320) float32 in [0, 1]: a temple, a flower.

    Raises:
        ValueError: Pillow, which reads them, is missing.
    """
    from sklearn.datasets import load_sample_images

    try:
        photographs = load_sample_images().images
    except ImportError as error:
        raise ValueError(
            "scikit-learn's photographs are read by Pillow: pip install 'weightcast[data]'"
        ) from error
    luma = torch.tensor([0.299, 0.587, 0.114])
    grey = [(torch.from_numpy(picture.copy()).float() / 255) @ luma for picture in photographs]
    return [F.avg_pool2d(image[None], 2) for image in grey]


def draw_patches(
    images: Tensor | Sequence[Tensor], size: int, n_patches: int, generator: torch.Generator
) -> Tensor:
    """Draw patches, each from an image and a place drawn uniformly.

    Args:
        images: (n, channels, height, width), or several (channels, height, width).
        size: height and width of a patch, in pixels.
        n_patches: how many.
        generator: a CPU generator.

    Returns:
        (n_patches, channels * size * size), channel-major, as a convolution's weight is laid out.

    Raises:
        ValueError: no images, no patches, or images smaller than a patch.
    """
    if n_patches < 1 or len(images) == 0:
        raise ValueError(f"{n_patches} patches of {len(images)} images: both must be 1 or more")
    smallest = min(min(image.shape[1:]) for image in images)
    if not 1 <= size <= smallest:
        raise ValueError(
            f"patches of {size} x {size} pixels do not fit images whose shorter side is "
            f"{smallest}: take a patch size between 1 and {smallest}"
        )
    channels = images[0].shape[0]
    patches = torch.empty(n_patches, channels, size, size)
    chosen = torch.randint(len(images), (n_patches,), generator=generator).tolist()
    places = torch.rand(n_patches, 2, generator=generator, dtype=torch.float64).tolist()
    for patch, number, (down, right) in zip(patches, chosen, places, strict=True):
        image = images[number]
        top = int(down * (image.shape[1] - size + 1))
        left = int(right * (image.shape[2] - size + 1))
        patch.copy_(image[:, top : top + size, left : left + size])
    return patches.flatten(1)


def normalise(patches: Tensor) -> Tensor:
    """(x - mean of x) / sqrt(variance of x + floor), for every patch by itself.

    Args:
        patches: (..., n_visible) with pixels in [0, 1].
    """
    centred = patches - patches.mean(dim=-1, keepdim=True)
    return centred / (centred.square().mean(dim=-1, keepdim=True) + CONTRAST_FLOOR).sqrt()


@dataclass(frozen=True)
class Whitening:
    """z = (x - mean) P with the symmetric P = E (D + regulariser)^(-1/2) E^T (ZCA).

    Of all whitenings this one moves a patch least: input i of z still lies where pixel i of x
    does, which other rotations of z lose, so a kernel on pixel coordinates may predict filters
    that act on z. And P commutes with cov(x) = E D E^T, so that spaces which the covariance's
    eigenvectors span are the same before and after it.

    Args:
        mean: (n_visible,).
        P: (n_visible, n_visible).
    """

    mean: Tensor
    P: Tensor

    @classmethod
    def of(
        cls, patches: Tensor, regulariser: float = 0.1, n_components: int | None = None
    ) -> Whitening:
        """Fit to patches.

        Args:
            patches: (n, n_visible), normalised.
            regulariser: added to each variance, above 0; 0.1 damps the highest frequencies, which
                in photographs are mostly noise.
            n_components: leading principal components that z keeps; None keeps all.

        Raises:
            ValueError: fewer than 2 patches, a regulariser that is not above 0, or more components
                than pixels.
        """
        n, n_visible = patches.shape
        kept = n_visible if n_components is None else n_components
        if n < 2:
            raise ValueError(f"whitening needs 2 patches or more, got {n}")
        if not 0 < regulariser < float("inf"):
            raise ValueError(f"regulariser is {regulariser}: it must be above 0, for example 0.1")
        if not 1 <= kept <= n_visible:
            raise ValueError(f"{kept} components of {n_visible} pixels: take 1 to {n_visible}")
        x = patches.double()
        variances, E = eigenvectors(x.t().cov())
        variances, E = variances[:kept], E[:, :kept]
        P = E @ torch.diag((variances + regulariser).rsqrt()) @ E.t()
        return cls(x.mean(dim=0).to(patches.dtype), P.to(patches.dtype))

    def __call__(self, patches: Tensor) -> Tensor:
        """Whiten patches: (..., n_visible) to (..., n_visible)."""
        return (patches - self.mean) @ self.P
