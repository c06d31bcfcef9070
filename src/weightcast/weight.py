"""PredictedWeight: W = U V from static atoms U and a learned V, and x W along two paths."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from weightcast.dictionaries import Atoms
from weightcast.least_squares import Metric, fit_columns

ExecutionPath = Literal["auto", "factored", "materialised"]
"""``factored``: x B, select, mix, V. ``materialised``: W = U V, then the dense operation."""


class PredictedWeight(nn.Module):
    """W = U V: every column's atoms are fixed, only V is learned.

    The units are split into ``atoms.columns`` contiguous groups as evenly as possible (the first
    ``n_units % columns`` groups have one unit more); group j is predicted from U_j.

    Args:
        atoms: the dictionary of every column.
        n_units: number of units.
        path: how to compute x W; ``auto`` takes the faster path, by :class:`Cost`.
        V: (n_atoms, n_units), to hold as it is; None makes zeros, in float64.

    Raises:
        ValueError: more columns than units, or an unknown path.

    References: Denil et al. 2013, sections 2 and 4.
    """

    V: nn.Parameter
    product: Callable[[PredictedWeight, Tensor, Tensor | None], Tensor] | None = None
    """A kernel for all of :meth:`forward`: layer, rows and bias to x W + b; not saved."""

    def __init__(
        self, atoms: Atoms, n_units: int, *, path: ExecutionPath = "auto", V: Tensor | None = None
    ) -> None:
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
        self.path: ExecutionPath = path
        if V is None:
            V = torch.zeros(atoms.n_atoms, n_units, dtype=torch.float64)
        self.V = nn.Parameter(V)
        self._runs = _runs(n_units, atoms.columns)
        self._counted: dict[str, Cost] | None = None

    @property
    def n_visible(self) -> int:
        """Number of inputs."""
        return self.atoms.n_visible

    @property
    def unit_columns(self) -> Tensor:
        """(n_units,) int64: the column that each unit belongs to."""
        sizes = [units.stop - units.start for units in self.unit_slices()]
        return torch.repeat_interleave(torch.arange(self.atoms.columns), torch.tensor(sizes))

    @property
    def weight(self) -> Tensor:
        """W in torch's layout, computed anew at each access."""
        return self.multiply_out()

    def multiply_out(self) -> Tensor:
        """W^T = (U V)^T, (n_units, n_visible): torch's layout."""
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
        energy = self.atoms.energy()
        if energy.is_meta:  # atoms of a tied layer: V will be where they are, without values
            return
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
    def fit(self, W: Tensor, metric: Metric | None = None) -> float:
        """Set V to the least-squares solution of U V = W.

        Args:
            W: (n_units, n_visible), torch's layout; dtype and device may differ from the layer's.
            metric: of the layer's inputs, in which the error of the output is the least; None
                minimises the error of the weights.

        Returns:
            The share of W's sum of squares that is left unexplained,
            ``|W - U V|^2 / |W|^2``, in this metric.

        Raises:
            ValueError: W of another shape, or with NaN or infinite entries.
        """
        return self.fit_filters(self.check_weight(W), metric)

    @torch.no_grad()
    def fit_filters(self, filters: Tensor, metric: Metric | None = None) -> float:
        """As :meth:`fit`, but to filters: (n_units, n_visible) float64 on the CPU."""
        V, residual = fit_columns(self.atoms, self.unit_slices(), filters, metric)
        self.V.copy_(V)
        return residual

    def check_weight(self, W: Tensor) -> Tensor:
        """A dense layer's weight, checked, as (n_units, n_visible) float64 on the CPU."""
        W = W.reshape(W.shape[0], -1)
        if tuple(W.shape) != (self.n_units, self.n_visible):
            raise ValueError(
                f"W is {tuple(W.shape)}, expected (n_units, n_visible) = "
                f"({self.n_units}, {self.n_visible})"
            )
        if not bool(W.isfinite().all()):
            raise ValueError(f"W holds {int((~W.isfinite()).sum())} NaN or infinite entries")
        return W.detach().to("cpu", torch.float64)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """x W + b: (..., n_visible) to (..., n_units), with a bias of (n_units,)."""
        if x.shape[-1] != self.n_visible:
            raise ValueError(
                f"the input is {tuple(x.shape)}: its last axis must have the layer's "
                f"{self.n_visible} inputs"
            )
        rows = x if x.dim() == 2 else x.reshape(-1, self.n_visible)
        if self.product is not None:
            y = self.product(self, rows, bias)
        elif self.choose_path(rows.shape[0]) == "materialised":
            return nn.functional.linear(x, self._weight_rows(self._mixed()), bias)
        else:
            y = self._predict(self.atoms.project(rows), bias)
        if x.dim() == 2 and 1 < self.atoms.columns < self.n_units and surely(x.shape[0] > 1):
            return y
        # No view, as from nn.functional.linear: fully_shard hooks into the output's gradient, which
        # in-place operations on a view (an activation's, say) would cut off.
        return torch.ops.aten._unsafe_view(y, (*x.shape[:-1], self.n_units))

    def added_into(self, y: Tensor, x: Tensor) -> Tensor | None:
        """y + x U V in y's own memory; None where that cannot be, or would cost more.

        For the backward pass x U is kept, n_atoms numbers per row and column; neither x nor x B.
        """
        state: Any = torch._C  # compilers, tracers and transforms have no use for memory
        traced = torch.compiler.is_compiling() or state._get_tracing_state() is not None
        if traced or state._are_functorch_transforms_active():
            return None
        if not y.is_contiguous() or x.shape[-1] != self.n_visible:
            return None
        rows = x.reshape(-1, self.n_visible)
        if self.choose_path(len(rows)) == "materialised":
            return None
        z = self.atoms.project(rows)
        if z.dtype != y.dtype:
            return None
        added = _Added.apply(y, z, self.coefficients().to(z.dtype), self._runs)
        torch.autograd.graph.increment_version(y)  # an error for whoever kept it
        return added

    def multiply_adds(self, batch: int, path: ExecutionPath = "auto") -> int:
        """Multiply-adds of a forward pass over ``batch`` rows, along one path or the better."""
        return self._costs[self.choose_path(batch) if path == "auto" else path].of(batch)

    def extra_repr(self) -> str:
        """Counts, for printed models."""
        return f"n_visible={self.n_visible}, n_units={self.n_units}, path={self.path!r}"

    @property
    def _costs(self) -> dict[str, Cost]:
        """What each path costs. Counted on first use."""
        if torch.compiler.is_compiling():  # whose graph would depend on whether it was counted
            return self._count_costs()
        if self._counted is None:
            self._counted = self._count_costs()
        return self._counted

    def _count_costs(self) -> dict[str, Cost]:
        n_atoms, base = self.atoms.n_atoms, self.atoms.base
        fold, mix = self._mixing_costs()
        gathered = 0 if self.atoms.gathers_nothing else self.atoms.columns * n_atoms
        build = min(self.n_visible * n_atoms, base.synthesis_multiply_adds) * self.n_units
        return {
            "factored": Cost(
                fold, self.atoms.multiply_adds + n_atoms * self.n_units, mix, gathered=gathered
            ),
            "materialised": Cost(fold + build, self.n_visible * self.n_units),
        }

    def _mixing_costs(self) -> tuple[int, int]:
        """Multiply-adds of M_j V_j once, and of M_j^T values_j for each row instead."""
        M = self.atoms.pending_mixing
        if M is None:
            return 0, 0
        return M.numel() // self.atoms.columns * self.n_units, M.numel()

    @property
    def never_factored(self) -> bool:
        """Whether ``materialised`` takes less time at any number of rows."""
        factored, materialised = self._costs.values()
        return factored.time_per_row > materialised.time(1)

    def choose_path(self, batch: int) -> ExecutionPath:
        """The path for ``batch`` rows, of a convolution examples times output positions.

        In a graph that is traced for any number of rows ``factored``, unless the other one takes
        less time at every number that the graph is for.
        """
        if self.path != "auto":
            return self.path
        factored, materialised = self._costs.values()
        dearer = factored.time(batch) > materialised.time(batch)
        return "materialised" if surely(dearer) else "factored"

    def unit_slices(self) -> Iterator[slice]:
        """The units of every column."""
        for run in self._runs:
            for start in range(run.units.start, run.units.stop, run.size):
                yield slice(start, start + run.size)

    def coefficients(self) -> Tensor:
        """M_j V_j, of V's shape: coefficients of the atoms before mixing; V if U is stacked."""
        return torch.cat([A.transpose(0, 1).flatten(1) for A in self._mixed()], dim=1)

    def _mixed(self) -> list[Tensor]:
        """M_j V_j (V_j if U is stacked) per run, (columns of the run, n_atoms, units of each)."""
        parts = self._unmixed()
        return [self.atoms.mix(V, run.columns) for run, V in zip(self._runs, parts, strict=True)]

    def _unmixed(self) -> list[Tensor]:
        """V_j for every run of columns, (columns of the run, n_atoms, units of each)."""
        n_atoms = self.V.shape[0]
        return [
            run.of_units(self.V).view(n_atoms, -1, run.size).transpose(0, 1) for run in self._runs
        ]

    def _predict(self, rows: Tensor, bias: Tensor | None) -> Tensor:
        """rows_j M_j V_j + b: (columns, batch, n_atoms) to (batch, n_units)."""
        if self._costs["factored"].folds(rows.shape[1]):
            parts = self._mixed()
        else:  # few rows: M is applied to them rather than to V
            rows = self.atoms.mix(rows, of_rows=True)
            parts = self._unmixed()
        outputs = []
        for run, A in zip(self._runs, parts, strict=True):
            own = run.of_columns(rows)
            if bias is None:
                y = torch.bmm(own, A)
            else:
                y = torch.baddbmm(run.of_units(bias).view(-1, 1, run.size), own, A)
            outputs.append(y.transpose(0, 1).reshape(y.shape[1], len(y) * run.size))
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)

    def _weight_rows(self, mixed: list[Tensor]) -> Tensor:
        """W^T (n_units, n_visible) from M_j V_j."""
        base, stacked, parts = self.atoms.base, self.atoms.stacked, []
        by_atom = self.n_visible * self.atoms.n_atoms
        for run, A in zip(self._runs, mixed, strict=True):
            indices = run.of_columns(self.atoms.indices)
            if stacked is not None:
                parts.append(torch.bmm(A.mT, run.of_columns(stacked)).flatten(0, 1))
            elif base.synthesis_multiply_adds < by_atom:
                places = indices.unsqueeze(1).expand(-1, run.size, -1)
                zeros = A.new_zeros(len(indices), run.size, base.n_base)
                parts.append(base.synthesise(zeros.scatter_add(2, places, A.mT).flatten(0, 1)))
            else:
                parts.append(torch.bmm(A.mT, base.rows(indices)).flatten(0, 1))
        return parts[0] if len(parts) == 1 else torch.cat(parts)


