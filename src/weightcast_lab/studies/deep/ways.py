"""Ways to train a deep network with few learned weights: ours, others', and what else was tried.

    python -m weightcast_lab.studies.evidence --cells deep --minutes 60 \
        --data "tinyshakespeare=PLAYS,CIFAR-10 (JPEG copy)=CIFAR10"

All learn the same share of the large layers' weights, with the same data, steps and schedule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

import weightcast as wc
from weightcast.dictionaries import ChannelCovariance, Dictionary, LowRank
from weightcast.layers import predicted_layers, view
from weightcast.layers.rule import Rule
from weightcast.plan.plan import Plan
from weightcast_lab.networks.drawing import seeded
from weightcast_lab.studies.deep.other_layers import LowRankActivation, SparsePlusLowRank
from weightcast_lab.studies.modern import (
    COSINES,
    DICTIONARIES,
    INFORMED,
    PREDICTED,
    RANDOM,
    SINGLE,
    columns,
)
from weightcast_lab.studies.modern_directions import trained, with_weights_of
from weightcast_lab.training import Images, Text, TrainConfig, fit
from weightcast_lab.training.build import example_inputs

Data = Images | Text
Build = Callable[[nn.Module, TrainConfig, Data, float], nn.Module]
"""Of a dense network before training, the run, its data and the share: the network to train."""

FIRST = {"resnet20": "stage1.", "gpt": "blocks.0."}
"""How the names of the layers begin that come first. With the last block they would be more than a
quarter of all weights: 30 % in the narrow ResNet-20, 33 % in the GPT."""

AFTER = 0.1
"""The share of the data after which inputs are looked at once more."""


@dataclass(frozen=True)
class Way:
    """One way to train with few learned weights.

    Args:
        expected: what one could expect of it, in a sentence.
        build: makes the network.
        training: what it changes in the training settings.
        finish: what is done to the network after its training.
    """

    expected: str
    build: Build
    training: Mapping[str, Any] = field(default_factory=dict)
    finish: Callable[[nn.Module, TrainConfig, Data], None] = lambda *_: None


def _convert(model: nn.Module, plan: Plan, config: TrainConfig, data: Data) -> nn.Module:
    how: dict[str, Any] = {"inputs": example_inputs(config, data), "seed": config.seed}
    return wc.convert(model, plan, warn_pretrained=False, **how)


def _predicted(dictionary: Dictionary, n_columns: Callable[[float], int]) -> Build:
    """All large layers from one dictionary."""

    def build(model: nn.Module, config: TrainConfig, data: Data, fraction: float) -> nn.Module:
        rule = _rule(dictionary, fraction, n_columns, config)
        return _convert(model, Plan({PREDICTED[config.model.name]: rule, "*": None}), config, data)

    return build


def _rule(
    dictionary: Dictionary, fraction: float, n_columns: Callable[[float], int], config: TrainConfig
) -> Rule:
    most = (config.model.hidden or (1,))[0]  # each column needs a unit of the narrowest layer
    return Rule(dictionary, fraction, min(most, n_columns(fraction)))


def _covering(fraction: float) -> int:
    """So many columns that together they see all directions."""
    return columns(RANDOM, fraction)


def _half(fraction: float) -> int:
    """So many that together they see half of the directions."""
    return columns(INFORMED, fraction)


def _units(_: float) -> int:
    return 10_000


def _one(_: float) -> int:
    return 1


def _first_dense(model: nn.Module, config: TrainConfig, data: Data, fraction: float) -> nn.Module:
    """The first stage or block learns all its weights, the others so much less."""
    key, sizes = PREDICTED[config.model.name], _sizes(model, config)
    dense = {name: n for name, n in sizes.items() if name.startswith(FIRST[config.model.name])}
    n_dense, total = sum(dense.values()), sum(sizes.values())
    rest = (fraction * total - n_dense) / (total - n_dense)
    if rest <= 0:
        raise ValueError(f"fraction is {fraction}, but the first have {n_dense / total:.0%} of all")
    rule = _rule(_ROTATIONS, rest, _covering, config)
    rules: dict[str, Rule | None] = dict.fromkeys(dense)
    return _convert(model, Plan({**rules, key: rule, "*": None}), config, data)


def _suggested(model: nn.Module, config: TrainConfig, data: Data, fraction: float) -> nn.Module:
    """Random rotations, of which each layer gets as many as ``suggest`` gives it."""
    sizes = _sizes(model, config)
    total = sum(p.numel() for p in model.parameters())
    budget = total - round((1 - fraction) * sum(sizes.values()))
    plan = wc.suggest(model, inputs=example_inputs(config, data), budget=budget, progress=False)
    rules = {}
    for name, rule in plan.resolve(model).items():
        if name in sizes and rule.fraction is not None:
            rules[name] = _rule(_ROTATIONS, rule.fraction, _covering, config)
    return _convert(model, Plan({**rules, "*": None}), config, data)


def _after_a_tenth(model: nn.Module, config: TrainConfig, data: Data, fraction: float) -> nn.Module:
    """Leading directions of the inputs in a dense network that has seen a tenth of the data."""
    source = trained(config, data, AFTER).eval()
    small = _predicted(_LEADING, _half)(source, config, data, fraction)
    return with_weights_of(model, small).train()


def _more_columns(model: nn.Module, config: TrainConfig, data: Data, fraction: float) -> nn.Module:
    """Columns that see all directions, fitted to one column that has seen a tenth of the data."""
    one = _predicted(_ROTATIONS, _one)(model, config, data, fraction)
    part = data.fewer(round(AFTER * len(data.train[0])))
    fit(one, part, config.training, seed=config.seed, progress=False)
    source = wc.merge(one)
    small = with_weights_of(source, _rotations(source, config, data, fraction))
    for name, layer in predicted_layers(small).items():
        layer.fit(view(source.get_submodule(name)).weight)
    return small.train()


def _replaced(make: Callable[[nn.Linear, float], nn.Module]) -> Build:
    """All large layers by others' modules."""

    def build(model: nn.Module, config: TrainConfig, _: Data, fraction: float) -> nn.Module:
        with seeded(config.seed):
            for name in _sizes(model, config):
                layer: Any = model.get_submodule(name)
                model.set_submodule(name, make(layer, fraction))
        return model

    return build


