"""Kernel ridge regression dictionaries: from a few known weights, predict the whole filter.

    w = K[:, indices] (K[indices, indices] + ridge I)^-1 w_known

so U = K[:, indices] M and V = w_known. References: Denil et al. 2013, section 3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import reduce
from typing import ClassVar

import torch
from torch import Tensor

from weightcast.dictionaries.atoms import Atoms, stacking
from weightcast.dictionaries.base import Dictionary, check_enough
from weightcast.dictionaries.input_site import Site
from weightcast.dictionaries.kronecker import KroneckerBase, with_channels
from weightcast.dictionaries.mixing import (
    Mixing,
    Places,
    block_places,
    block_size,
    orthonormal_mixing,
    ridge_mixing,
    spectral_mixing,
)
from weightcast.dictionaries.operators import Base
from weightcast.dictionaries.selection import (
    Positions,
    Strategy,
    deal_leading,
    draw_on_grid,
    pivoted_points,
    random_points,
)
from weightcast.dictionaries.spectra import eigenvectors
from weightcast.dictionaries.work import CUBE, NUMBER
from weightcast.grid import Grid
from weightcast.kernels import CoordinateKernel, SklearnKernel, SquaredExponential, as_kernel

LARGE = 256
"""Atoms of a column from which on M_j is mixed faster in blocks than whole, on two CPU cores."""


class KernelRidge(Dictionary):
    """What all dictionaries made from a positive semi-definite K share."""

    mixing: Mixing
    ridge: float
    selection: Strategy

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.ridge >= 0 and math.isfinite(self.ridge)):
            raise ValueError(
                f"ridge is {self.ridge}: it is added to K's diagonal and must be at least 0 and "
                "finite (0.1 suits a kernel whose diagonal is 1)"
            )

    @property
    def reads_weights(self) -> bool:
        """Whether V holds the known weights, as with ridge mixing."""
        return self.mixing == "ridge" and self.selection != "leading"

    def mix_atoms(self, base: Base, indices: Tensor) -> Atoms:
        """Atoms K[:, indices] with the chosen mixing, in blocks where that is less."""
        n_blocks, M = base.n_blocks, None
        blocks = base.block_of(indices, n_blocks)
        size = _size_apart(blocks, n_blocks)
        if size and self.mixing != "raw":
            places = block_places(blocks, n_blocks, size)
            M = self._mix_blocks(base, indices, places)
            if size == 1:  # no two atoms of a column in one channel
                M = M.flatten(1).gather(1, places.of_atoms)
            return Atoms(base, indices, M)
        if self.mixing == "ridge":
            known = [base.entries(points.unsqueeze(1), points) for points in indices]
            M = ridge_mixing(torch.stack(known), self.ridge)
        elif self.mixing == "orthonormal":
            M = torch.cat([orthonormal_mixing(base.rows(points)[None]) for points in indices])
        return Atoms(base, indices, M)

    def _mix_blocks(self, base: Base, indices: Tensor, places: Places) -> Tensor:
        """M's blocks, (columns, n_blocks, size, size), solved one by one; empty places are zero."""
        points = indices.gather(1, places.atoms).unflatten(1, (base.n_blocks, -1))
        filled = places.filled.view(points.shape)
        size = points.shape[2]
        both = filled.unsqueeze(3) & filled.unsqueeze(2)
        if self.mixing == "ridge":
            K = base.entries(points.unsqueeze(3), points.unsqueeze(2))
            apart = torch.eye(size, dtype=torch.bool)
            return ridge_mixing(K * (both | apart), self.ridge) * both
        parts = base.by_channel(points.flatten())
        assert parts is not None
        atoms = parts[1].view(-1, size, parts[1].shape[1])  # (columns * blocks, size, n_points)
        atoms = atoms * filled.flatten(0, 1).unsqueeze(2)
        # An empty place is an atom of its own, along an axis that no other has.
        own = torch.diag_embed((~filled.flatten(0, 1)).double()) * atoms.norm(dim=2).max()
        M = orthonormal_mixing(torch.cat([atoms, own], dim=2))
        return M.view(both.shape) * both

    def mix_eigenvectors(self, base: Base, eigenvalues: Tensor, indices: Tensor) -> Atoms:
        """Eigenvectors of K, scaled as the mixing says."""
        return Atoms(base, indices, spectral_mixing(self.mixing, eigenvalues[indices], self.ridge))

    def draw_leading(self, site: Site, eigenvalues: Tensor) -> Tensor:
        """The eigenvectors of largest eigenvalue, (columns, n_atoms)."""
        order = eigenvalues.argsort(descending=True, stable=True)
        return site.choose(lambda: deal_leading(order, site.n_atoms, site.columns))

    def draw_points(
        self, site: Site, grid: Grid, positions: Positions, space: Base, variance: Tensor
    ) -> Tensor:
        """(columns, n_atoms) points; ``space`` is K within a channel, ``variance`` its diagonal."""
        pick = random_points(grid.n_points, site.generator)
        if self.selection == "pivoted":
            pick = pivoted_points(
                variance,
                lambda point: space.rows(torch.tensor([point]))[0],
                site.generator,
                random_start=site.columns > 1,
            )
        return draw_on_grid(grid, site.n_atoms, site.columns, positions, pick, site.generator)


