"""Base operators: the matrix B (n_visible, n_base), kept in whatever form makes x B cheap.

Every column of a layer selects its atoms among the columns of one shared B (method: U_j =
B[:, indices_j] M_j). A base answers three questions: what are these atoms (``rows``), what is x B
(``transform``), and what do these coefficients of the atoms sum to (``synthesise``). Transformed
values are feature-major, ``(n_base, batch)``: a selection of atoms is then a copy of contiguous
rows, and no product needs a transposed copy.

Bases are modules holding constants: they move with the layer, take no optimiser state, are not sent
by data-parallel training, and one base may serve many layers.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor, nn
from typing_extensions import override

from weightcast.dictionaries.constants import Constants


class Base(Constants, ABC):
    """B (n_visible, n_base), static."""

    n_visible: int
    n_base: int
    multiply_adds: int
    """Multiply-adds of ``transform`` per example."""
    synthesis_multiply_adds: int
    """Multiply-adds of ``synthesise`` per row."""

    @property
    @abstractmethod
    def n_static(self) -> int:
        """Numbers that this form of B holds."""

    @abstractmethod
    def rows(self, indices: Tensor) -> Tensor:
        """The atoms B[:, indices], each as a row.

        Args:
            indices: (...) int64 positions in [0, n_base).

        Returns:
            (..., n_visible).
        """

    @abstractmethod
    def transform(self, x: Tensor) -> Tensor:
        """(x B)^T.

        Args:
            x: (batch, n_visible).

        Returns:
            (n_base, batch).
        """

    def project(self, x: Tensor, indices: Tensor, *, in_order: bool) -> Tensor:
        """(x B)[:, indices_j] for every column j.

        Args:
            x: (batch, n_visible).
            indices: (columns, n_atoms) int64 positions in [0, n_base).
            in_order: whether these are 0, 1, 2, ...

        Returns:
            (columns, batch, n_atoms).
        """
        values = self.transform(x)
        if in_order and indices.numel() == self.n_base:
            values = values.view(*indices.shape, -1)
        else:
            # An embedding look-up is the gather whose backward is fast on CPU and GPU alike.
            values = nn.functional.embedding(indices, values)
        return values.transpose(1, 2)

    @abstractmethod
    def synthesise(self, coefficients: Tensor) -> Tensor:
        """c B^T: the sums of all atoms that coefficients stand for.

        Args:
            coefficients: (n, n_base).

        Returns:
            (n, n_visible).
        """

    @abstractmethod
    def entries(self, points: Tensor, indices: Tensor) -> Tensor:
        """B[points, indices], elementwise over broadcast index tensors.

        Args:
            points: (...) int64 positions in [0, n_visible).
            indices: (...) int64 positions in [0, n_base).

        Returns:
            (...).
        """

    def gram(self, indices: Tensor) -> Tensor:
        """B[:, indices]^T B[:, indices].

        Args:
            indices: (n,) int64 positions in [0, n_base).

        Returns:
            (n, n).
        """
        atoms = self.rows(indices)
        return atoms @ atoms.t()

    @property
    def n_blocks(self) -> int:
        """Equal parts of the base, in its order, whose atoms share no input: channels, say."""
        return 1

    def block_of(self, indices: Tensor, n_blocks: int) -> Tensor:
        """Which of ``n_blocks`` equal parts of the base each atom is in."""
        return indices // (self.n_base // n_blocks)

    def by_channel(self, indices: Tensor) -> tuple[Tensor, Tensor] | None:
        """Atoms that look at one channel each: which, and with what; None where atoms see all.

        Args:
            indices: (n,) int64 positions in [0, n_base).

        Returns:
            (n,) int64 channels, and (n, n_visible / channels) atoms within them.
        """
        return None

    @property
    def is_learned(self) -> bool:
        """Whether B is trained, and not static."""
        return any(True for _ in self.parameters())

    def extra_repr(self) -> str:
        """Shape of B, for printed models."""
        return f"n_visible={self.n_visible}, n_base={self.n_base}"


class DenseBase(Base):
    """Any B, held as its transpose: one contiguous row per atom, as ``nn.Linear`` holds weights.

    Args:
        atoms: (n_base, n_visible), the columns of B as rows.
        learned: make the atoms a parameter (low-rank factorisation) instead of a constant.
    """

    atoms: Tensor

    def __init__(self, atoms: Tensor, *, learned: bool = False) -> None:
        super().__init__()
        self.n_base, self.n_visible = atoms.shape
        self.multiply_adds = self.synthesis_multiply_adds = atoms.numel()
        if learned:
            self.atoms = nn.Parameter(atoms.contiguous())
        else:
            self.register_constant("atoms", atoms.contiguous())

    @property
    @override
    def n_static(self) -> int:
        return 0 if isinstance(self.atoms, nn.Parameter) else self.atoms.numel()

    @override
    def rows(self, indices: Tensor) -> Tensor:
        return self.atoms[indices]

    @override
    def transform(self, x: Tensor) -> Tensor:
        return self.atoms @ x.t()

    @override
    def synthesise(self, coefficients: Tensor) -> Tensor:
        return coefficients @ self.atoms

    @override
    def entries(self, points: Tensor, indices: Tensor) -> Tensor:
        return self.atoms[indices, points]


class IdentityBase(Base):
    """B = I: an atom is one input.

    Args:
        n_visible: number of inputs, and of atoms.
    """

    def __init__(self, n_visible: int) -> None:
        super().__init__()
        self.n_visible = self.n_base = n_visible
        self.multiply_adds = self.synthesis_multiply_adds = 0
        # Holds no number, but tells dtype and device.
        self.register_constant("_like", torch.zeros(0, dtype=torch.float64), persistent=False)

    @property
    @override
    def n_static(self) -> int:
        return 0

    @override
    def rows(self, indices: Tensor) -> Tensor:
        one_hot = nn.functional.one_hot(indices, self.n_visible)
        return one_hot.to(self._like.dtype)  # pyright: ignore[reportArgumentType, reportCallIssue]

    @override
    def transform(self, x: Tensor) -> Tensor:
        return x.t()

    @override
    def project(self, x: Tensor, indices: Tensor, *, in_order: bool) -> Tensor:
        # Row-major: the gradient comes back as the activations lie. Two layouts in one elementwise
        # operation take ten times as long, and the activation's derivative is one.
        if in_order:
            n_all = indices.numel()
            chosen = x if n_all == self.n_base else x.narrow(1, 0, n_all)
        elif x.is_cuda:  # where index_select's backward adds in no fixed order
            return super().project(x, indices, in_order=False)
        else:
            chosen = x.index_select(1, indices.flatten())
        return chosen.view(x.shape[0], *indices.shape).transpose(0, 1)

    @override
    def synthesise(self, coefficients: Tensor) -> Tensor:
        return coefficients

    @override
    def gram(self, indices: Tensor) -> Tensor:
        return self.entries(indices.unsqueeze(1), indices)

    @override
    def entries(self, points: Tensor, indices: Tensor) -> Tensor:
        return (points == indices).to(self._like.dtype)  # pyright: ignore[reportArgumentType, reportCallIssue]


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
        sizes = [(f, f) if isinstance(f, int) else tuple(f.shape) for f in factors]
        self.sizes_in = [size[0] for size in sizes]
        self.sizes_out = [size[1] for size in sizes]
        self.n_visible, self.n_base = math.prod(self.sizes_in), math.prod(self.sizes_out)
        for axis, factor in enumerate(factors):
            if not isinstance(factor, int):
                # Held transposed: rows are atoms, and the products below need no copy.
                self.register_constant(f"factor_{axis}", _without_dust(factor).t().contiguous())
        self.multiply_adds = sum(
            math.prod(self.sizes_in[: axis + 1]) * math.prod(self.sizes_out[axis:])
            for axis, identity in enumerate(self._identity)
            if not identity
        )
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
        flat = indices.flatten()
        rows = self._rows(_unravel(flat, self.sizes_out))
        return rows.unflatten(0, tuple(indices.shape)) if indices.dim() != 1 else rows

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
                atom = nn.functional.one_hot(index, self.sizes_in[axis]).to(self._dtype)
            else:
                atom = factor[index]  # (n, n_i)
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
