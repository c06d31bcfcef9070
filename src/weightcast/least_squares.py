"""Least squares: V of U V = W in closed form, in the metric of the layer's inputs, and its atoms.

    min_V  sum over units  (w - U v)^T C (w - U v)

C is the second moment of the rows x that the layer multiplies by W, so that this is the error of
the layer's output, E|x W - x U V|^2. Without inputs C = I: the error of the weights themselves.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from weightcast.dictionaries import Atoms, Base

_ACCURACY = 1e-10  # of the normal equations, relative to their right side
_REFINEMENTS, _STEPS = 8, 60  # after which a unit is solved by a decomposition
_DIGITS, _TINY = 1e-3, 1e-30


class Metric:
    """|w|_C^2 = w^T C w, for each group of a convolution its own C.

    ``moments`` are (groups, n_visible, n_visible) float64; ValueError if not positive definite.
    """

    def __init__(self, moments: Tensor) -> None:
        self.moments = moments
        factors, failed = torch.linalg.cholesky_ex(moments)
        if bool(failed.any()):
            raise ValueError(
                "the second moment of the layer's inputs is not positive definite to working "
                "precision: take a larger ridge, or more and more varied inputs"
            )
        self.roots = factors.mT.contiguous()
        """S with S^T S = C, so that |w|_C = |S w|."""

    def solve(self, group: int, right: Tensor) -> Tensor:
        """C^-1 right, for (n_visible, n)."""
        return torch.cholesky_solve(right, self.roots[group], upper=True)


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
    for column, units in enumerate(columns):
        U = atoms.dictionary(column).detach().to("cpu", torch.float64)
        for group, part in by_group(metric, units, len(W)):
            S = None if metric is None else metric.roots[group]
            A, target = (U, W[part].t()) if S is None else (S @ U, S @ W[part].t())
            # gelsd: atoms may be nearly dependent (smooth kernels at large fractions).
            V[:, part] = torch.linalg.lstsq(A, target, driver="gelsd").solution
            left += float((A @ V[:, part] - target).square().sum())
            total += float(target.square().sum())
    return V, left / max(total, torch.finfo(torch.float64).tiny)


def _fit_units(atoms: Atoms, W: Tensor, metric: Metric | None) -> tuple[Tensor, float]:
    """As :func:`fit_columns`, where every unit has a dictionary of its own, without mixing.

    The normal equations of all units are solved at once; a unit whose atoms are too dependent for
    that by a decomposition of its own.
    """
    base = copy.deepcopy(atoms.base).to("cpu", torch.float64)
    indices = atoms.indices.cpu()
    V, left, total = torch.empty(indices.shape, dtype=torch.float64), 0.0, 0.0
    for group, units in by_group(metric, slice(0, len(W)), len(W)):
        own, rows = indices[units], W[units]
        C = torch.eye(base.n_visible).double() if metric is None else metric.moments[group]
        S = C if metric is None else metric.roots[group]
        gram = base.transform(base.transform(C).contiguous())
        mask = torch.zeros(len(own), base.n_base).scatter_(1, own, 1.0)
        X, failed = masked_solution(gram, base.transform(rows @ C).t(), mask)
        failed |= mask.sum(dim=1) < atoms.n_atoms  # an atom twice
        V[units] = X.gather(1, own)
        for unit in failed.nonzero().flatten().tolist():
            A = S @ base.rows(own[unit]).t()
            V[units][unit] = torch.linalg.lstsq(A, S @ rows[unit], driver="gelsd").solution
            X[unit] = X[unit].zero_().index_add_(0, own[unit], V[units][unit])
        left += float(((base.synthesise(X) - rows) @ S.t()).square().sum())
        total += float((rows @ S.t()).square().sum())
    return V.t(), left / max(total, torch.finfo(torch.float64).tiny)


def masked_solution(gram: Tensor, products: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """x of each row with gram x = product at the places of its mask, 0 elsewhere; which failed.

    By conjugate gradients for all rows at once, preconditioned with the inverse of ``gram`` at
    each mask, in float32; what is left is computed in float64 and solved again, until it is below
    1e-10 of the products. ``gram`` (n, n) float64 is symmetric, the others are (rows, n).
    """
    level = 1e-6 * float(gram.diagonal().mean()) * torch.eye(len(gram), dtype=gram.dtype)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram + level)).float()
    X, small = torch.zeros_like(products), _ACCURACY * (products * mask).norm(dim=1)
    failed = torch.ones(len(X), dtype=torch.bool)
    for _ in range(_REFINEMENTS):
        rest = (products - X @ gram) * mask
        size = rest.norm(dim=1)
        failed = ~(size <= small)  # NaN is no success
        if not bool(failed.any()):
            break
        scale = size[failed].clamp_min(1e-300).unsqueeze(1)
        unit = (rest[failed] / scale).float()
        X[failed] += scale * _conjugate_gradients(gram.float(), inverse, unit, mask[failed])
    return X, failed


def _conjugate_gradients(G: Tensor, P: Tensor, rest: Tensor, mask: Tensor) -> Tensor:
    """x with G x = rest at the mask, to a few digits; ``P`` is about the inverse of G."""
    x = torch.zeros_like(rest)
    near = (rest @ P) * mask
    direction, product = near, (rest * near).sum(dim=1, keepdim=True)
    for _ in range(_STEPS):
        image = (direction @ G) * mask
        step = product / (direction * image).sum(dim=1, keepdim=True).clamp_min(_TINY)
        x, rest = x + step * direction, rest - step * image
        if float(rest.square().sum(dim=1).max()) < _DIGITS**2:
            break
        near = (rest @ P) * mask
        before, product = product, (rest * near).sum(dim=1, keepdim=True)
        direction = near + product / before.clamp_min(_TINY) * direction
    return x


def choose_atoms(
    base: Base, columns: Iterable[slice], W: Tensor, n_atoms: int, metric: Metric | None = None
) -> Tensor:
    """The atoms of every column that explain its units best, (columns, n_atoms) int64.

    Greedy: each next atom is the one that takes most from what its column's units leave
    unexplained, all earlier ones fitted anew (simultaneous orthogonal least squares). Indices cost
    nothing to learn, so they may follow the weights. ``columns`` are the units of every column.

    References: Chen, Billings and Luo 1989; Tropp, Gilbert and Strauss 2006.
    """
    grams: dict[int, Tensor] = {}
    by_column = (_problems(base, units, W, n_atoms, metric, grams) for units in columns)
    return torch.tensor([_greedy(problems, n_atoms) for problems in by_column])


def by_group(metric: Metric | None, units: slice, n_units: int) -> Iterator[tuple[int, slice]]:
    """The groups that some units belong to, each with its part of them."""
    size = n_units if metric is None else n_units // len(metric.moments)
    for group in range(units.start // size, (units.stop - 1) // size + 1):
        yield group, slice(max(units.start, group * size), min(units.stop, (group + 1) * size))


def loss_curve(
    base: Base,
    W: Tensor,
    n_atoms: int,
    metric: Metric | None = None,
    order: Sequence[int] | None = None,
) -> Tensor:
    """What 1, 2, ... n_atoms atoms leave of all units' |w|_C^2, as a share: (n_atoms,), falling.

    Base and W (n_units, n_visible) are float64 on the CPU. Atoms come in the given order; None
    takes the one that explains most each time.
    """
    units, total = slice(0, len(W)), 0.0
    for group, part in by_group(metric, units, len(W)):
        rows = W[part] if metric is None else W[part] @ metric.roots[group].t()
        total += float(rows.square().sum())
    explained: list[float] = []
    _greedy(_problems(base, units, W, n_atoms, metric, {}), n_atoms, order, explained)
    lost = 1 - torch.tensor(explained, dtype=torch.float64).cumsum(0) / max(total, 1e-300)
    return lost.clamp(0, 1)


class _Problem:
    """Pivoted Cholesky of (n_base, n_base) ``gram``, <a, a'>, and what it leaves of some units.

    ``products`` are (n_base, n_units), <a, w>.
    """

    def __init__(self, gram: Tensor, products: Tensor, n_atoms: int) -> None:
        self.gram, self.products = gram, products.clone()
        self.remaining = gram.diagonal().clone()
        self.floor = 1e-12 * float(self.remaining.max())
        self.factor = gram.new_zeros(len(gram), n_atoms)

    @property
    def gain(self) -> Tensor:
        """(n_base,): what each atom would explain; -1 for what the chosen ones span already."""
        gain = self.products.square().sum(dim=1) / self.remaining.clamp_min(self.floor or 1.0)
        return torch.where(self.remaining > self.floor, gain, -1.0)

    def take(self, point: int, k: int) -> None:
        """Choose an atom as the k-th."""
        if not self.remaining[point] > self.floor:
            return
        pivot, known = self.remaining[point].sqrt(), self.factor[:, :k]
        column = (self.gram[:, point] - known @ known[point]) / pivot
        self.factor[:, k] = column
        self.products -= torch.outer(column, self.products[point] / pivot)
        self.remaining = self.remaining - column.square()


def _problems(
    base: Base,
    units: slice,
    W: Tensor,
    n_atoms: int,
    metric: Metric | None,
    grams: dict[int, Tensor],
) -> list[_Problem]:
    """B^T C B and the rows w^T C B of each group that some units belong to.

    ``grams`` keeps the last group's B^T C B, which neighbouring columns share.
    """
    problems = []
    for group, part in by_group(metric, units, len(W)):
        C = torch.eye(base.n_visible).double() if metric is None else metric.moments[group]
        if group not in grams:
            grams.clear()
            grams[group] = base.transform(base.transform(C).contiguous())
        problems.append(_Problem(grams[group], base.transform(W[part] @ C), n_atoms))
    return problems


def _greedy(
    problems: Sequence[_Problem],
    n_atoms: int,
    order: Sequence[int] | None = None,
    explained: list[float] | None = None,
) -> list[int]:
    """Atoms for several groups' units at once, in a given order or by what they explain."""
    points: list[int] = []
    for k in range(n_atoms):
        gain = torch.stack([problem.gain for problem in problems]).sum(dim=0)
        if order is None:
            gain[points] = -torch.inf
        point = int(gain.argmax()) if order is None else order[k]
        points.append(point)
        if explained is not None:
            explained.append(max(0.0, float(gain[point])))
        for problem in problems:
            problem.take(point, k)
    return points
