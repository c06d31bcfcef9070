"""Kernel ridge regression with K from data: the covariance of the layer's inputs.

References: Denil et al. 2013, section 3.2.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import reduce
from typing import ClassVar

import torch

from weightcast.dictionaries.atoms import Atoms
from weightcast.dictionaries.base import check_enough
from weightcast.dictionaries.input_site import Need, Site
from weightcast.dictionaries.kernel import KernelRidge
from weightcast.dictionaries.kronecker import KroneckerBase
from weightcast.dictionaries.mixing import Mixing
from weightcast.dictionaries.operators import DenseBase
from weightcast.dictionaries.selection import Strategy, deal_random
from weightcast.dictionaries.spectra import eigenvectors, leading_atoms
from weightcast.grid import Grid
from weightcast.kernels import CoordinateKernel, SquaredExponential


@dataclass(frozen=True)
class Covariance(KernelRidge):
    """K = cov(x) of the layer's inputs over example data (the paper's Emp).

    For inputs that have no topology, such as hidden layers. Needs ``inputs``.

    Args:
        mixing: ``ridge``, ``raw`` or ``orthonormal`` atoms.
        ridge: regulariser in units of K's diagonal, the variance of an input; at least 0.
        selection: ``random`` inputs, ``pivoted`` inputs, or ``leading`` eigenvectors.

    Raises:
        ValueError: a negative ridge.
    """

    mixing: Mixing = "ridge"
    ridge: float = 0.01
    selection: Strategy = "random"
    needs: ClassVar[tuple[Need, ...]] = ("covariance",)

    def build(self, site: Site) -> Atoms:
        """K from the site's statistics; see :meth:`KernelRidge.build`."""
        K = site.require(self, self.needs[0])
        check_enough(self, site.n_atoms, len(K))
        if self.selection == "leading":
            spectrum, vectors = eigenvectors(K, site.columns * site.n_atoms)
            base, indices = leading_atoms(vectors, site)
            return self.mix_eigenvectors(base, spectrum, indices)
        base, grid = DenseBase(K), Grid((len(K),))
        indices = site.choose(lambda: self.draw_points(site, grid, "shared", base, K.diagonal()))
        return self.mix_atoms(base, indices)


@dataclass(frozen=True)
class SquaredCovariance(Covariance):
    """K = cov(x**2): elementwise square before the covariance (the paper's Emp2).

    Needs ``inputs``. Arguments as for :class:`Covariance`.
    """

    needs: ClassVar[tuple[Need, ...]] = ("squared_covariance",)


@dataclass(frozen=True)
class ChannelCovariance(KernelRidge):
    """K = C_channels (x) K_space: channels correlate as their data do, space as a kernel says.

    For convolutions above the first, whose many channels have no topology. C_channels is the
    covariance of two channels at the same place, the mean over the places of a filter. Only the
    factors are kept, channels^2 numbers and a small matrix per axis, where :class:`Covariance`
    keeps n_visible^2. Needs a grid and ``inputs``.

    Args:
        kernel: on the places of a filter, one that is separable.
        mixing: ``ridge``, ``raw`` or ``orthonormal`` atoms.
        ridge: regulariser in units of the variance of an input; at least 0.
        selection: ``leading`` eigenvectors of K, or ``random`` positions.

    Raises:
        ValueError: a negative ridge, a kernel that is not separable, pivoted positions.
    """

    kernel: CoordinateKernel = field(default_factory=SquaredExponential)
    mixing: Mixing = "orthonormal"
    ridge: float = 0.01
    selection: Strategy = "leading"
    needs: ClassVar[tuple[Need, ...]] = ("covariance",)
    factored: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not getattr(self.kernel, "separable", False) or self.selection == "pivoted":
            raise ValueError(
                f"ChannelCovariance takes a separable kernel, such as SquaredExponential, and "
                f"selection 'leading' or 'random'; got {self.kernel!r} and {self.selection!r}"
            )

    def build(self, site: Site) -> Atoms:
        """C_channels from the site's statistics, K_space from its grid."""
        grid = site.require_grid(self)
        check_enough(self, site.n_atoms, site.n_visible)
        places = (grid.channels, grid.n_points)
        C = site.require(self, "covariance").reshape(*places, *places)
        channels = torch.einsum("apbp->ab", C) / grid.n_points
        factors = [channels, *(self.kernel(axis, axis) for axis in grid.axes())]
        if self.selection == "leading":
            spectra, vectors = zip(*map(eigenvectors, factors), strict=True)
            spectrum = reduce(torch.kron, spectra)
            indices = self.draw_leading(site, spectrum)
            return self.mix_eigenvectors(KroneckerBase(vectors), spectrum, indices)
        indices = site.choose(
            lambda: deal_random(grid.n_visible, site.n_atoms, site.columns, site.generator)
        )
        return self.mix_atoms(KroneckerBase(factors), indices)
