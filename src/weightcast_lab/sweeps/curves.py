"""The curves of figures 4 and 5: which dictionaries a network's layers get, by the paper's names.

A name such as SE-Emp is a pair: the dictionary of the layers whose inputs have coordinates, and
that of the others. References: Denil et al. 2013, section 4.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from weightcast.dictionaries import (
    DCT,
    PCA,
    Autoencoder,
    Covariance,
    Dictionary,
    Kernel,
    LocalKernel,
    LowRank,
    RandomConnections,
    RandomGaussian,
    SquaredCovariance,
    Wavelet,
)
from weightcast.grid import Grid
from weightcast.kernels import SquaredExponential
from weightcast.layers.rule import Rule
from weightcast.plan.plan import Plan

DENSE, NARROW = "dense", "narrow"
"""The curves without a dictionary: the whole network, and narrower ones with fewer weights."""

LENGTH_SCALE = 2.0
"""Of the squared exponential, in pixels, as in the authors' older code; their paper has 1."""

MARGIN = 1 / 7
"""Share of the height that stays empty on every side: 4 of 28 pixels around MNIST's digits."""


COVERING_COLUMNS = 10
"""The fewest columns of a curve whose columns must cover the inputs together."""


@dataclass(frozen=True)
class Curve:
    """A pair of dictionaries.

    Args:
        on_grid: of the layers whose inputs have coordinates.
        elsewhere: of the others.
        covering: whether columns look at different inputs, so that together they must be enough to
            cover them all: their number then follows from the fraction.
    """

    on_grid: Dictionary
    elsewhere: Dictionary
    covering: bool = False

    @property
    def takes_columns(self) -> bool:
        """Whether the number of columns is free to choose, at no cost in learned weights."""
        return not (self.covering or isinstance(self.elsewhere, LowRank))


@dataclass(frozen=True)
class Shape:
    """What a curve has to know of a layer.

    Args:
        n_visible: inputs of one unit.
        n_units: number of units.
        grid: coordinates of the inputs, where they have any.
    """

    n_visible: int
    n_units: int
    grid: Grid | None = None


@cache
def paper_curves() -> Mapping[str, Curve]:
    """The pairs of the paper's figure 4, by their names there."""
    kernel = Kernel(SquaredExponential(LENGTH_SCALE))
    gaussian, connections, low_rank = RandomGaussian(), RandomConnections(), LowRank()
    return {
        "LowRank": Curve(low_rank, low_rank),
        "RandCon-RandCon": Curve(connections, connections),
        "RandFixU-RandFixU": Curve(gaussian, gaussian),
        "SE-Emp": Curve(kernel, Covariance()),
        "SE-Emp2": Curve(kernel, SquaredCovariance()),
        "SE-AE": Curve(kernel, Autoencoder(n_features=500, epochs=5)),
        "Emp-Emp": Curve(Covariance(), Covariance()),
    }


@cache
def our_curves() -> Mapping[str, Curve]:
    """Pairs beyond the paper's: other bases, other choices of atoms, windows."""
    kernel = SquaredExponential(LENGTH_SCALE)
    return {
        "DCT-DCT": Curve(DCT(), DCT()),
        "Wavelet-Wavelet": Curve(Wavelet(), Wavelet()),
        "PCA-PCA": Curve(PCA(), PCA()),
        "SE-Emp leading": Curve(
            Kernel(kernel, selection="leading"), Covariance(selection="leading")
        ),
        "SE-Emp pivoted": Curve(
            Kernel(kernel, selection="pivoted"), Covariance(selection="pivoted")
        ),
        "SE-Emp orthonormal": Curve(
            Kernel(kernel, mixing="orthonormal"), Covariance(mixing="orthonormal")
        ),
        "Local-Grouped": Curve(
            LocalKernel(SquaredExponential(3.0), window=1.5),
            RandomConnections("grouped"),
            covering=True,
        ),
    }


def all_curves() -> Mapping[str, Curve]:
    """The paper's pairs, then ours."""
    return {**paper_curves(), **our_curves()}


@cache
def variations() -> Mapping[str, Curve]:
    """The paper's pairs with one thing changed, to find out what their order depends on."""
    wide, narrow = SquaredExponential(2 * LENGTH_SCALE), SquaredExponential(LENGTH_SCALE / 2)
    leading, rotations = Covariance(selection="leading"), RandomGaussian("orthonormal")
    return {
        "SE-Emp, 1 px": Curve(Kernel(narrow), Covariance()),
        "SE-Emp, 4 px": Curve(Kernel(wide), Covariance()),
        "SE-RandFixU": Curve(Kernel(SquaredExponential(LENGTH_SCALE)), RandomGaussian()),
        "Emp-Emp leading": Curve(leading, leading),
        "RandFixU orthonormal": Curve(rotations, rotations),
    }


def find_curve(name: str) -> Curve:
    """The pair of this name, the paper's, ours, or a variation."""
    return {**all_curves(), **variations()}[name]


def make_plan(curve: Curve, layers: Mapping[str, Shape], fraction: float, columns: int) -> Plan:
    """The plan that predicts these layers.

    Args:
        curve: the dictionaries.
        layers: the layers to predict, by name.
        fraction: share of each layer's weights that is learned.
        columns: groups of units with atoms of their own; low-rank layers have one, and those that
            must cover their inputs as many as that takes.
    """
    if curve.covering:
        columns = max(COVERING_COLUMNS, math.ceil(1 / fraction))
    return Plan({name: _rule(curve, shape, fraction, columns) for name, shape in layers.items()})


def _rule(curve: Curve, shape: Shape, fraction: float, columns: int) -> Rule:
    dictionary = curve.elsewhere if shape.grid is None else curve.on_grid
    if isinstance(dictionary, LowRank):
        fraction = LowRank.matching_fraction(fraction, shape.n_visible, shape.n_units)
        return Rule(dictionary, fraction, grid=shape.grid)
    if isinstance(dictionary, LocalKernel) and shape.grid is not None and shape.grid.channels == 1:
        margin = MARGIN * shape.grid.shape[0]
        dictionary = LocalKernel(dictionary.kernel, dictionary.window, margin=margin)
    return Rule(dictionary, fraction, columns, shape.grid)
