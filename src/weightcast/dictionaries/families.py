"""Families: which dictionaries suit a layer's inputs, for plans that nobody has written."""

from __future__ import annotations

from dataclasses import dataclass

from weightcast.dictionaries.analytic import DCT
from weightcast.dictionaries.base import Dictionary
from weightcast.dictionaries.covariance import ChannelCovariance, Covariance
from weightcast.dictionaries.kernel import Kernel
from weightcast.dictionaries.local import LocalKernel
from weightcast.dictionaries.singular import SingularVectors
from weightcast.dictionaries.sparse import SparseAtoms
from weightcast.grid import Grid
from weightcast.kernels import SquaredExponential

FEW_CHANNELS = 4
"""A convolution of at most as many channels reads an image: too few for their covariance."""

WINDOWED = 32 * 32
"""Points of the largest images on which ten windows were measured (docs/choosing.md)."""


@dataclass(frozen=True)
class Family:
    """The dictionaries for one layer, by what is known of its inputs.

    ``data`` says whether there are statistics of them, ``pixels`` whether the grid is a whole
    image's and not a filter's; None guesses from its size. ``drawn``: a weight on pixels that is
    learned anew, where one that is trained sees more of an image than one window.
    """

    grid: Grid | None
    data: bool
    pixels: bool | None = None
    drawn: bool = False

    @property
    def in_space(self) -> bool:
        """Whether inputs lie at more than one place."""
        return self.grid is not None and self.grid.n_points > 1

    @property
    def is_image(self) -> bool:
        """Whether the grid is an image's: its pixels are smooth over more cells than filters'."""
        large = self.grid is not None and min(self.grid.shape) > 11
        return large if self.pixels is None else self.pixels

    @property
    def kernel(self) -> SquaredExponential:
        """As wide as inputs are smooth."""
        return SquaredExponential(2.0 if self.is_image else 1.0)

    @property
    def own(self) -> Dictionary:
        """The one that suits best where only V is counted."""
        if self.drawn and self.grid is not None and self.grid.n_points <= WINDOWED:
            return LocalKernel()
        if self.is_image or (self.in_space and (self._has_channels or not self.data)):
            return self._on_grid
        # Few channels, such as colours, vary together, which directions know and a kernel does not.
        return Covariance(selection="leading", mixing="orthonormal") if self.data else DCT()

    @property
    def stored(self) -> list[Dictionary]:
        """Those of which any may be best where all that a file holds is counted."""
        found: list[Dictionary] = [SingularVectors(), SparseAtoms()]
        if self.in_space:
            kernel = Kernel(self.kernel, selection="leading", mixing="orthonormal")
            found += [self._on_grid, DCT(), kernel]
        return found if self.in_space or self.data else [*found, DCT()]

    @property
    def probed(self) -> dict[str, Dictionary]:
        """Those that are compared by name, the paper's."""
        found: dict[str, Dictionary] = {"Kernel": Kernel(self.kernel)} if self.in_space else {}
        found["DCT"] = DCT(selection="leading")
        return {**found, "Covariance": Covariance()} if self.data else found

    @property
    def _on_grid(self) -> Dictionary:
        by_channel = self.data and self._has_channels and not self.pixels
        return ChannelCovariance(self.kernel) if by_channel else Kernel(self.kernel)

    @property
    def _has_channels(self) -> bool:
        return self.grid is not None and self.grid.channels > FEW_CHANNELS
