"""Grid: coordinates of a layer's inputs, in the one canonical order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from weightcast.serialization import Plain, plain

MOST_AXES = 32
"""Of a grid: two million inputs have no more axes of two points or more than 20."""


@dataclass(frozen=True)
class Grid(Plain):
    """Coordinates of ``n_visible = channels * prod(shape)`` inputs.

    The order is torch's own: channel-major, then row-major over ``shape``, as ``flatten`` leaves a
    ``(channels, height, width)`` image and as a convolution's weight is laid out. Inputs in
    different channels are uncorrelated; inputs in one channel lie at integer coordinates, so
    distances and length scales are in grid cells.

    Args:
        shape: points along each spatial axis, for example ``(28, 28)``; ``(1,)`` for
            channels alone.
        channels: number of channels.

    Raises:
        ValueError: no axis or more than 32, or an extent below 1.
    """

    shape: tuple[int, ...]
    channels: int = 1

    def __post_init__(self) -> None:
        if not self.shape or min((*self.shape, self.channels)) < 1:
            raise ValueError(
                f"grid {self.shape} with {self.channels} channel(s): a grid has at least one axis, "
                "and every extent counts points and must be at least 1"
            )
        if len(self.shape) > MOST_AXES:
            raise ValueError(
                f"a grid of {len(self.shape)} axes: at most {MOST_AXES}; leave out those of one "
                "point, which change nothing"
            )

    @classmethod
    def of(cls, grid: Grid | Sequence[int] | int) -> Grid:
        """Read a grid from a ``Grid``, a shape such as ``(28, 28)``, or a length."""
        if isinstance(grid, Grid):
            return grid
        extents = plain(grid, int | tuple[int, ...])
        return cls((extents,)) if isinstance(extents, int) else cls(extents)

    @classmethod
    def squarest(cls, n_visible: int) -> Grid:
        """Two axes, as equal as ``n_visible`` allows, for inputs that have no coordinates.

        A transform along each of two short axes costs far less than one along a long one: of 4096
        inputs, 2 * 64 multiply-adds each instead of 4096. A prime number stays a line.
        """
        short = next(n for n in range(math.isqrt(n_visible), 0, -1) if n_visible % n == 0)
        return cls((short, n_visible // short)) if short > 1 else cls((n_visible,))

    @property
    def n_points(self) -> int:
        """Number of spatial points, ``prod(shape)``."""
        return math.prod(self.shape)

    @property
    def n_visible(self) -> int:
        """Number of inputs, ``channels * n_points``."""
        return self.channels * self.n_points

    def axes(self) -> list[Tensor]:
        """Coordinates along each spatial axis: one (extent, 1) float64 tensor per axis."""
        return [torch.arange(extent, dtype=torch.float64).unsqueeze(1) for extent in self.shape]

    def coordinates(self) -> Tensor:
        """Coordinates of the spatial points, (n_points, len(shape)) float64, in cells."""
        axes = (axis.squeeze(1) for axis in self.axes())
        return torch.cartesian_prod(*axes).reshape(self.n_points, len(self.shape))

    def check(self, n_visible: int) -> Grid:
        """Return this grid if it has ``n_visible`` inputs; a ValueError otherwise."""
        if self.n_visible != n_visible:
            raise ValueError(
                f"the grid {self.shape} with {self.channels} channel(s) has {self.n_visible} "
                f"inputs, the layer has {n_visible}: give a grid whose channels * shape "
                f"multiply to {n_visible}, for example grid=({n_visible},)"
            )
        return self
