"""KroneckerBase: a base that is separable over the axes of a grid, kept as one factor per axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor, nn
from typing_extensions import override

from weightcast.dictionaries.operators import Base
from weightcast.grid import Grid

SMALL = 32
"""Points of a filter, such as 3 x 3 or 5 x 5, up to which its axes are multiplied out at once."""


class KroneckerBase(Base):
    """B = F_1 (x) F_2 (x) ...: separable over the axes of a grid, never multiplied out.

    ``x B`` costs one small product per axis. On a 28 x 28 grid that is 784 * 56 multiply-adds
    per example in place of 784 * 784.

    Args:
        factors: one (n_i, m_i) matrix per axis, slowest axis first, or an integer n_i for the
            identity of that size (independent channels).
    """

    def __init__(self, factors: Sequence[Tensor | int]) -> None:
        super().__init__()
        self._identity = [isinstance(factor, int) for factor in factors]
        sizes = [(f, f) if isinstance(f, int) else (f.shape[0], f.shape[1]) for f in factors]
        self.sizes_in, self.sizes_out = ([size[side] for size in sizes] for side in (0, 1))
        self.n_visible, self.n_base = math.prod(self.sizes_in), math.prod(self.sizes_out)
        for axis, factor in enumerate(factors):
            if not isinstance(factor, int):
                # Held transposed: rows are atoms, and the products below need no copy.
                self.register_constant(f"factor_{axis}", _without_dust(factor).t().contiguous())
        self.multiply_adds = count_multiply_adds(sizes, self._identity)
        self._blocks = self._small_blocks()
        self.synthesis_multiply_adds = sum(
            math.prod(self.sizes_in[block.start :]) * math.prod(self.sizes_out[: block.stop])
            for block in self._blocks
            if not self._identity[block.start]
        )

    def _small_blocks(self) -> list[slice]:
        """Axes whose product is so small that one multiplication by it beats one for each axis."""
        blocks: list[slice] = []
        for axis, identity in enumerate(self._identity):
            start = blocks[-1].start if blocks and not self._identity[axis - 1] else axis
            joined = slice(start, axis + 1)
            size = max(math.prod(self.sizes_in[joined]), math.prod(self.sizes_out[joined]))
            if start < axis and not identity and size <= SMALL:
                blocks[-1] = joined
            else:
                blocks.append(slice(axis, axis + 1))
        return blocks

    def factor(self, axis: int) -> Tensor | None:
        """F_axis^T (m_i, n_i), or None for the identity."""
        return None if self._identity[axis] else getattr(self, f"factor_{axis}")

    @property
    @override
    def n_static(self) -> int:
        return sum(getattr(self, name).numel() for name in self._constants)

    @override
    def rows(self, indices: Tensor) -> Tensor:
        rows = self._rows(_unravel(indices.flatten(), self.sizes_out))
        return rows.view(*indices.shape, self.n_visible)

    @property
    @override
    def n_blocks(self) -> int:
        return self.sizes_in[0] if self._identity[0] and len(self.sizes_in) > 1 else 1

    @override
    def by_channel(self, indices: Tensor) -> tuple[Tensor, Tensor] | None:
        if self.n_blocks == 1:
            return None
        channel, *places = _unravel(indices, self.sizes_out)
        return channel, self._rows(places, first_axis=1)

    def _rows(self, places: list[Tensor], first_axis: int = 0) -> Tensor:
        """Products of the factors' atoms at one place per axis, from some axis on."""
        rows = torch.ones(len(places[0]), 1, dtype=self._dtype, device=places[0].device)
        for axis, index in enumerate(places, start=first_axis):
            factor = self.factor(axis)
            if factor is None:
                atom = nn.functional.one_hot(index.long(), self.sizes_in[axis]).to(self._dtype)
            else:
                atom = nn.functional.embedding(index, factor)  # (n, n_i)
            rows = (rows.unsqueeze(2) * atom.unsqueeze(1)).flatten(1)
        return rows

    @override
    def transform(self, x: Tensor) -> Tensor:
        values = x.reshape(-1, self.sizes_in[-1])
        for axis in reversed(range(len(self.sizes_in))):
            # (..., n_i) -> (m_i, ...): each product also rotates the next axis into last place,
            # so that after all of them the batch axis is last.
            values = values.reshape(-1, self.sizes_in[axis]).t()
            factor = self.factor(axis)
            if factor is not None:
                values = factor @ values
        return values.reshape(self.n_base, x.shape[0])

    @override
    def synthesise(self, coefficients: Tensor) -> Tensor:
        # Block by block, last one first: (n * m_1 ... m_i, n_(i+1) ...) times F_i^T on block i.
        n, after = coefficients.shape[0], 1
        for block in reversed(self._blocks):
            factors = [self.factor(axis) for axis in range(block.start, block.stop)]
            if factors[0] is not None:
                factor = reduce(torch.kron, [factor for factor in factors if factor is not None])
                values = coefficients.reshape(-1, len(factor), after)
                coefficients = factor.t() @ values if after > 1 else values.squeeze(2) @ factor
            after *= math.prod(self.sizes_in[block])
        return coefficients.reshape(n, self.n_visible)

    @override
    def entries(self, points: Tensor, indices: Tensor) -> Tensor:
        points, indices = torch.broadcast_tensors(points, indices)
        value = torch.ones(points.shape, dtype=self._dtype, device=points.device)
        axes = zip(_unravel(points, self.sizes_in), _unravel(indices, self.sizes_out), strict=True)
        for axis, (i, j) in enumerate(axes):
            factor = self.factor(axis)
            value = value * ((i == j).to(value.dtype) if factor is None else factor[j, i])
        return value

    @override
    def gram(self, indices: Tensor) -> Tensor:
        product = torch.ones(len(indices), len(indices), dtype=self._dtype, device=indices.device)
        for axis, i in enumerate(_unravel(indices, self.sizes_out)):
            factor = self.factor(axis)
            if factor is None:
                product = product * (i.unsqueeze(1) == i)
            elif len(i) < len(factor):
                atoms = factor[i]
                product = product * (atoms @ atoms.t())
            else:
                product = product * (factor @ factor.t())[i.unsqueeze(1), i]
        return product

    @property
    def _dtype(self) -> torch.dtype:
        return getattr(self, next(iter(self._constants))).dtype


def with_channels(grid: Grid, space: Sequence[Tensor]) -> Base:
    """I_channels (x) F_1 (x) F_2 ...: the same atoms in every channel, each in one."""
    return KroneckerBase([grid.channels, *space] if grid.channels > 1 else space)


def count_multiply_adds(sizes: Sequence[tuple[int, int]], identity: Sequence[bool]) -> int:
    """Multiply-adds of x B a row, axis by axis, of factors (n_i, m_i); identities cost none."""
    n, m = zip(*sizes, strict=True)
    return sum(
        math.prod(n[: axis + 1]) * math.prod(m[axis:])
        for axis, free in enumerate(identity)
        if not free
    )


def _without_dust(factor: Tensor) -> Tensor:
    """Zero for entries that are rounding beside the largest one, such as a kernel's far tails.

    In single precision they and their products are subnormal numbers, with which processors
    compute many times more slowly.
    """
    return torch.where(factor.abs() < 1e-15 * factor.abs().max(), 0.0, factor)


def _unravel(indices: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """Flat row-major positions to one position per axis."""
    positions = []
    for size in reversed(sizes):
        positions.append(indices % size)
        indices = indices // size
    return positions[::-1]