def _size_apart(blocks: Tensor, n_blocks: int) -> int:
    """The size of M_j's blocks where it is mixed in blocks; 0 where it is mixed whole."""
    n_atoms, size = blocks.shape[1], block_size(blocks, n_blocks)
    smaller = n_atoms >= LARGE and n_blocks * size**2 < n_atoms**2
    return size if n_blocks > 1 and (size == 1 or smaller) else 0


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
    """

    kernel: CoordinateKernel | SklearnKernel = field(default_factory=SquaredExponential)
    mixing: Mixing = "ridge"
    ridge: float = 0.1
    selection: Strategy = "random"
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
            return self.mix_eigenvectors(base, spectrum, self.draw_leading(site, spectrum))
        base = site.shared_base((self.kernel, grid), lambda: with_channels(grid, factors))
        space = KroneckerBase(factors)
        variance = reduce(torch.kron, [K.diagonal() for K in factors])
        indices = site.choose(lambda: self.draw_points(site, grid, self.positions, space, variance))
        return self.mix_atoms(base, indices)

    def work(self, site: Site) -> int:
        """The work of K, of its decompositions and of U; see :meth:`Dictionary.work`."""
        grid, indices = site.require_grid(self), site.indices
        assert indices is not None and isinstance(self.kernel, CoordinateKernel)
        sizes = grid.shape if self.kernel.separable else (grid.n_points,)
        made = sum(n**2 for n in sizes) * self.kernel.n_evaluations * NUMBER
        made += stacking(grid.n_visible * sum(sizes), grid.n_visible, indices)
        if self.selection == "leading":
            return made + CUBE * sum(n**3 for n in sizes)
        if int(indices.max()) >= grid.n_visible:  # else blocks would be counted up to that index
            raise ValueError(
                f"indices run to {int(indices.max())}, but the base has {grid.n_visible} atoms"
            )
        return made + (0 if self.mixing == "raw" else self._mixing_work(grid, indices))

    def _mixing_work(self, grid: Grid, indices: Tensor) -> int:
        """One matrix to decompose for each column, or for each channel of each."""
        columns, size = indices.shape
        n_matrices, n_seen = columns, grid.n_visible
        if apart := _size_apart(indices // grid.n_points, grid.channels):
            n_matrices, size, n_seen = columns * grid.channels, apart, grid.n_points
        longer = n_seen + size if self.mixing == "orthonormal" else size  # of its two sides
        return n_matrices * (4 * size * longer * NUMBER + CUBE * size**2 * longer)

    def _factors(self, grid: Grid) -> list[Tensor]:
        """K_space, as one matrix per axis where the kernel is separable."""
        assert isinstance(self.kernel, CoordinateKernel)
        points = grid.axes() if self.kernel.separable else [grid.coordinates()]
        return [self.kernel(p, p) for p in points]