class _Added(torch.autograd.Function):
    """y + z C, column by column, in y's memory: (n, n_units), (columns, n, n_atoms), V's shape.

    The sum is a tensor of its own to autograd: of a view, as linear layers return, a change in
    place would have each gradient copied.
    """

    @staticmethod
    def forward(ctx: Any, y: Tensor, z: Tensor, C: Tensor, runs: tuple[_Run, ...]) -> Tensor:
        ctx.save_for_backward(z, C)
        ctx.runs, added = runs, y.data
        for run in runs:  # -(z (-C)): where C is zero, -0.0 is added, which leaves -0.0 as it is
            run.blocks(added).baddbmm_(run.of_columns(z), -run.blocks(C), alpha=-1)
        return added

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        z, C = ctx.saved_tensors
        g_rows, dz, dC = g.reshape(-1, C.shape[1]), torch.empty_like(z), torch.empty_like(C)
        for run in ctx.runs:
            part = run.blocks(g_rows)
            torch.bmm(part, run.blocks(C).mT, out=run.of_columns(dz))
            run.blocks(dC).copy_(run.of_columns(z).mT @ part)
        return g, dz, dC, None


def known(size: int) -> bool:
    """Whether a size is a number, and no symbol that stands for any in a traced graph."""
    if torch.compiler.is_compiling():
        from torch.fx.experimental.symbolic_shapes import has_static_value  # brings sympy

        return has_static_value(size)
    return isinstance(size, int)


