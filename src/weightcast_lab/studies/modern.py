"""Modern networks: ResNet-20, a vision transformer and a character GPT, fewer and fewer learned.

All large layers between the first and the classifier are predicted: from the leading directions of
their inputs in the network before training (informed), or from random rotations; beside the dense
network and narrow ones with as many learned weights. All are trained alike, with equal steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import nn

from weightcast.dictionaries import (
    DCT,
    Covariance,
    Dictionary,
    Kernel,
    RandomConnections,
    RandomGaussian,
)
from weightcast.kernels import SquaredExponential
from weightcast.layers.rule import Rule
from weightcast.plan.plan import Plan
from weightcast_lab.studies.figure4 import describe
from weightcast_lab.sweeps.curves import DENSE, NARROW
from weightcast_lab.sweeps.presets import Preset, check_preset, with_seeds
from weightcast_lab.sweeps.trial import Trial
from weightcast_lab.training import ModelSettings, TrainConfig, TrainingSettings, gpt, resnet20, vit

INFORMED, RANDOM, RANDOM_HALF = "informed", "random", "random half"
SINGLE = "single inputs"
"""Each group of units sees some inputs, drawn at random: as many groups as every layer can have."""

COSINES = "cosines"
"""For convolutions: waves over the points of a filter, some of each channel, drawn at random."""

COVERED = {INFORMED: 0.5, RANDOM: 1.0, RANDOM_HALF: 0.5, COSINES: 1.0}
"""The share of the inputs' directions that all columns together see, in curves with columns."""

DICTIONARIES: Mapping[str, Dictionary] = {
    INFORMED: Covariance(selection="leading", mixing="orthonormal"),
    RANDOM: RandomGaussian("orthonormal"),
    RANDOM_HALF: RandomGaussian("orthonormal"),
    SINGLE: RandomConnections(),
    COSINES: DCT(),
}
"""What each curve's large layers are predicted from."""

FRACTIONS = (0.25, 0.1, 0.5)
N_CHARACTERS = 65
"""Of the alphabet that narrow networks are sized for: that of the plays of Shakespeare."""

PREDICTED = {
    "resnet20": r"re:stage\d\.\d\.conv\d",
    "vit": r"re:blocks\.\d\.(attention\.(inputs|outputs)|expand|contract)",
    "gpt": r"re:blocks\.\d\.(attention\.(inputs|outputs)|expand|contract)",
}
"""The layers of each network that are predicted, as a plan's key."""


@dataclass(frozen=True)
class ModernSetting:
    """What the runs of one network have in common.

    Args:
        model: the dense network.
        training: on the labels or characters.
        n_train: training images or windows; None takes all.
        n_validation: images or windows that are set aside.
        n_inputs: training images or windows from which informed dictionaries are made.
        context: characters in a window.
        fractions: shares of the predicted layers' weights that are learned.
        ending: of the experiment's name, which tells its rows from those of other networks.
    """

    model: ModelSettings
    training: TrainingSettings
    n_train: int | None = None
    n_validation: int = 0
    n_inputs: int = 200
    context: int = 64
    fractions: tuple[float, ...] = FRACTIONS
    ending: str = ""


def trials(network: str, preset: Preset, seeds: int, data: str) -> list[Trial]:
    """The runs behind one network's figure.

    Args:
        network: resnet20, vit or gpt.
        preset: ``smoke``, a few steps of a tiny network; ``cpu``, a narrow reference network on a
            part of the data; ``full``, the reference network on all of it, for a GPU.
        seeds: runs of each point.
        data: what the data is called.

    Raises:
        ValueError: an unknown preset, or no seeds.
    """
    setting = _SETTINGS[check_preset(preset, seeds)][network]

    def make(point: tuple[str, float], seed: int) -> Trial:
        return Trial("train", make_config(*point, setting, seed, data))

    # What matters most comes first, with all seeds.
    return with_seeds(_points(setting), seeds, make) + with_seeds(_halves(setting), seeds, make)


def cpu_setting(network: str) -> ModernSetting:
    """What the runs of one network have in common in the preset ``cpu``.

    Args:
        network: resnet20, vit or gpt.
    """
    return _SETTINGS["cpu"][network]


def _points(setting: ModernSetting) -> Iterator[tuple[str, float]]:
    yield DENSE, 1.0
    for fraction in setting.fractions:
        for curve in (INFORMED, RANDOM, NARROW):
            yield curve, fraction


def _halves(setting: ModernSetting) -> Iterator[tuple[str, float]]:
    for fraction in setting.fractions:
        yield RANDOM_HALF, fraction


def make_config(
    curve: str, fraction: float, setting: ModernSetting, seed: int, data: str
) -> TrainConfig:
    """One run.

    Args:
        curve: dense, narrow, informed, random, random half, single inputs, or cosines.
        fraction: share of the predicted layers' weights that is learned.
        setting: what it has in common with the network's other runs.
        seed: of the run.
        data: what the data is called.
    """
    name, model, plan = setting.model.name, setting.model, None
    labels: dict[str, object] = {"curve": curve, "fraction": fraction}
    if curve == NARROW:
        model = replace(model, hidden=narrow_widths(model, fraction, setting.context))
    elif curve != DENSE:
        most = (model.hidden or DEFAULT_WIDTHS[name])[0]
        plan = make_plan(name, curve, fraction, most).to_dict()
    return TrainConfig(
        data=data,
        model=model,
        plan=plan,
        training=setting.training,
        seed=seed,
        n_validation=setting.n_validation,
        n_train=setting.n_train,
        n_inputs=setting.n_inputs,
        context=setting.context,
        experiment=f"modern-{name}{setting.ending}",
        variant=describe(labels),
        labels=labels,
    )


