"""Reconstruction ICA: learn filters from unlabelled patches, and describe images with them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weightcast.optim import parameter_groups
from weightcast.serialization import Plain
from weightcast_lab.data.natural_patches import Whitening, normalise


@dataclass(frozen=True)
class RicaSettings(Plain):
    """How reconstruction ICA is trained.

    Args:
        reconstruction: weight of the reconstruction error against sparseness (lambda). With too
            little of it, below about 1 on image patches, the best filters are all zero; the more,
            the nearer W W^T is to the identity.
        smoothing: the square in sqrt(h^2 + smoothing), in units of the whitened inputs' variance.
        epochs: passes over the patches; 0 leaves the initial filters.
        batch_size: patches per step.
        learning_rate: Adam's at the start; it falls linearly to nought.

    Raises:
        ValueError: values out of range.
    """

    reconstruction: float = 2.0
    smoothing: float = 1e-2
    epochs: int = 10
    batch_size: int = 500
    learning_rate: float = 5e-3

    def __post_init__(self) -> None:
        for name in ("reconstruction", "smoothing", "learning_rate"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is {getattr(self, name)}: it must be above 0")
        if self.epochs < 0 or self.batch_size < 1:
            raise ValueError(
                f"epochs is {self.epochs} and batch_size {self.batch_size}: at least 0 and 1"
            )


def rica_objective(z: Tensor, W: Tensor, settings: RicaSettings) -> Tensor:
    """Mean over patches of lambda |z W W^T - z|^2 + sum_k sqrt((z W)_k^2 + smoothing).

    Args:
        z: (batch, n_visible), whitened patches.
        W: (n_units, n_visible), the filters in torch's layout.
        settings: lambda and smoothing.

    Returns:
        (), differentiable.

    References: Le, Karpenko, Ngiam and Ng 2011, *ICA with reconstruction cost for efficient
    overcomplete feature learning*.
    """
    h = z @ W.t()  # (batch, n_units)
    error = (h @ W - z).square().sum(dim=1)
    sparseness = (h.square() + settings.smoothing).sqrt().sum(dim=1)
    return (settings.reconstruction * error + sparseness).mean()


def reconstructed(z: Tensor, W: Tensor) -> float:
    """The share of the patches that W gives back, 1 - sum |z W W^T - z|^2 / sum |z|^2.

    Args:
        z: (n, n_visible), whitened patches.
        W: (n_units, n_visible).
    """
    error = (z @ W.t() @ W - z).square().sum()
    return 1 - float(error) / max(float(z.square().sum()), torch.finfo(torch.float32).tiny)


def dense_filters(n_visible: int, n_units: int, generator: torch.Generator) -> nn.Linear:
    """A dense layer without bias, drawn as torch draws it, but from a generator."""
    layer = nn.Linear(n_visible, n_units, bias=False, device="meta").to_empty(device="cpu")
    width = 1 / math.sqrt(n_visible)
    with torch.no_grad():
        layer.weight.copy_((torch.rand(n_units, n_visible, generator=generator) * 2 - 1) * width)
    return layer


def train_rica(
    layer: nn.Module, z: Tensor, settings: RicaSettings, generator: torch.Generator
) -> None:
    """Train filters in place.

    Args:
        layer: ``nn.Linear`` or ``PredictedLinear`` without bias; of a predicted one only V moves.
        z: (n, n_visible), whitened patches, on the layer's device.
        settings: objective and optimiser.
        generator: a CPU generator of the order of the patches.

    Raises:
        ValueError: an objective that is NaN or infinite.
    """
    predicted: Any = layer
    # A learning rate under which W = U V moves as far as the dense W, whatever U's scale.
    optimiser = torch.optim.Adam(parameter_groups(layer, settings.learning_rate))
    n_steps = settings.epochs * -(-len(z) // settings.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / (n_steps + 1))
    for epoch in range(settings.epochs):
        order = torch.randperm(len(z), generator=generator).to(z.device)
        total = torch.zeros((), device=z.device)
        for rows in order.split(settings.batch_size):
            optimiser.zero_grad()
            objective = rica_objective(z[rows], predicted.weight, settings)
            objective.backward()
            optimiser.step()
            schedule.step()
            total += objective.detach()
        if not bool(total.isfinite()):
            raise ValueError(
                f"the objective became {float(total)} in epoch {epoch + 1} of {settings.epochs}: "
                f"take a learning_rate below {settings.learning_rate}"
            )


@torch.no_grad()
def pooled_features(
    x: Tensor, W: Tensor, whitening: Whitening, size: int, stride: int, batch: int = 250
) -> Tensor:
    """Sum max(0, z W) and max(0, -z W) over all patches of each quadrant of an image.

    Args:
        x: (n, channels, height, width), pixels in [0, 1].
        W: (n_units, n_visible), filters of whitened patches.
        whitening: of the patches that W was learned from.
        size: height and width of a patch.
        stride: pixels from one patch to the next.
        batch: images at once.

    Returns:
        (n, 4 * 2 * n_units): upper left, upper right, lower left, lower right; in each the
        positive parts of all units, then the negative parts.

    Raises:
        ValueError: images with fewer than 2 x 2 places for a patch.

    References: Coates, Lee and Ng 2011.
    """
    places = [(side - size) // stride + 1 for side in x.shape[2:]]
    if min(places) < 2:
        raise ValueError(
            f"images of {x.shape[2]} x {x.shape[3]} have {places[0]} x {places[1]} places for "
            f"patches of {size} x {size} at stride {stride}, quadrants need 2 x 2: take smaller "
            "patches or a smaller stride"
        )
    filters = whitening.P @ W.t()  # whitening and filters as one product
    shift = whitening.mean @ filters
    features = []
    for images in x.split(batch):
        patches = F.unfold(images, size, stride=stride).transpose(1, 2)
        h = normalise(patches) @ filters - shift  # (batch, positions, n_units)
        h = h.unflatten(1, places)
        rows, columns = (side // 2 for side in places)
        quadrants = [
            quadrant.sum(dim=(1, 2))
            for half in (h[:, :rows], h[:, rows:])
            for part in (half[:, :, :columns], half[:, :, columns:])
            for quadrant in (part.relu(), part.neg().relu())
        ]
        features.append(torch.cat(quadrants, dim=1))
    return torch.cat(features)