def surely(comparison: bool) -> bool:
    """Whether a comparison of sizes holds, in a traced graph for all sizes that it is for.

    A tracer makes a condition on its symbols a limit of the graph; this one sets none.
    """
    if torch.compiler.is_compiling():
        from torch.fx.experimental.symbolic_shapes import statically_known_true

        return statically_known_true(comparison)
    return comparison is True  # a number's, and no symbol of make_fx or tensor of torch.jit.trace


PLANE = 300
"""Multiply-adds of a product that take as long as one value written by a depthwise convolution.

The number of taps does not matter: gathering the channel, writing the value and reading it again
take the time. 250 to 410 fit the measured times of both paths for 3 x 3 and 5 x 5 filters, 16 to
4,600 atoms and two cores of a CPU (docs/performance.md).
"""


GATHERED = 40
"""Multiply-adds of a product that take as long as one value gathered from the projected rows.

33 to 440 were measured on two busy cores, for 10 to 1,536 columns of inputs: sparse atoms, which
gather n_atoms values for every unit, are five to eighty times faster ``materialised``.
"""


@dataclass(frozen=True)
class Cost:
    """Multiply-adds of a forward pass.

    Args:
        once: whatever the number of rows; all of mixing, at most.
        per_row: for each row.
        mix_per_row: of mixing row by row, which for few rows is cheaper than ``once``.
        planes: values that depthwise convolutions write for each row, beside ``per_row``.
        gathered: values that are gathered for each row, beside ``per_row``.
    """

    once: int
    per_row: int
    mix_per_row: int | None = None
    planes: int = 0
    gathered: int = 0

    def folds(self, batch: int) -> bool:
        """Whether mixing once costs no more than mixing each of ``batch`` rows, or may not."""
        return self.mix_per_row is None or not surely(batch * self.mix_per_row < self.once)

    def of(self, batch: int) -> int:
        """Multiply-adds for ``batch`` rows."""
        once = self.once if self.folds(batch) else batch * (self.mix_per_row or 0)
        return once + batch * self.per_row

    def time(self, batch: int) -> int:
        """The time for ``batch`` rows, in multiply-adds of a large product that take as long."""
        return self.of(batch) + batch * (self.time_per_row - self.per_row)

    @property
    def time_per_row(self) -> int:
        """The time of each row, without what is done once or of mixing."""
        return self.per_row + PLANE * self.planes + GATHERED * self.gathered


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

    def blocks(self, tensor: Tensor) -> Tensor:
        """A view of this run's part of (..., n_units), (columns of the run, n, units of each)."""
        part = self.of_units(tensor.view(-1, tensor.shape[-1]))
        return part.unflatten(1, (-1, self.size)).transpose(0, 1)

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
    return (torch.rand(n_units, dtype=torch.float64, generator=generator) * 2 - 1) * n_visible**-0.5
