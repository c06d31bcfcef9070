"""Peers: other ways to learn fewer weights, each a stand-in for one dense layer.

Packages are imported where a stand-in is built, and named where they are missing.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import nn

from weightcast.dictionaries import count_atoms
from weightcast.serialization import nearest
from weightcast_lab.bench.adapters import fourierft, lora, vera
from weightcast_lab.bench.cases import Case
from weightcast_lab.bench.factorised import factorised

Replace = Callable[[Any, int], nn.Module]
"""A dense layer and a number of weights -> the stand-in that learns about as many."""

INSTALL = "pip install 'weightcast[bench]'"

_TENSORLY = ("tensorly", "tltorch", "opt_einsum")
"""Without opt_einsum, torch contracts from left to right, and CP layers take gigabytes."""


@dataclass(frozen=True)
class Peer:
    """Another way to learn fewer weights.

    Args:
        name: on the command line, in rows and in tables.
        replace: makes the stand-in of one layer; None makes the whole network narrower.
        packages: that it needs, by the names they are imported by.
        convolutions: whether it stands in for convolutions too.
    """

    name: str
    replace: Replace | None
    packages: tuple[str, ...] = ()
    convolutions: bool = True

    def obstacle(self, case: Case) -> str | None:
        """Why it cannot be measured on a case; None where it can."""
        missing = [name for name in self.packages if importlib.util.find_spec(name) is None]
        if missing:
            return f"{self.name} needs {' and '.join(missing)}: {INSTALL}"
        if not self.convolutions and not case.only_linear:
            return f"{self.name} does not know the convolutions of {case.name}"
        return None


@cache
def peers() -> Mapping[str, Peer]:
    """All peers by name."""
    known = [Peer("narrow", None), Peer("low-rank", low_rank)]
    for name, kind in (("cp", "CP"), ("tucker", "Tucker"), ("tt", "TT")):
        for implementation in ("factorized", "reconstructed"):
            suffix = "" if implementation == "factorized" else "-reconstructed"
            replace = partial(factorised, kind=kind, implementation=implementation)
            known.append(Peer(name + suffix, replace, _TENSORLY))
    known.append(Peer("lora", lora, ("peft",)))
    known.append(Peer("vera", vera, ("peft",), convolutions=False))
    known.append(Peer("fourierft", fourierft, ("peft",), convolutions=False))
    return {peer.name: peer for peer in known}


def find_peer(name: str) -> Peer:
    """The peer of this name.

    Raises:
        ValueError: there is none; the message has the nearest one.
    """
    known = peers()
    if name not in known:
        raise ValueError(f"there is no peer {name!r}{nearest(name, known)}")
    return known[name]


def build_peer(case: Case, peer: Peer, fraction: float, seed: int = 0) -> nn.Module:
    """A case's network that learns about as many weights as the one predicted at ``fraction``.

    Args:
        case: the dense network.
        peer: what stands in for each of its predicted layers, layer by layer with as many weights
            as V has there; a narrow network matches the total instead.
        fraction: share of each layer's weights that is learned.
        seed: of the initial weights, whatever the global random state.
    """
    weights = budgets(case, fraction)
    if peer.replace is None:
        return case.make(seed, matching_width(case, weights))
    model = case.make(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name, n_weights in weights.items():
            parent, _, child = name.rpartition(".")
            stand_in = peer.replace(model.get_submodule(name), n_weights)
            setattr(model.get_submodule(parent), child, stand_in)
    return model


def budgets(case: Case, fraction: float) -> dict[str, int]:
    """Learned weights of every predicted layer, biases left out: n_atoms * n_units.

    Args:
        case: the network.
        fraction: share of each layer's weights.
    """
    shapes = case.shapes().items()
    return {name: count_atoms(fraction, visible) * units for name, (visible, units) in shapes}


def matching_width(case: Case, weights: Mapping[str, int]) -> float:
    """The factor of the widths at which a narrow network learns as many weights.

    Args:
        case: the network.
        weights: learned weights of its predicted layers; all others it keeps.
    """
    dense = sum(visible * units for visible, units in case.shapes().values())
    target = _count(case, 1.0) - dense + sum(weights.values())
    low, high = 0.0, 1.0
    for _ in range(30):  # widths are whole: the count is a staircase, and we want a step's edge
        middle = (low + high) / 2
        low, high = (middle, high) if _count(case, middle) < target else (low, middle)
    return min((low, high), key=lambda width: abs(_count(case, width) - target))


def low_rank(layer: Any, n_weights: int) -> nn.Module:
    """Two plain layers in a row, both learned, without anything in between.

    Args:
        layer: ``nn.Linear`` or ``nn.Conv2d``.
        n_weights: of the two together, biases left out.
    """
    n_units, n_visible = layer.weight.shape[0], layer.weight[0].numel()
    rank = max(1, round(n_weights / (n_units + n_visible)))
    if isinstance(layer, nn.Linear):
        thin = (nn.Linear(n_visible, rank, bias=False), nn.Linear(rank, n_units))
    else:
        first = nn.Conv2d(
            layer.in_channels,
            rank,
            layer.kernel_size,  # pyright: ignore[reportArgumentType]
            padding=layer.padding,  # pyright: ignore[reportArgumentType]
            bias=False,
        )
        thin = (first, nn.Conv2d(rank, n_units, 1))
    return nn.Sequential(*thin)


def learned_weights(model: nn.Module) -> int:
    """Number of parameters that take gradients, biases too."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def _count(case: Case, width: float) -> int:
    """Parameters of the case at another width; nothing is allocated."""
    with torch.device("meta"):
        return learned_weights(case.make_width(width))
