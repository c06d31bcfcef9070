"""Figure 1 of the paper for several networks: how well do a few weights predict a whole filter?

Each trial trains one dense network, takes the filters of its first layer, and predicts them from
5, 10, 25 and 50 % of their weights. References: Denil et al. 2013, figure 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from weightcast.dictionaries import Kernel, check_fraction
from weightcast.kernels import SquaredExponential
from weightcast.serialization import Configuration
from weightcast_lab.data.natural_patches import PHOTOGRAPHS, load_photographs
from weightcast_lab.studies.figure1 import (
    FRACTIONS,
    SHOWN,
    Prediction,
    predict_filters,
    random_r2,
    shown_filters,
)
from weightcast_lab.studies.first_layers import FirstLayer, train_on_labels, train_on_patches
from weightcast_lab.studies.sources import find_source
from weightcast_lab.sweeps.presets import Preset, check_preset, with_seeds
from weightcast_lab.sweeps.rows import SCHEMA, Row, make_row
from weightcast_lab.sweeps.trial import Place, Trial, runs_trials
from weightcast_lab.training import TrainingSettings, load_images

NetworkName = Literal["mlp", "convnet", "autoencoder", "rica"]

_NETWORKS = {
    "mlp": "MLP",
    "convnet": "convnet",
    "autoencoder": "autoencoder",
    "rica": "reconstruction ICA",
}
_DATA = {
    "mnist": "MNIST",
    "cifar10": "CIFAR-10",
    "digits": "5,000 packaged digits of MNIST",
    PHOTOGRAPHS: "natural image patches",
}


@dataclass(frozen=True)
class FilterConfig(Configuration):
    """One dense network, and how its filters are predicted.

    Args:
        network: mlp and convnet learn labels; autoencoder and rica learn patches of the images.
        data: the data's name; ``digits`` and ``photographs`` are packaged.
        training: of the network; autoencoder and rica take epochs, batch_size and learning_rate.
        n_train: labelled images that are trained on, spread over the training set; None takes all.
        patch_size: of autoencoder and rica, in pixels.
        n_patches: the same, drawn at random.
        n_features: the same: units, and for rica also the principal components that are kept. With
            as many as pixels the filters are orthogonal, hence as unpredictable as noise.
        fractions: shares of known weights.
        columns: groups of units, each with its own draw of known positions.
        length_scales: of the squared exponential kernel, in pixels. For each fraction the one is
            taken with which the known weights predict each other best.
        ridges: chosen in the same way.
        n_shown: filters in the pictures.
        seed: of initial weights, patches, order and known positions.
        experiment: which experiment the row belongs to.
        variant: what tables call the row; None says network and data.
        labels: what figures sort the row by; ``network`` is filled in.
    """

    network: NetworkName
    data: str
    training: TrainingSettings = field(default_factory=TrainingSettings)
    n_train: int | None = None
    patch_size: int = 16
    n_patches: int = 20_000
    n_features: int = 36
    fractions: tuple[float, ...] = FRACTIONS
    columns: int = 5
    length_scales: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0, 3.0)
    ridges: tuple[float, ...] = (0.01, 0.1, 1.0)
    n_shown: int = 4
    seed: int = 0
    experiment: str = "fig1"
    variant: str | None = None
    labels: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.network not in _NETWORKS:
            raise ValueError(f"network is {self.network!r}: take one of {', '.join(_NETWORKS)}")
        for name in ("patch_size", "n_patches", "n_features", "columns", "n_shown"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be 1 or more")
        if self.n_train is not None and self.n_train < 1:
            raise ValueError(f"n_train is {self.n_train}: take 1 or more, or null for all images")
        for name in ("fractions", "length_scales", "ridges"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty: give at least one")
        for fraction in self.fractions:
            check_fraction(fraction)
        self.kernels()  # its errors belong here, before any training

    def kernels(self) -> list[Kernel]:
        """The candidates."""
        return [
            Kernel(SquaredExponential(length_scale), ridge=ridge)
            for length_scale in self.length_scales
            for ridge in self.ridges
        ]


def trials(
    preset: Preset, seeds: int, data: str = "digits", colour: str | None = None
) -> list[Trial]:
    """The networks of the figure: MLP, autoencoder, reconstruction ICA, and the convnet.

    Args:
        preset: ``smoke``: seconds; ``cpu``: the convnet on 20,000 images; ``full``: all images,
            more epochs.
        seeds: runs of each network.
        data: the name of the MLP's data, such as ``mnist``; ``digits`` stand in for it.
        colour: the name of the convnet's data, such as ``cifar10``; None leaves the convnet out,
            as :func:`left_out` says.

    Raises:
        ValueError: no seeds, or an unknown preset.
    """
    preset = check_preset(preset, seeds)
    # Epochs of mlp, convnet, autoencoder and rica; the convnet's images; patches.
    epochs, n_train, n_patches = {
        "smoke": ((2, 1, 2, 2), 500, 2000),
        "cpu": ((10, 8, 10, 20), 20_000, 20_000),
        "full": ((30, 20, 50, 50), None, 50_000),
    }[preset]
    # Strong weight decay takes out of the filters what is left of their initial noise, which no
    # kernel can predict; the convnet has fewer steps in which to lose it, hence more decay. The MLP
    # is shown with the usual decay too, so that everyone sees how much of the figure that is.
    smoothed = TrainingSettings(epochs=epochs[0], label_smoothing=0.1, weight_decay=0.5)
    decayed = replace(smoothed, epochs=epochs[1], weight_decay=1.0)
    if data == "digits":  # 15 times fewer images: as many steps, at the rate that suits them
        smoothed = replace(smoothed, epochs=5 * epochs[0] // 2, learning_rate=5e-3)
    networks = [
        FilterConfig("mlp", data, smoothed),
        FilterConfig("mlp", data, replace(smoothed, weight_decay=0.01)),
        *([] if colour is None else [FilterConfig("convnet", colour, decayed, n_train=n_train)]),
        FilterConfig(
            "autoencoder",
            PHOTOGRAPHS,
            TrainingSettings(epochs=epochs[2], learning_rate=3e-3),
            n_patches=n_patches,
        ),
        FilterConfig(
            "rica",
            PHOTOGRAPHS,
            TrainingSettings(epochs=epochs[3], batch_size=200, learning_rate=5e-3),
            n_patches=n_patches,
        ),
    ]
    return with_seeds(networks, seeds, _trial)


def _trial(config: FilterConfig, seed: int) -> Trial:
    name = _name(config)
    return Trial("filters", replace(config, seed=seed, variant=name, labels={"network": name}))


def left_out(data: str, colour: str | None) -> list[str]:
    """What the figure lacks for want of data, a sentence each, for the user to read."""
    notes = []
    if data == "digits":
        notes.append(
            "The MLP is trained on 5,000 packaged digits, not on MNIST: name it with "
            "--data mnist=FOLDER."
        )
    if colour is None:
        notes.append(
            "The convnet on CIFAR-10 is left out: name its data with --data "
            "mnist=FOLDER,cifar10=FOLDER."
        )
    return notes


@runs_trials("filters", FilterConfig)
def run(config: FilterConfig, place: Place) -> Row:
    """Train a network and predict its filters.

    Raises:
        ValueError: data that cannot be read or does not suit the network.
    """
    trained = _train(config, place)
    columns = min(config.columns, len(trained.W))
    predictions = predict_filters(
        trained.W,
        trained.grid,
        config.kernels(),
        columns=columns,
        fractions=config.fractions,
        seed=config.seed,
    )
    shares = [_share(prediction, columns, config.seed) for prediction in predictions]
    keys = ("r2", "random_r2", "length_scale", "ridge")
    row = make_row(
        experiment=config.experiment,
        variant=config.variant or _name(config),
        dataset=config.data,
        seed=config.seed,
        config=config.to_dict(),
        counts=trained.counts
        | {
            "n_filters": len(trained.W),
            "n_visible": trained.W.shape[1],
            "dense": trained.W.numel(),
        },
        metrics=trained.metrics
        | {f"{key}_at_{share['fraction']:g}": share[key] for key in keys for share in shares},
    )
    figure = {
        "schema": SCHEMA,
        "experiment": "figure1",
        "dataset": config.data,
        "shape": list(trained.grid.shape),
        "description": _describe(config, trained, predictions),
        "r2": shares,
        "filters": shown_filters(predictions, trained.grid, config.n_shown),
    }
    labels = {"network": _name(config)} | config.labels
    return row | {"labels": labels, "description": trained.how, "figure": figure}


def _train(config: FilterConfig, place: Place) -> FirstLayer:
    source = find_source(place.data, config.data)
    if config.network == "mlp" or config.network == "convnet":
        return train_on_labels(
            config.network,
            load_images(source),
            config.training,
            n_train=config.n_train,
            seed=config.seed,
            accelerator=place.accelerator,
        )
    return train_on_patches(
        config.network,
        load_photographs() if source == PHOTOGRAPHS else load_images(source).train[0],
        config.training,
        patch_size=config.patch_size,
        n_patches=config.n_patches,
        n_features=config.n_features,
        seed=config.seed,
    )


def _share(prediction: Prediction, columns: int, seed: int) -> dict[str, Any]:
    kernel = prediction.dictionary.kernel
    assert isinstance(kernel, SquaredExponential)
    return {
        "fraction": prediction.fraction,
        "n_atoms": prediction.known.shape[1],
        "r2": prediction.r2,
        "random_r2": random_r2(prediction.true, prediction.fraction, columns, seed),
        "length_scale": kernel.length_scale,
        "ridge": prediction.dictionary.ridge,
    }


def _name(config: FilterConfig) -> str:
    name = f"{_NETWORKS[config.network]} on {_DATA.get(config.data, config.data)}"
    decayed = config.network in ("mlp", "convnet")
    return f"{name}, weight decay {config.training.weight_decay:g}" if decayed else name


def _describe(
    config: FilterConfig, trained: FirstLayer, predictions: Sequence[Prediction]
) -> list[str]:
    shown = min(predictions, key=lambda one: abs(one.fraction - SHOWN))
    channel = ", of which the first channel is shown" if trained.grid.channels > 1 else ""
    lengths = ", ".join(
        f"{p.dictionary.kernel.length_scale:g} at {100 * p.fraction:g} %"
        for p in predictions
        if isinstance(p.dictionary.kernel, SquaredExponential)
    )
    return [
        f"Filters of the first layer of a dense network ({_name(config)}; {trained.how}; seed "
        f"{config.seed}): {trained.grid.n_visible:,} weights each{channel}. True: the filter as it "
        f"was learned. Known: {shown.known.shape[1]:,} of its weights "
        f"({100 * shown.fraction:g} %), at random positions; the others are grey. Predicted: the "
        "whole filter, computed from the known weights alone by kernel ridge regression. Blue is "
        "negative, red positive, with one scale for the three.",
        "The filters are evenly spaced by rank, from the worst predicted to the best. The kernel "
        "is Gaussian; its width and the ridge are those with which the known weights predict each "
        f"other best, each left out in turn (width in pixels: {lengths}). Beside the share of "
        "variance that it explains stands what as many numbers explain without a kernel: the "
        "filters' projections on random directions.",
    ]
