"""Reconstruction ICA on image patches with and without prediction, and a linear classifier on top.

Filters are learned without labels from whitened patches, each image is described by their
responses summed over its quadrants, and a linear classifier learns the labels from that.

What is predicted are the filters W of ZCA-whitened patches, W = U V. ZCA moves a patch less than
any other whitening: input i still belongs to pixel i, so kernels on the pixels' coordinates keep
their meaning, while in PCA's coordinates they would have none. Predicting the filters of raw
pixels instead, P W, would ask whitening's sharp filters of a smooth dictionary. The data-driven
dictionaries (covariance, PCA) are made from the patches before whitening, since afterwards the
covariance is close to the identity and says nothing; ZCA commutes with it, so the spaces that its
eigenvectors span are the same before and after.

References: Denil et al. 2013; Le, Karpenko, Ngiam and Ng 2011; Coates, Lee and Ng 2011.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from weightcast.dictionaries import (
    DCT,
    PCA,
    Covariance,
    Dictionary,
    InputStatistics,
    Kernel,
    LowRank,
    RandomConnections,
    RandomGaussian,
    SquaredCovariance,
)
from weightcast.grid import Grid
from weightcast.inputs.gather import Given
from weightcast.kernels import SquaredExponential
from weightcast.layers import PredictedLinear
from weightcast.layers.rule import Rule
from weightcast.serialization import Configuration
from weightcast_lab.data.natural_patches import Whitening, draw_patches, normalise
from weightcast_lab.studies.first_layers import spread
from weightcast_lab.studies.sources import find_source
from weightcast_lab.sweeps.presets import Preset, check_preset, with_seeds
from weightcast_lab.sweeps.rows import Row, make_row
from weightcast_lab.sweeps.trial import Place, Trial, runs_trials
from weightcast_lab.training import load_images
from weightcast_lab.training.ica import (
    RicaSettings,
    dense_filters,
    pooled_features,
    reconstructed,
    rica_objective,
    train_rica,
)
from weightcast_lab.training.linear import classify

FRACTIONS = (0.05, 0.1, 0.25, 0.5)


@dataclass(frozen=True)
class RicaConfig(Configuration):
    """One run: filters from patches, features of images, a linear classifier.

    Args:
        data: the data's name.
        rule: how the filters are predicted, without a grid, which is the patch's; None learns all
            weights. A low rank learns the rule's fraction in both factors together.
        n_features: filters.
        patch_size: height and width of a patch, in pixels.
        stride: from one patch of an image to the next, in pixels.
        n_patches: to learn the filters from, drawn from the training images.
        settings: of reconstruction ICA.
        n_train: training images of the classifier, spread over the training set; None takes all.
        n_test: the same of the test images.
        seed: of patches, initial weights, atoms and order; the images are the same for all seeds.
        experiment: which experiment the row belongs to.
        variant: what tells the row from the others.
        labels: what figures sort the row by: curve, fraction, columns.
    """

    data: str = "cifar10"
    rule: Rule | None = None
    n_features: int = 200
    patch_size: int = 8
    stride: int = 2
    n_patches: int = 30_000
    settings: RicaSettings = field(default_factory=RicaSettings)
    n_train: int | None = 10_000
    n_test: int | None = None
    seed: int = 0
    experiment: str = "rica"
    variant: str | None = None
    labels: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("n_features", "patch_size", "stride", "n_patches"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be 1 or more")
        for name, least in (("n_train", 10), ("n_test", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} is {value}: take {least} or more, or null for all")
        if self.rule is not None and self.rule.grid is not None:
            raise ValueError("the rule names a grid, which follows from the patch: leave it out")


def trials(preset: Preset, seeds: int, data: str) -> list[Trial]:
    """Test error against the share of the filters' weights that is learned, one curve a dictionary.

    Beside them ``narrow``, which learns as many weights in fewer dense filters, and ``untrained``,
    whose 200 filters stay as they were drawn: what lies between it and ``dense`` is what learning
    the filters is worth.

    Args:
        preset: ``smoke``: seconds; ``cpu``: 10,000 training images and four fractions; ``full``:
            all images, more filters, dictionaries and columns.
        seeds: runs of each point.
        data: the data's name.

    Raises:
        ValueError: no seeds, or an unknown preset.
    """
    configs = {"smoke": _smoke, "cpu": _cpu, "full": _full}[check_preset(preset, seeds)]()
    return with_seeds(
        configs, seeds, lambda config, seed: Trial("rica", replace(config, data=data, seed=seed))
    )


@runs_trials("rica", RicaConfig)
def run(config: RicaConfig, place: Place) -> Row:
    """Learn filters, describe the images, train the classifier, measure its test error once.

    Raises:
        ValueError: data that cannot be read, images smaller than a patch, a rule that does not fit
            the patches, or no GPU where one is asked for.
    """
    images = load_images(find_source(place.data, config.data))
    device = _find_device(place.accelerator)
    generator = torch.Generator().manual_seed(config.seed)
    patches = normalise(
        draw_patches(images.train[0], config.patch_size, config.n_patches, generator)
    )
    layer = _make_layer(config, patches, images.shape[0], generator).to(device)
    whitening = Whitening.of(patches)
    whitening = Whitening(whitening.mean.to(device), whitening.P.to(device))
    z = whitening(patches.to(device))
    started = time.perf_counter()
    train_rica(layer, z, config.settings, generator)
    W = _weight(layer).detach()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds = time.perf_counter() - started
    train, test = spread(images.train, config.n_train), spread(images.test, config.n_test)
    result = classify(
        (_features(train[0], W, whitening, config), train[1]),
        (_features(test[0], W, whitening, config), test[1]),
    )
    row = make_row(
        experiment=config.experiment,
        variant=config.variant or ("dense" if config.rule is None else "predicted"),
        dataset=config.data,
        seed=config.seed,
        config=config.to_dict(),
        counts={
            "dense": W.numel(),
            "learned": sum(parameter.numel() for parameter in layer.parameters()),
            "train_patches": config.n_patches,
            "train_images": len(train[1]),
            "test_images": len(test[1]),
        },
        metrics={
            "test_error": result.test_error,
            "penalty": result.penalty,
            "objective": float(rica_objective(z, W, config.settings)),
            "r2": reconstructed(z, W),
            "train_seconds": seconds,
        },
    )
    return row | {"labels": config.labels}


def _make_layer(
    config: RicaConfig, patches: Tensor, channels: int, generator: torch.Generator
) -> nn.Module:
    """The filters' layer, dense or predicted, (n_units, n_visible)."""
    n_visible, rule = patches.shape[1], config.rule
    if rule is None:
        return dense_filters(n_visible, config.n_features, generator)
    fraction = rule.fraction
    assert fraction is not None  # this study's rules have one
    if isinstance(rule.dictionary, LowRank):
        fraction = LowRank.matching_fraction(fraction, n_visible, config.n_features)
    grid = Grid((config.patch_size, config.patch_size), channels)
    return PredictedLinear(
        n_visible,
        config.n_features,
        bias=False,
        dictionary=rule.dictionary,
        fraction=fraction,
        columns=rule.columns,
        grid=grid,
        path=rule.path,
        seed=generator,
        statistics=_statistics(rule.dictionary, patches, generator),
    )


