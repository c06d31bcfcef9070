"""Base operators: the matrix B (n_visible, n_base), kept in whatever form makes x B cheap.

Every column of a layer selects its atoms among the columns of one shared B (method: U_j =
B[:, indices_j] M_j). A base answers two questions: what are these atoms (``rows``), and what does
x B look like at these atoms (``project``). Values are feature-major, ``(n_base, batch)``: a
selection of atoms is then a copy of contiguous rows, and no product needs a transposed copy.

Bases are modules holding buffers: they move with the layer, take no optimiser state, and one base
may serve many layers.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from typing_extensions import override


class Base(nn.Module, ABC):
    """B (n_visible, n_base), static."""

    n_visible: int
    n_base: int
    multiply_adds: int
    """Multiply-adds of ``transform`` per example."""

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

    @abstractmethod
    def entries(self, points: Tensor, indices: Tensor) -> Tensor:
        """B[points, indices], elementwise over broadcast index tensors.

        Args:
            points: (...) int64 positions in [0, n_visible).
            indices: (...) int64 positions in [0, n_base).

        Returns:
            (...).
        """

    def project(self, x: Tensor, indices: Tensor) -> Tensor:
        """(x B)^T at the chosen atoms: whole transform then selection, or the atoms directly.

        Args:
            x: (batch, n_visible).
            indices: (columns, n_atoms) int64.

        Returns:
            (columns, n_atoms, batch).
        """
        if self.direct_multiply_adds(indices) < self.multiply_adds:
            chosen = self.rows(indices.flatten())  # (columns * n_atoms, n_visible)
            return (chosen @ x.t()).unflatten(0, tuple(indices.shape))
        # An embedding look-up is the gather whose backward is fast on CPU and GPU alike.
        return nn.functional.embedding(indices, self.transform(x))

    def direct_multiply_adds(self, indices: Tensor) -> int:
        """Multiply-adds per example of multiplying x by the chosen atoms one by one."""
        return indices.numel() * self.n_visible

    def extra_repr(self) -> str:
        """Shape of B, for printed models."""
        return f"n_visible={self.n_visible}, n_base={self.n_base}"


class DenseBase(Base):
    """Any B, held as its transpose: one contiguous row per atom, as ``nn.Linear`` holds weights.

    Args:
        atoms: (n_base, n_visible), the columns of B as rows.
        learned: make the atoms a parameter (low-rank factorisation) instead of a buffer.
    """

    atoms: Tensor

    def __init__(self, atoms: Tensor, *, learned: bool = False) -> None:
        super().__init__()
        self.n_base, self.n_visible = atoms.shape
        self.multiply_adds = atoms.numel()
        if learned:
            self.atoms = nn.Parameter(atoms.contiguous())
        else:
            self.register_buffer("atoms", atoms.contiguous())

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
        self.multiply_adds = 0
        # Holds no number, but tells dtype and device.
        self.register_buffer("_like", torch.zeros(0, dtype=torch.float64), persistent=False)

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
    def entries(self, points: Tensor, indices: Tensor) -> Tensor:
        return (points == indices).to(self._like.dtype)  # pyright: ignore[reportArgumentType, reportCallIssue]


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
                self.register_buffer(f"factor_{axis}", _without_dust(factor).t().contiguous())
        self.multiply_adds = sum(
            math.prod(self.sizes_in[: axis + 1]) * math.prod(self.sizes_out[axis:])
            for axis, identity in enumerate(self._identity)
            if not identity
        )

    def factor(self, axis: int) -> Tensor | None:
        """F_axis^T (m_i, n_i), or None for the identity."""
        return None if self._identity[axis] else self.get_buffer(f"factor_{axis}")

    @property
    @override
    def n_static(self) -> int:
        return sum(buffer.numel() for buffer in self.buffers())

    @override
    def rows(self, indices: Tensor) -> Tensor:
        flat = indices.flatten()
        rows = torch.ones(len(flat), 1, dtype=self._dtype, device=flat.device)
        for axis, index in enumerate(_unravel(flat, self.sizes_out)):
            factor = self.factor(axis)
            if factor is None:
                atom = nn.functional.one_hot(index, self.sizes_in[axis]).to(self._dtype)
            else:
                atom = factor[index]  # (n, n_i)
            rows = (rows.unsqueeze(2) * atom.unsqueeze(1)).flatten(1)
        return rows.unflatten(0, tuple(indices.shape)) if indices.dim() != 1 else rows

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
    def entries(self, points: Tensor, indices: Tensor) -> Tensor:
        points, indices = torch.broadcast_tensors(points, indices)
        value = torch.ones(points.shape, dtype=self._dtype, device=points.device)
        axes = zip(_unravel(points, self.sizes_in), _unravel(indices, self.sizes_out), strict=True)
        for axis, (i, j) in enumerate(axes):
            factor = self.factor(axis)
            value = value * ((i == j).to(value.dtype) if factor is None else factor[j, i])
        return value

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.buffers()).dtype


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
