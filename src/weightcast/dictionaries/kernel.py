"""Kernel ridge regression dictionaries: from a few known weights, predict the whole filter.

    w = K[:, indices] (K[indices, indices] + ridge I)^-1 w_known

so U = K[:, indices] M and V = w_known. Here K comes from coordinates (:class:`Kernel`); in
``covariance`` it comes from data. References: Denil et al. 2013, section 3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import reduce
from typing import ClassVar

import torch
from sklearn.gaussian_process.kernels import Kernel as SklearnKernel
from torch import Tensor

from weightcast.dictionaries.atoms import Atoms
from weightcast.dictionaries.base import (
    Dictionary,
    Site,
    check_enough,
    eigenvectors,
    with_channels,
)
from weightcast.dictionaries.mixing import (
    Mixing,
    Places,
    block_places,
    block_size,
    orthonormal_mixing,
    ridge_mixing,
    spectral_mixing,
)
from weightcast.dictionaries.operators import Base, KroneckerBase
from weightcast.dictionaries.selection import (
    Positions,
    Selection,
    deal_leading,
    draw_on_grid,
    pivoted_points,
    random_points,
)
from weightcast.grid import Grid
from weightcast.kernels import CoordinateKernel, SquaredExponential, as_kernel

LARGE = 256
"""Atoms of a column from which on M_j is mixed faster in blocks than whole, on two CPU cores."""


class KernelRidge(Dictionary):
    """What all dictionaries made from a positive semi-definite K share."""

    mixing: Mixing
    ridge: float
    selection: Selection

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.ridge >= 0 and math.isfinite(self.ridge)):
            raise ValueError(
                f"ridge is {self.ridge}: it is added to K's diagonal and must be at least 0 and "
                "finite (0.1 suits a kernel whose diagonal is 1)"
            )

    @property
    def reads_weights(self) -> bool:
        """V holds the known weights (method, section 2)."""
        return self.mixing == "ridge" and self.selection != "leading"

    def mix_atoms(self, base: Base, indices: Tensor) -> Atoms:
        """Atoms K[:, indices] with the chosen mixing, in blocks where that is less."""
        n_atoms, n_blocks, M = indices.shape[1], base.n_blocks, None
        blocks = base.block_of(indices, n_blocks)
        size = block_size(blocks, n_blocks)
        smaller = n_blocks * size**2 < n_atoms**2
        apart = n_blocks > 1 and (size == 1 or (n_atoms >= LARGE and smaller))
        if apart and self.mixing != "raw":
            places = block_places(blocks, n_blocks, size)
            M = self._mix_blocks(base, indices, places, (n_blocks, size))
            if size == 1:  # no two atoms of a column in one channel
                M = M.flatten(1).gather(1, places.of_atoms)
            return Atoms(base, indices, M)
        if self.mixing == "ridge":
            known = [base.entries(points.unsqueeze(1), points) for points in indices]
            M = ridge_mixing(torch.stack(known), self.ridge)
        elif self.mixing == "orthonormal":
            M = torch.cat([orthonormal_mixing(base.rows(points)[None]) for points in indices])
        return Atoms(base, indices, M)

    def _mix_blocks(
        self, base: Base, indices: Tensor, places: Places, shape: tuple[int, int]
    ) -> Tensor:
        """M's blocks, (columns, *shape, size): solved one by one, empty places beside the atoms."""
        points = indices.gather(1, places.atoms).unflatten(1, shape)
        filled = places.filled.unflatten(1, shape)
        both = filled.unsqueeze(3) & filled.unsqueeze(2)
        if self.mixing == "ridge":
            K = base.entries(points.unsqueeze(3), points.unsqueeze(2))
            apart = torch.eye(shape[1], dtype=torch.bool)
            return ridge_mixing(K * (both | apart), self.ridge) * both
        parts = base.by_channel(points.flatten())
        assert parts is not None
        atoms = parts[1].view(-1, shape[1], parts[1].shape[1])  # (columns * blocks, size, n_points)
        atoms = atoms * filled.flatten(0, 1).unsqueeze(2)
        # An empty place is an atom of its own, along an axis that no other has.
        own = torch.diag_embed((~filled.flatten(0, 1)).double()) * atoms.norm(dim=2).max()
        M = orthonormal_mixing(torch.cat([atoms, own], dim=2))
        return M.view(both.shape) * both

    def mix_eigenvectors(self, base: Base, eigenvalues: Tensor, site: Site) -> Atoms:
        """Leading eigenvectors of K, scaled as the mixing says."""
        order = eigenvalues.argsort(descending=True, stable=True)
        indices = site.choose(lambda: deal_leading(order, site.n_atoms, site.columns))
        return Atoms(base, indices, spectral_mixing(self.mixing, eigenvalues[indices], self.ridge))

    def draw_points(
        self, site: Site, grid: Grid, positions: Positions, space: Base, variance: Tensor
    ) -> Tensor:
        """Random or pivoted points of the grid, (columns, n_atoms).

        Args:
            site: counts and generator.
            grid: of the layer's inputs.
            positions: own points in each channel, or the same in all.
            space: K within one channel.
            variance: (n_points,), K's diagonal there.
        """
        pick = random_points(grid.n_points, site.generator)
        if self.selection == "pivoted":
            pick = pivoted_points(
                variance,
                lambda point: space.rows(torch.tensor([point]))[0],
                site.generator,
                random_start=site.columns > 1,
            )
        return draw_on_grid(grid, site.n_atoms, site.columns, positions, pick, site.generator)


