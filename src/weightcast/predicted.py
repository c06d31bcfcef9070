"""PredictedWeight: static atoms and learned V, for x -> x U V and W = U V."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from weightcast.dictionaries import Atoms

Path = Literal["auto", "factored", "materialised"]
"""``factored``: x B, select, mix, V. ``materialised``: W = U V, then the dense operation."""


class PredictedWeight(nn.Module):
    """W = U V: every column's atoms are fixed, only V is learned.

    The units are split into ``atoms.columns`` contiguous groups as evenly as possible (the first
    ``n_units % columns`` groups have one unit more); group j is predicted from U_j.

    Args:
        atoms: the dictionary of every column.
        n_units: number of units (columns of W).
        path: how to compute x W. ``auto`` takes the path with fewer multiply-adds.

    Raises:
        ValueError: more columns than units, or an unknown path.

    References: Denil et al. 2013, sections 2 and 4.
    """

    V: nn.Parameter

    def __init__(self, atoms: Atoms, n_units: int, *, path: Path = "auto") -> None:
        super().__init__()
        if atoms.columns > n_units:
            raise ValueError(
                f"{atoms.columns} columns for {n_units} units: every column needs a unit of its "
                f"own, so columns must be at most {n_units}"
            )
        if path not in ("auto", "factored", "materialised"):
            raise ValueError(f"path is {path!r}: take 'auto', 'factored' or 'materialised'")
        self.atoms = atoms
        self.n_units = n_units
        self.path: Path = path
        self.V = nn.Parameter(torch.zeros(atoms.n_atoms, n_units, dtype=torch.float64))
        self._runs = _runs(n_units, atoms.columns)
        self._counted: dict[str, tuple[int, int]] | None = None

    @property
    def n_visible(self) -> int:
        """Number of inputs."""
        return self.atoms.n_visible

    @property
    def unit_columns(self) -> Tensor:
        """(n_units,) int64: the column that each unit belongs to."""
        sizes = [units.stop - units.start for units in self._unit_slices()]
        return torch.repeat_interleave(torch.arange(self.atoms.columns), torch.tensor(sizes))

    @property
    def weight(self) -> Tensor:
        """W^T = (U V)^T, (n_units, n_visible): torch's layout, computed anew at each access."""
        return self._weight_rows(self._mixed())

    @torch.no_grad()
    def reset_V(self, variance: float, generator: torch.Generator | None = None) -> None:
        """Draw V so that W = U V has entries of mean 0 and, on average, the given variance.

        Entries of V are uniform, with one width per column: E[W_iu^2] = sum_a U_ia^2 E[V_au^2].

        Args:
            variance: of W's entries, for example 1 / (3 n_visible), that of ``nn.Linear``.
            generator: a CPU generator; None takes seed 0.

        Raises:
            ValueError: a column whose atoms are all zero, which no V can give a variance.
        """
        generator = generator or torch.Generator().manual_seed(0)
        V = torch.rand(self.V.shape, dtype=torch.float64, generator=generator) * 2 - 1
        energy = self.atoms.dictionaries().detach().double().square().sum(dim=(1, 2))
        dead = (energy <= 0).nonzero().flatten().tolist()
        if dead:
            raise ValueError(
                f"{len(dead)} of {self.atoms.columns} columns (the first is column {dead[0]}) have "
                f"only zero atoms, {self.atoms.n_atoms} each: the chosen inputs do not vary. "
                "Take selection='leading' or 'pivoted', fewer columns, or a larger fraction"
            )
        width = (3 * variance * self.n_visible / energy).sqrt()  # (columns,)
        self.V.copy_(V * width.cpu()[self.unit_columns])

    @torch.no_grad()
    def fit(self, W: Tensor) -> float:
        """Set V to the least-squares solution of U V = W.

        Args:
            W: (n_units, n_visible), torch's layout; dtype and device may differ from the layer's.

        Returns:
            The share of W's sum of squares that is left unexplained, |W - U V|^2 / |W|^2.

        Raises:
            ValueError: W of another shape, or with NaN or infinite entries.
        """
        W = W.reshape(W.shape[0], -1)
        if tuple(W.shape) != (self.n_units, self.n_visible):
            raise ValueError(
                f"W is {tuple(W.shape)}, expected (n_units, n_visible) = "
                f"({self.n_units}, {self.n_visible})"
            )
        if not bool(W.isfinite().all()):
            raise ValueError(f"W holds {int((~W.isfinite()).sum())} NaN or infinite entries")
        target = W.detach().to("cpu", torch.float64)
        V = torch.empty(self.V.shape, dtype=torch.float64)
        residual = 0.0
        U = self.atoms.dictionaries().detach().to("cpu", torch.float64)
        for column, units in enumerate(self._unit_slices()):
            # gelsd: atoms may be nearly dependent (smooth kernels at large fractions).
            V[:, units] = torch.linalg.lstsq(U[column], target[units].t(), driver="gelsd").solution
            residual += float((U[column] @ V[:, units] - target[units].t()).square().sum())
        self.V.copy_(V)
        return residual / max(float(target.square().sum()), torch.finfo(torch.float64).tiny)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """X W + b.

        Args:
            x: (..., n_visible).
            bias: (n_units,), added to the result.

        Returns:
            (..., n_units).
        """
        if x.shape[-1] != self.n_visible:
            raise ValueError(
                f"the input is {tuple(x.shape)}: its last axis must have the layer's "
                f"{self.n_visible} inputs"
            )
        rows = x.reshape(-1, self.n_visible)
        if self._choose_path(len(rows)) == "materialised":
            return nn.functional.linear(x, self.weight, bias)
        values = self.atoms.project(rows)  # (columns, n_atoms, batch)
        y = self._predict(values, bias)  # (n_units, batch)
        # Row-major, as nn.Linear's output is: models call view on it, and products are faster.
        return y.t().contiguous().view(*x.shape[:-1], self.n_units)

    def multiply_adds(self, batch: int, path: Path = "auto") -> int:
        """Multiply-adds of a forward pass over ``batch`` rows, along one path or the better."""
        once, per_row = self._costs[self._choose_path(batch) if path == "auto" else path]
        return once + batch * per_row

    def extra_repr(self) -> str:
        """Counts, for printed models."""
        return f"n_visible={self.n_visible}, n_units={self.n_units}, path={self.path!r}"

    @property
    def _costs(self) -> dict[str, tuple[int, int]]:
        """Multiply-adds of each path: once per pass, and per row. Counted on first use."""
        if self._counted is None:
            self._counted = self._count_costs()
        return self._counted

    def _count_costs(self) -> dict[str, tuple[int, int]]:
        n_atoms, base = self.atoms.n_atoms, self.atoms.base
        fold = 0 if self.atoms.mixing is None else n_atoms**2 * self.n_units
        project = min(base.direct_multiply_adds(self.atoms.indices), base.multiply_adds)
        build = self.n_visible * n_atoms * self.n_units
        return {
            "factored": (fold, project + n_atoms * self.n_units),
            "materialised": (fold + build, self.n_visible * self.n_units),
        }

    def _choose_path(self, batch: int) -> Path:
        if self.path != "auto":
            return self.path
        (once, per_row), (dense_once, dense_per_row) = self._costs.values()
        factored = once + batch * per_row <= dense_once + batch * dense_per_row
        return "factored" if factored else "materialised"

    def _unit_slices(self) -> Iterator[slice]:
        """The units of every column."""
        for run in self._runs:
            for start in range(run.units.start, run.units.stop, run.size):
                yield slice(start, start + run.size)

    def _mixed(self) -> list[Tensor]:
        """M_j V_j for every run of columns, (columns of the run, n_atoms, units of each).

        Multiplied out once per call: it is smaller than the batch in all but degenerate cases.
        """
        mixed = []
        for run in self._runs:
            V = run.of_units(self.V).unflatten(1, (-1, run.size)).transpose(0, 1)
            M = self.atoms.mixing
            mixed.append(V if M is None else torch.bmm(run.of_columns(M), V))
        return mixed

    def _predict(self, values: Tensor, bias: Tensor | None) -> Tensor:
        """V_j^T M_j^T values_j + b: (columns, n_atoms, batch) to (n_units, batch)."""
        parts = []
        for run, A in zip(self._runs, self._mixed(), strict=True):
            A = A.transpose(1, 2)  # (columns of the run, units of each, n_atoms)
            if bias is None:
                y = torch.bmm(A, run.of_columns(values))
            else:
                b = run.of_units(bias).view(-1, run.size, 1)
                y = torch.baddbmm(b, A, run.of_columns(values))
            parts.append(y.flatten(0, 1))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _weight_rows(self, mixed: list[Tensor]) -> Tensor:
        """W^T (n_units, n_visible) from M_j V_j."""
        rows = self.atoms.base.rows(self.atoms.indices)  # (columns, n_atoms, n_visible)
        parts = [
            torch.bmm(A.transpose(1, 2), run.of_columns(rows)).flatten(0, 1)
            for run, A in zip(self._runs, mixed, strict=True)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)


