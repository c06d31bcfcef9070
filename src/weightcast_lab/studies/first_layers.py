"""First layers of dense networks: what figure 1 predicts, and how each came about."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from weightcast.dictionaries import Autoencoder, InputStatistics
from weightcast.grid import Grid
from weightcast_lab.data.images import Split
from weightcast_lab.data.natural_patches import Whitening, draw_patches, normalise
from weightcast_lab.studies.figure1 import filters_of
from weightcast_lab.training import Images, TrainingSettings, convnet, fit, mlp
from weightcast_lab.training.ica import RicaSettings, dense_filters, train_rica


@dataclass(frozen=True)
class FirstLayer:
    """A trained first layer.

    Args:
        W: (n_units, n_visible) float64, its filters.
        grid: coordinates of a filter's weights.
        how: how it was trained, as a phrase.
        counts: of images or patches.
        metrics: what else was measured.
    """

    W: Tensor
    grid: Grid
    how: str
    counts: dict[str, int]
    metrics: dict[str, float | None]


def train_on_labels(
    network: Literal["mlp", "convnet"],
    images: Images,
    settings: TrainingSettings,
    *,
    n_train: int | None = None,
    seed: int = 0,
    accelerator: Literal["auto", "cpu", "gpu"] = "auto",
) -> FirstLayer:
    """hidden1 of an MLP, or conv1 of the convnet.

    Args:
        network: which.
        images: with pixels in [0, 1].
        settings: how it is trained.
        n_train: training images, spread over the training set; None takes all.
        seed: of the initial weights and the order of the images.
        accelerator: cpu, gpu, or auto.
    """
    images = images.standardised()
    images = replace(images, train=spread(images.train, n_train))
    make = mlp if network == "mlp" else convnet
    model: Any = make(images.shape, images.n_classes, seed=seed)
    result = fit(model, images, settings, seed=seed, progress=False, accelerator=accelerator)
    channels, *shape = images.shape
    layer = model.hidden1 if network == "mlp" else model.conv1
    grid = Grid(tuple(shape if network == "mlp" else layer.kernel_size), channels)
    n_images, n_test = len(images.train[1]), len(images.test[1])
    how = (
        f"trained on {n_images:,} images for {settings.epochs} epochs with weight decay "
        f"{settings.weight_decay:g}, "
        f"{result.test_error:.2f} % wrong on {n_test:,} test images"
    )
    counts = {"train_images": n_images, "test_images": n_test}
    metrics: dict[str, float | None] = {
        "test_error": result.test_error,
        "train_seconds": result.train_seconds,
    }
    return FirstLayer(filters_of(layer), grid, how, counts, metrics)


def train_on_patches(
    network: Literal["autoencoder", "rica"],
    images: Tensor | list[Tensor],
    settings: TrainingSettings,
    *,
    patch_size: int,
    n_patches: int,
    n_features: int,
    seed: int = 0,
) -> FirstLayer:
    """Features of an autoencoder of patches, or of reconstruction ICA.

    Args:
        network: which.
        images: (n, channels, height, width), or several images, with pixels in [0, 1].
        settings: epochs, batch_size and learning_rate of Adam; the rest is not used.
        patch_size: height and width of a patch.
        n_patches: to learn from.
        n_features: units, and for rica also principal components.
        seed: of patches, initial weights and order.
    """
    generator = torch.Generator().manual_seed(seed)
    patches = normalise(draw_patches(images, patch_size, n_patches, generator))
    learn = _learn_autoencoder if network == "autoencoder" else _learn_rica
    how = (
        f"trained on {n_patches:,} patches of {patch_size} x {patch_size} pixels for "
        f"{settings.epochs} epochs"
    )
    if network == "rica":
        how += f", whitened and reduced to {n_features} principal components"
    grid = Grid((patch_size, patch_size), images[0].shape[0])
    W = learn(patches, n_features, settings, generator)
    return FirstLayer(W, grid, how, {"train_patches": n_patches}, {})


def spread(split: Split, n: int | None) -> Split:
    """Take n images from all over a split, which may be sorted; None or too many takes all."""
    x, y = split
    if n is None or n >= len(y):
        return split
    chosen = torch.linspace(0, len(y) - 1, n).long()
    return x[chosen], y[chosen]


def _learn_autoencoder(
    patches: Tensor, n_features: int, settings: TrainingSettings, generator: torch.Generator
) -> Tensor:
    """Filters of a sigmoid autoencoder with tied weights, (n_features, n_visible)."""
    recipe = Autoencoder(n_features, settings.epochs, settings.learning_rate, settings.batch_size)
    statistics = InputStatistics(len(patches), sample=patches.double())
    seed = int(torch.randint(2**31, (1,), generator=generator))
    atoms = recipe.atoms(patches.shape[1], n_features, statistics=statistics, seed=seed)
    return atoms.dictionaries()[0].t()


def _learn_rica(
    patches: Tensor, n_features: int, settings: TrainingSettings, generator: torch.Generator
) -> Tensor:
    """Filters of whitened patches, (n_features, n_visible)."""
    whitening = Whitening.of(patches, regulariser=1e-3, n_components=n_features)
    layer = dense_filters(patches.shape[1], n_features, generator)
    rica = RicaSettings(
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
    )
    train_rica(layer, whitening(patches), rica, generator)
    return filters_of(layer)