@dataclass(frozen=True)
class Kernel(KernelRidge):
    """U_j = K[:, indices_j] (K[indices_j, indices_j] + ridge I)^-1, K a kernel on coordinates.

    Needs a grid. Channels are uncorrelated: K = I_channels (x) K_space. A separable kernel (SE) is
    kept as one small matrix per axis.

    Args:
        kernel: one of ``weightcast.kernels``, or any scikit-learn kernel.
        mixing: ``ridge`` (V holds the known weights), ``raw`` or ``orthonormal`` atoms.
        ridge: regulariser in units of K's diagonal, at least 0.
        selection: ``random`` points, ``pivoted`` points, or ``leading`` eigenvectors of K.
        positions: known points drawn ``per_channel``, or ``shared`` by all channels.

    Raises:
        ValueError: a negative ridge, or something that is no kernel.

    References: Denil et al. 2013, section 3.1.
    """

    kernel: CoordinateKernel | SklearnKernel = field(default_factory=SquaredExponential)
    mixing: Mixing = "ridge"
    ridge: float = 0.1
    selection: Selection = "random"
    positions: Positions = "per_channel"
    rebuildable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "kernel", as_kernel(self.kernel))

    def build(self, site: Site) -> Atoms:
        """K on the site's grid; see :meth:`Dictionary.build`."""
        grid = site.require_grid(self)
        check_enough(self, site.n_atoms, grid.n_visible)
        factors = self._factors(grid)
        if self.selection == "leading":
            spectra, vectors = zip(*map(eigenvectors, factors), strict=True)
            base = site.shared_base(
                ("eigenvectors", self.kernel, grid), lambda: with_channels(grid, list(vectors))
            )
            spectrum = reduce(torch.kron, (torch.ones(grid.channels).double(), *spectra))
            return self.mix_eigenvectors(base, spectrum, site)
        base = site.shared_base((self.kernel, grid), lambda: with_channels(grid, factors))
        space = KroneckerBase(factors)
        variance = reduce(torch.kron, [K.diagonal() for K in factors])
        indices = site.choose(lambda: self.draw_points(site, grid, self.positions, space, variance))
        return self.mix_atoms(base, indices)

    def _factors(self, grid: Grid) -> list[Tensor]:
        """K_space, as one matrix per axis where the kernel is separable."""
        assert isinstance(self.kernel, CoordinateKernel)
        points = grid.axes() if self.kernel.separable else [grid.coordinates()]
        return [self.kernel(p, p) for p in points]