def make_plan(network: str, curve: str, fraction: float, most_columns: int) -> Plan:
    """The plan that predicts a network's large layers.

    Args:
        network: resnet20, vit or gpt.
        curve: informed, random, random half, single inputs, or cosines.
        fraction: share of each layer's weights that is learned.
        most_columns: units of the narrowest layer; each column needs one.
    """
    n_columns = most_columns if curve == SINGLE else min(most_columns, columns(curve, fraction))
    rule = Rule(DICTIONARIES[curve], fraction, n_columns)
    rules: dict[str, Rule | None] = {PREDICTED[network]: rule}
    if network == "vit":  # its first layer sees pixels
        kernel = Kernel(SquaredExponential(1.0), selection="leading", mixing="orthonormal")
        rules["patches"] = replace(rule, dictionary=kernel) if curve == INFORMED else rule
    return Plan({**rules, "*": None})


def columns(curve: str, fraction: float) -> int:
    """Groups of units with atoms of their own, so many that together they see what they should."""
    return max(1, int(COVERED[curve] / fraction))


@cache  # of each seed and rate they are the same
def narrow_widths(model: ModelSettings, fraction: float, context: int) -> tuple[int, ...]:
    """Widths of the narrowest dense network that learns no fewer weights than the predicted one.

    Args:
        model: the dense network.
        fraction: share of the weights that the predicted network learns.
        context: characters in a window.
    """
    widths = model.hidden or DEFAULT_WIDTHS[model.name]
    step = 1 if model.name == "resnet20" else 4  # each head gets one number more
    wanted = count_learned(_make_empty(model, widths, context), model.name, fraction)
    for n in range(step, widths[0] + 1, step):
        narrow = tuple(round(n * width / widths[0]) for width in widths)
        if count_learned(_make_empty(model, narrow, context), model.name, 1.0) >= wanted:
            return narrow
    return widths


def count_learned(network: nn.Module, name: str, fraction: float) -> int:
    """Weights and biases that are learned where the plan's layers are predicted.

    Args:
        network: the dense one.
        name: resnet20, vit or gpt.
        fraction: share of the predicted layers' weights.
    """
    total = sum(p.numel() for p in network.parameters())
    if fraction == 1:
        return total
    for layer in make_plan(name, RANDOM, fraction, most_columns=1).resolve(network):
        weight: Any = network.get_submodule(layer).weight
        n_visible = weight[0].numel()
        total -= (n_visible - round(fraction * n_visible)) * len(weight)
    return total


DEFAULT_WIDTHS = {"resnet20": (16, 32, 64), "vit": (192,), "gpt": (384,)}


def _make_empty(model: ModelSettings, widths: Sequence[int], context: int) -> nn.Module:
    """The dense network without values."""
    depth = 6 if model.depth is None else model.depth
    with torch.device("meta"):
        if model.name == "resnet20":
            return resnet20(widths=widths)
        if model.name == "vit":
            return vit(width=widths[0], depth=depth)
        return gpt(N_CHARACTERS, context, widths[0], depth)


def _training(epochs: int, batch_size: int, rate: float, decay: float = 0.01) -> TrainingSettings:
    return TrainingSettings(epochs, batch_size, learning_rate=rate, weight_decay=decay)


_SETTINGS: Mapping[Preset, Mapping[str, ModernSetting]] = {
    "smoke": {
        "resnet20": ModernSetting(
            ModelSettings("resnet20", hidden=(4, 8, 16)),
            _training(1, 50, 4e-3),
            n_train=100,
            fractions=(0.25,),
        ),
        "vit": ModernSetting(
            ModelSettings("vit", hidden=(32,), depth=2),
            _training(1, 50, 2e-3),
            n_train=200,
            fractions=(0.25,),
        ),
        "gpt": ModernSetting(
            ModelSettings("gpt", hidden=(32,), depth=2),
            _training(1, 16, 2e-3),
            context=32,
            n_train=400,
            n_inputs=50,
            fractions=(0.25,),
        ),
    },
    "cpu": {
        "resnet20": ModernSetting(
            ModelSettings("resnet20", hidden=(8, 16, 32)),
            _training(8, 50, 4e-3),
            n_train=5_000,
            n_validation=1_000,
        ),
        "vit": ModernSetting(
            ModelSettings("vit", hidden=(64,)),
            _training(8, 50, 2e-3),
            n_train=5_000,
            n_validation=1_000,
        ),
        "gpt": ModernSetting(
            ModelSettings("gpt", hidden=(64,)),
            _training(1, 16, 2e-3),
            n_train=12_000,
            n_validation=500,
        ),
    },
    "full": {
        "resnet20": ModernSetting(
            ModelSettings("resnet20"),
            _training(10, 256, 4e-3, decay=0.05),
            n_validation=5_000,
            ending="-full",
        ),
        "vit": ModernSetting(
            ModelSettings("vit"),
            _training(10, 256, 1e-3, decay=0.05),
            n_validation=5_000,
            ending="-full",
        ),
        "gpt": ModernSetting(
            ModelSettings("gpt"),
            _training(10, 64, 1e-3, decay=0.1),
            n_validation=400,
            context=256,
            ending="-full",
        ),
    },
}