@dataclass(frozen=True)
class _Run:
    """Neighbouring columns with equally many units: one batched product serves them all."""

    columns: slice
    units: slice
    size: int
    whole: bool

    def of_columns(self, tensor: Tensor) -> Tensor:
        """This run's part of (columns, ...)."""
        return tensor if self.whole else tensor[self.columns]

    def of_units(self, tensor: Tensor) -> Tensor:
        """This run's part of (..., n_units)."""
        return tensor if self.whole else tensor[..., self.units]


def _runs(n_units: int, columns: int) -> tuple[_Run, ...]:
    """At most two runs: the first ``n_units % columns`` columns have one unit more."""
    size, larger = divmod(n_units, columns)
    if larger == 0:
        return (_Run(slice(0, columns), slice(0, n_units), size, True),)
    border = larger * (size + 1)
    return (
        _Run(slice(0, larger), slice(0, border), size + 1, False),
        _Run(slice(larger, columns), slice(border, n_units), size, False),
    )


def dense_variance(n_visible: int) -> float:
    """The variance of the entries that ``nn.Linear`` and ``nn.ConvNd`` draw: 1 / (3 n_visible)."""
    return 1 / (3 * n_visible)


def draw_bias(n_units: int, n_visible: int, generator: torch.Generator) -> Tensor:
    """The bias that ``nn.Linear`` draws, uniform within 1 / sqrt(n_visible): (n_units,) float64."""
    width = 1 / math.sqrt(n_visible)
    return (torch.rand(n_units, dtype=torch.float64, generator=generator) * 2 - 1) * width
