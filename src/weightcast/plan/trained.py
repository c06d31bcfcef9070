"""Whether weights look trained, before they are drawn anew."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from weightcast.layers import view

LARGEST = 1024
"""Rows and columns that are looked at, evenly spread over a larger weight."""

DEVIATIONS = 6.0
"""What counts as no accident, in standard deviations of what random weights show."""


class PretrainedWarning(UserWarning):
    """``convert`` draws V anew for a layer whose weights look trained, which are lost."""


def warn_if_trained(layers: Mapping[str, nn.Module]) -> None:
    """Warn of the first of these layers whose weight looks trained; for ``convert`` to call."""
    for name, layer in layers.items():
        if looks_trained(view(layer).filters()):
            warnings.warn(
                f"layer {name!r} looks trained, and convert draws V anew, so that its weights are "
                "lost: weightcast.compress keeps them, with V fitted in closed form; if they shall "
                "go, pass warn_pretrained=False",
                PretrainedWarning,
                stacklevel=3,
            )
            return


@torch.no_grad()
def looks_trained(filters: Tensor) -> bool:
    """Whether a weight, (n_units, n_visible), is none that an initialisation of torch's draws.

    Three signs of training, each one enough:

    - Entries that are drawn independently have no direction of their own: the largest singular
      value stays at the edge that random matrix theory gives it, with the fluctuations of Tracy
      and Widom. Training adds a few strong directions.
    - Entries drawn from a uniform distribution end at its bounds, which a few steps blur.
    - No initialisation has heavier tails than a normal distribution (zeros set aside, for sparse
      ones); training makes them.

    Orthogonal, cut, constant and sparse weights pass. Time and memory grow with the weights looked
    at, at most 1024 by 1024. What is small or hardly trained is not noticed; rows drawn at very
    different scales in one weight look trained.

    References: Johnstone, *On the distribution of the largest eigenvalue in principal components
    analysis*, 2001.
    """
    if filters.is_meta or min(filters.shape) < 2:
        return False
    step = [max(1, size // LARGEST) for size in filters.shape]
    W = filters[:: step[0], :: step[1]][:LARGEST, :LARGEST].float()
    W = W[W.any(dim=1)]  # without the row of a padding
    if min(W.shape) < 2 or not bool(W.isfinite().all()):
        return False
    W = W / W.abs().max()  # so that no power is zero
    W = W / W.square().mean().sqrt()
    return max(_beyond_uniform(W), _beyond_normal(W), _beyond_edge(W)) > DEVIATIONS


def _beyond_uniform(W: Tensor) -> float:
    """How far the largest entry of W, scaled to a mean square of 1, is beyond uniform bounds.

    In standard deviations of the bound's estimate; 0 for entries of another distribution, told by
    their kurtosis: 1.8 of a uniform, 2.37 of a normal distribution cut at two deviations.
    """
    largest, kurtosis = W.abs().max(), _kurtosis(W)
    # Bounds of a narrower distribution of another form are sharp too.
    sharp = float((W.abs() > 0.97 * largest).float().mean()) > 0.005
    if sharp or kurtosis > min(2.25, 2.37 - 9 / math.sqrt(W.numel())):
        return 0.0
    return (float(largest) / math.sqrt(3) - 1) * math.sqrt(5 * W.numel())


def _beyond_normal(W: Tensor) -> float:
    """How far the kurtosis is beyond a normal distribution's 3, on a scale of logarithms."""
    drawn = W[W != 0]
    return math.log(_kurtosis(drawn) / 3) * math.sqrt(drawn.numel() * 9 / 24)


def _beyond_edge(W: Tensor) -> float:
    """How far the largest singular value, squared, is beyond that of independent entries.

    W is scaled to a mean square of 1. In units of Tracy and Widom's fluctuations, widened where
    entries have heavy tails.
    """
    n_units, n_visible = W.shape
    W = W - W.mean()
    variance = W.square().mean()
    if variance < 1e-6:  # a constant, and its rounding
        return 0.0
    W = W / variance.sqrt()
    tails = max(1.0, _kurtosis(W) - 2)
    x = torch.randn(n_visible, generator=torch.Generator().manual_seed(0)).to(W)
    for _ in range(10):  # each raises a bound from below
        x = W.t() @ (W @ x)
        x = x / x.norm().clamp_min(1e-30)
    root = math.sqrt(n_units) + math.sqrt(n_visible)
    width = root * (n_units**-0.5 + n_visible**-0.5) ** (1 / 3)
    return (float((W @ x).square().sum()) - root**2) / width / tails


def _kurtosis(x: Tensor) -> float:
    """E[x^4] / E[x^2]^2."""
    square = x.square()
    return float(square.square().mean() / square.mean().square())
