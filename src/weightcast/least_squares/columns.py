"""V of every column, in closed form."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor

from weightcast.dictionaries import Atoms
from weightcast.least_squares.at_places import solve_at, spread
from weightcast.least_squares.metric import Metric, by_group, gram_of, in_metric, rooted


def fit_columns(
    atoms: Atoms, columns: Iterable[slice], W: Tensor, metric: Metric | None = None
) -> tuple[Tensor, float]:
    """V (n_atoms, n_units) of least |W - U V|_C^2, and what it leaves as a share of |W|_C^2.

    ``columns`` are the units of every column, W is (n_units, n_visible) float64.
    """
    if atoms.columns == len(W) and atoms.mixing is None:
        return _fit_units(atoms, W, metric)
    V = torch.empty(atoms.n_atoms, len(W), dtype=torch.float64)
    left = total = 0.0
    roots = _Roots(atoms, metric)
    for column, units in enumerate(columns):
        for group, part in by_group(metric, units, len(W)):
            A, target = roots.of(column, group), roots.times(group, W[part].t())
            V[:, part] = _solve(A, target)
            left += float((A @ V[:, part] - target).square().sum())
            total += float(target.square().sum())
    return V, left / max(total, torch.finfo(torch.float64).tiny)


class _Roots:
    """S U_j of every column, from S B where the columns together have more atoms than the base."""

    def __init__(self, atoms: Atoms, metric: Metric | None) -> None:
        self.atoms, self.metric = atoms, metric
        self.base = copy.deepcopy(atoms.base).to("cpu", torch.float64)
        self.shared = metric is not None and atoms.indices.numel() > self.base.n_base
        self._group, self._rows = -1, torch.empty(0)

    def of(self, column: int, group: int) -> Tensor:
        """(n_visible, n_atoms)."""
        if not self.shared:
            U = self.atoms.dictionary(column).detach().to("cpu", torch.float64)
            return self.times(group, U)
        if group != self._group:
            assert self.metric is not None
            self._group, self._rows = group, self.base.transform(self.metric.roots[group])
        A = self._rows[self.atoms.indices[column].cpu()].t()
        M = self.atoms.mixing_matrix(column)
        if M is None:
            return A
        M = M.detach().to("cpu", torch.float64)
        return A * M if M.dim() == 1 else A @ M

    def times(self, group: int, right: Tensor) -> Tensor:
        """S right."""
        return right if self.metric is None else self.metric.roots[group] @ right


def _solve(A: Tensor, target: Tensor) -> Tensor:
    """The least-squares solution of A V = target.

    By Cholesky where the columns of A are far from dependent, and else (smooth kernels at large
    fractions) by singular values, which takes several times as long.
    """
    sizes = A.square().sum(dim=0).sqrt().clamp_min(torch.finfo(A.dtype).tiny)
    A = A / sizes
    root, failed = torch.linalg.cholesky_ex(A.t() @ A)
    # Squares of the diagonal: what of each atom the earlier ones leave unexplained.
    if len(A) >= A.shape[1] and not failed and bool((root.diagonal() > 1e-4).all()):
        V = torch.cholesky_solve(A.t() @ target, root)
    else:
        V = torch.linalg.lstsq(A, target, driver="gelsd").solution
    return V / sizes.unsqueeze(1)


def _fit_units(atoms: Atoms, W: Tensor, metric: Metric | None) -> tuple[Tensor, float]:
    """As :func:`fit_columns`, where every unit has a dictionary of its own, without mixing.

    The normal equations of many units are solved at once; a unit whose atoms are too dependent for
    that by a decomposition of its own.
    """
    base = copy.deepcopy(atoms.base).to("cpu", torch.float64)
    indices = atoms.indices.cpu()
    V, left, total = torch.empty(indices.shape, dtype=torch.float64), 0.0, 0.0
    for group, units in by_group(metric, slice(0, len(W)), len(W)):
        own, rows = indices[units], W[units]
        products = base.transform(in_metric(rows, metric, group)).t()
        twice = bool((own.sort(dim=1).values.diff(dim=1) == 0).any())
        if metric is None and base.orthonormal and not twice:
            V[units] = products.gather(1, own)
        else:
            V[units], failed = solve_at(gram_of(base, metric, group), products, own)
            for unit in failed.nonzero().flatten().tolist():
                A = rooted(base.rows(own[unit]), metric, group).t()
                target = rooted(rows[unit], metric, group)
                V[units][unit] = torch.linalg.lstsq(A, target, driver="gelsd").solution
        X = spread(V[units], own, base.n_base)
        left += float(rooted(base.synthesise(X) - rows, metric, group).square().sum())
        total += float(rooted(rows, metric, group).square().sum())
    return V.t(), left / max(total, torch.finfo(torch.float64).tiny)