def _statistics(
    dictionary: Dictionary, patches: Tensor, generator: torch.Generator
) -> InputStatistics | None:
    """What the dictionary needs to know of the patches before whitening."""
    if not dictionary.needs:
        return None
    given = Given(dictionary.needs, generator, sample_size=10_000)
    for rows in patches.split(10_000):
        given.update(rows.unsqueeze(1))
    return given.statistics()


def _features(x: Tensor, W: Tensor, whitening: Whitening, config: RicaConfig) -> Tensor:
    """Pooled features, on the CPU."""
    parts = [
        pooled_features(part.to(W.device), W, whitening, config.patch_size, config.stride).cpu()
        for part in x.split(1000)
    ]
    return torch.cat(parts)


def _weight(layer: nn.Module) -> Tensor:
    assert isinstance(layer.weight, Tensor)
    return layer.weight


def _find_device(accelerator: str) -> torch.device:
    if accelerator == "gpu" and not torch.cuda.is_available():
        raise ValueError("accelerator is 'gpu', but torch finds none: take 'auto' or 'cpu'")
    on_gpu = accelerator != "cpu" and torch.cuda.is_available()
    return torch.device("cuda" if on_gpu else "cpu")


def _smoke() -> Iterator[RicaConfig]:
    base = RicaConfig(
        n_features=32,
        patch_size=6,
        n_patches=2000,
        n_train=1000,
        n_test=500,
        settings=RicaSettings(epochs=2),
    )
    yield from _points(base, ("SE", "RandFixU"), (0.25,), columns=1)


def _cpu() -> Iterator[RicaConfig]:
    base = RicaConfig()
    yield from _points(base, ("SE", "Emp", "RandFixU", "PCA", "DCT"), FRACTIONS, columns=1)
    yield from _curves(base, ("SE", "RandFixU"), FRACTIONS, columns=10)


def _full() -> Iterator[RicaConfig]:
    base = RicaConfig(
        n_features=400,
        stride=1,
        n_patches=100_000,
        n_train=None,
        settings=RicaSettings(epochs=30),
    )
    fractions = (0.02, 0.05, 0.1, 0.15, 0.25, 0.5, 0.75)
    yield from _points(base, tuple(_dictionaries()), fractions, columns=1)
    for columns in (5, 10, 20):
        names = [name for name in _dictionaries() if name != "LowRank"]
        yield from _curves(base, names, fractions, columns)


def _dictionaries() -> dict[str, Dictionary]:
    return {
        "SE": Kernel(SquaredExponential(1.0)),
        "Emp": Covariance(),
        "Emp2": SquaredCovariance(),
        "PCA": PCA(),
        "DCT": DCT("leading"),
        "RandCon": RandomConnections(),
        "RandFixU": RandomGaussian(),
        "LowRank": LowRank(),
    }


def _points(
    base: RicaConfig, names: tuple[str, ...], fractions: tuple[float, ...], columns: int
) -> Iterator[RicaConfig]:
    """Dense, untrained and narrow filters, and curves of predicted ones."""
    yield replace(base, variant="dense", labels={"curve": "dense", "fraction": 1.0})
    yield replace(
        base,
        variant="untrained",
        settings=replace(base.settings, epochs=0),
        # Nothing is learned, but nothing is predicted either: it stands beside dense.
        labels={"curve": "untrained", "fraction": 1.0},
    )
    for fraction in fractions:
        yield replace(
            base,
            n_features=max(1, round(fraction * base.n_features)),
            variant=f"narrow, {100 * fraction:g} %",
            labels={"curve": "narrow", "fraction": fraction},
        )
    yield from _curves(base, names, fractions, columns)


def _curves(
    base: RicaConfig, names: tuple[str, ...] | list[str], fractions: tuple[float, ...], columns: int
) -> Iterator[RicaConfig]:
    for name in names:
        for fraction in fractions:
            yield replace(
                base,
                rule=Rule(_dictionaries()[name], fraction, columns),
                variant=f"{name}, {100 * fraction:g} %, columns {columns}",
                labels={"curve": name, "fraction": fraction, "columns": columns},
            )
