"""LocalKernel: each column looks at the inputs through a window of its own.

The columns' centres lie on a lattice over the grid, and column j's atoms are the leading
eigenvectors of the kernel seen through a Gaussian window around its centre c_j, so that it spends
none on parts of an image that its units do not need:

    K_j(p, q) = s_j(p) k(p, q) s_j(q),    s_j(p) = exp(-|p - c_j|^2 / (4 window^2))

Kernel and window are separable, and centres share their coordinates along each axis, so that all
columns together are one Kronecker base: F_axis holds the eigenvectors of all centres of that axis,
scaled by their eigenvalues. No mixing is left.
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
from weightcast.dictionaries.kronecker import count_multiply_adds, with_channels
from weightcast.dictionaries.spectra import eigenvectors
from weightcast.dictionaries.work import CALL, CUBE, NUMBER
from weightcast.grid import Grid
from weightcast.kernels import CoordinateKernel, SquaredExponential

# Eigenvalues below this share of the largest, over all axes, are rounding; their power is noise.
_FLOOR = 1e-15


@dataclass(frozen=True)
class LocalKernel(Dictionary):
    """U_j = E_j (lambda_j / lambda_j1)^power: leading eigenvectors of K through column j's window.

    Needs a grid. Atoms are orthogonal within a column. Centres depend on the number of columns and
    the grid alone, nothing is drawn at random.

    Args:
        kernel: separable; the squared exponential is.
        window: standard deviation of the squared window, in cells, positive.
        power: 0 for orthonormal atoms; a little more makes the smoother ones longer, so that
            gradient descent prefers them.
        margin: cells along every edge in which no centre lies, at least 0.

    Raises:
        ValueError: a kernel that is not separable, a window that is not positive, a negative power
            or margin.
    """

    kernel: CoordinateKernel = field(default_factory=lambda: SquaredExponential(3.0))
    window: float = 1.5
    power: float = 0.25
    margin: float = 0.0
    rebuildable: ClassVar[bool] = True
    chooses: ClassVar[bool] = False  # a column's atoms are those of its own window

    def __post_init__(self) -> None:
        super().__post_init__()
        if not getattr(self.kernel, "separable", False):
            raise ValueError(
                f"LocalKernel needs a separable kernel, got {self.kernel!r}: take "
                "SquaredExponential, or Kernel for any kernel on the whole grid"
            )
        if not (self.window > 0 and math.isfinite(self.window)):
            raise ValueError(f"window is {self.window}: it must be positive and finite, in cells")
        if not (0 <= self.power < math.inf and 0 <= self.margin < math.inf):
            raise ValueError(
                f"power is {self.power} and margin {self.margin}: each must be at least 0"
            )

    def build(self, site: Site) -> Atoms:
        """One window per column on the site's grid; see :meth:`Dictionary.build`."""
        grid = site.require_grid(self)
        check_enough(self, site.n_atoms, grid.n_visible)
        counts = lattice_counts(site.columns, grid.shape)
        cells = lattice_cells(counts, site.columns)  # (columns, axes)
        spectra = [self._spectra(*axis) for axis in zip(grid.shape, counts, strict=True)]
        # (columns, n_atoms, 1 + axes): channel, and rank along each axis
        place = torch.stack([_leading(grid, spectra, c.tolist(), site.n_atoms) for c in cells])
        kept = (place[..., 1:].amax(dim=(0, 1)) + 1).tolist()
        base = site.shared_base(
            (self, grid, site.columns, *kept),
            lambda: with_channels(
                grid,
                [
                    torch.cat([self._scaled(*pair, len(kept))[:, :rank] for pair in axis], dim=1)
                    for axis, rank in zip(spectra, kept, strict=True)
                ],
            ),
        )
        indices = place[..., 0]
        for axis, (rank, count) in enumerate(zip(kept, counts, strict=True)):
            within = cells[:, axis].unsqueeze(1) * rank + place[..., axis + 1]
            indices = indices * (rank * count) + within
        return Atoms(base, site.choose(lambda: indices))

    def work(self, site: Site) -> int:
        """The work of the windows' eigenvectors, the columns' choices and U; see the base class."""
        grid, indices = site.require_grid(self), site.indices
        assert indices is not None
        columns, n_atoms = indices.shape
        counts = lattice_counts(columns, grid.shape)
        axes = list(zip(grid.shape, counts, strict=True))
        windows = sum(count * (2 * n**2 * NUMBER + CUBE * n**3 + CALL) for n, count in axes)
        choosing = columns * ((grid.n_visible + n_atoms * len(axes)) * NUMBER + CALL)
        numbers = 4 * grid.n_visible * math.prod(counts) * NUMBER
        sizes = [(grid.channels, grid.channels), *((n, n * count) for n, count in axes)]
        dear = count_multiply_adds(sizes, [True, *(False for _ in axes)])
        return windows + choosing + numbers + stacking(dear, grid.n_visible, indices)

    def _spectra(self, extent: int, count: int) -> list[tuple[Tensor, Tensor]]:
        """Eigenvalues and eigenvectors of the kernel seen through each window along one axis."""
        points = torch.arange(extent, dtype=torch.float64)
        width = max(extent - 2 * self.margin, 1.0)
        centres = (extent - width - 1) / 2 + width * (torch.arange(count) + 0.5) / count
        K = self.kernel(points.unsqueeze(1), points.unsqueeze(1))
        s = torch.exp(-(points - centres.unsqueeze(1)).square() / (4 * self.window**2))
        return [eigenvectors(K * torch.outer(window, window)) for window in s]

    def _scaled(self, values: Tensor, vectors: Tensor, n_axes: int) -> Tensor:
        """One axis's share of E_j (lambda_j / lambda_j1)^power, (extent, extent)."""
        relative = (values / values[0]).clamp_min(_FLOOR ** (1 / n_axes))
        return vectors * relative**self.power


def _leading(
    grid: Grid, spectra: list[list[tuple[Tensor, Tensor]]], cell: list[int], n_atoms: int
) -> Tensor:
    """Where the leading products of one column lie: (n_atoms, 1 + axes), channel and ranks."""
    values = [axis[c][0] for axis, c in zip(spectra, cell, strict=True)]
    spectrum = reduce(torch.kron, (torch.ones(grid.channels, dtype=torch.float64), *values))
    order = spectrum.argsort(descending=True, stable=True)[:n_atoms]
    return torch.stack(torch.unravel_index(order, (grid.channels, *grid.shape)), dim=1)


def lattice_counts(columns: int, shape: tuple[int, ...]) -> list[int]:
    """Centres along each axis, about equally far apart on all of them, at least ``columns``."""
    counts = [1] * len(shape)
    while math.prod(counts) < columns:
        spacings = [extent / count for extent, count in zip(shape, counts, strict=True)]
        counts[spacings.index(max(spacings))] += 1
    return counts


def lattice_cells(counts: list[int], columns: int) -> Tensor:
    """The cells of the lattice nearest to its middle, row-major: (columns, axes) int64."""
    cells = torch.cartesian_prod(*(torch.arange(count) for count in counts))
    cells = cells.reshape(-1, len(counts))
    middle = (torch.tensor(counts, dtype=torch.float64) - 1) / 2
    distance = ((cells - middle) / torch.tensor(counts)).square().sum(dim=1)
    return cells[distance.argsort(stable=True)[:columns].sort().values]