def _low_rank(model: nn.Module, config: TrainConfig, data: Data, fraction: float) -> nn.Module:
    """Both factors learned, of as many weights."""
    shapes = {name: view(model.get_submodule(name)).sizes for name in _sizes(model, config)}
    rules = {
        name: Rule(LowRank(), LowRank.matching_fraction(fraction, *shape))
        for name, shape in shapes.items()
    }
    return _convert(model, Plan({**rules, "*": None}), config, data)


@torch.no_grad()
def _norms_again(model: nn.Module, config: TrainConfig, data: Data) -> None:
    """Means and variances of batch norms over all training images, in the network as it ended."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
    model.train()
    for batch in data.train[0].split(config.training.batch_size * 5):
        model(batch)


def _taught(model: nn.Module, config: TrainConfig, data: Data) -> None:
    """One more pass, on the outputs of the dense network after the same training."""
    teacher = trained(config, data, 1.0).eval()
    batches = list(data.train[0].split(config.training.batch_size))
    wc.distil(
        model.eval(), teacher, batches, len(batches), loss="kl", train=("V", "bias", "norm"),
        seed=config.seed, progress=False,
    )  # fmt: skip


def _sizes(model: nn.Module, config: TrainConfig) -> dict[str, int]:
    """The weights of each large layer, by its name."""
    names = Plan({PREDICTED[config.model.name]: Rule(LowRank(), 0.5), "*": None}).resolve(model)
    every: Any = {name: model.get_submodule(name) for name in names}
    return {name: layer.weight.numel() for name, layer in every.items()}


_ROTATIONS, _LEADING = DICTIONARIES[RANDOM], DICTIONARIES[INFORMED]
_rotations = _predicted(_ROTATIONS, _covering)

OURS = "random rotations"
PEERS: Mapping[str, Way] = {
    OURS: Way("Columns that together see all directions.", _rotations),
    SINGLE: Way(
        "Sparse atoms: each unit sees some inputs, and nothing is multiplied.",
        _predicted(DICTIONARIES[SINGLE], _units),
    ),
    "low rank": Way("Both factors learned, at half the rank.", _low_rank),
    "CoLA": Way(
        "A non-linearity between the factors makes up for it.", _replaced(LowRankActivation)
    ),
    "SLTrain": Way(
        "A few single weights reach what low rank does not.", _replaced(SparsePlusLowRank)
    ),
}
"""Ours, the best idea, and what the literature calls the same thing, for linear layers."""

IDEAS: Mapping[str, Way] = {
    OURS: PEERS[OURS],
    "a column for each unit": Way(
        "More columns see more directions, and cost no weights.", _predicted(_ROTATIONS, _units)
    ),
    "one column": Way("How much the columns matter.", _predicted(_ROTATIONS, _one)),
    "more columns after a tenth of the data": Way(
        "One begins with what all units share, the others add to it.", _more_columns
    ),
    SINGLE: PEERS[SINGLE],
    "leading directions": Way(
        "What inputs vary along most before training.",
        _predicted(_LEADING, _half),
    ),
    "leading directions, after a tenth of the data": Way(
        "Inputs have moved by then.", _after_a_tenth
    ),
    "channel covariance, length 1": Way(
        "Neighbours in space alike, channels by their covariance.",
        _predicted(ChannelCovariance(wc.kernels.SquaredExponential(1.0)), _covering),
    ),
    "channel covariance, length 0.5": Way(
        "Filters of 3 x 3 points are hardly smooth.",
        _predicted(ChannelCovariance(wc.kernels.SquaredExponential(0.5)), _covering),
    ),
    COSINES: Way(
        "Random frequencies, nothing looked at.", _predicted(DICTIONARIES[COSINES], _covering)
    ),
    "first block dense": Way("What it loses, no later one can find again.", _first_dense),
    "shares by suggest": Way("Layers whose inputs vary in few directions need few.", _suggested),
    "no weight decay": Way("V has few weights to overfit with.", _rotations, {"weight_decay": 0.0}),
    "weight decay 0.1": Way(
        "V's step is larger, so its decay acts more.", _rotations, {"weight_decay": 0.1}
    ),
    "norms once more": Way(
        "Statistics of the last steps lag behind.", _rotations, finish=_norms_again
    ),
    "taught by the dense network": Way("A pass on its outputs.", _rotations, finish=_taught),
}
"""What was tried against what is lost at a quarter of the weights, on validation data alone."""


IN_SPACE = ("channel covariance, length 1", "channel covariance, length 0.5", "norms once more")
"""Ideas for convolutions and their norms alone."""

BEST_FOR_IMAGES = ("leading directions", COSINES, "channel covariance, length 1")
"""ResNet-20's ideas of least loss on validation images, which run with three seeds."""


def ideas_for(network: str) -> list[str]:
    """The names of what is tried for resnet20 or gpt."""
    return [name for name in IDEAS if network == "resnet20" or name not in IN_SPACE]


def find_way(name: str) -> Way:
    """The way of this name; ValueError if there is none."""
    ways = {**PEERS, **IDEAS}
    if name not in ways:
        raise ValueError(f"no way {name!r}; known: {', '.join(ways)}")
    return ways[name]
