"""Least squares: V of U V = W in closed form, in the metric of the layer's inputs, and its atoms.

    min_V  sum over units  (w - U v)^T C (w - U v)

C is the second moment of the rows x that the layer multiplies by W, so that this is the error of
the layer's output, E|x W - x U V|^2. Without inputs C = I: the error of the weights themselves.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from weightcast.dictionaries import Atoms, Base

_ACCURACY = 1e-7  # of the normal equations, relative to their right side
_REFINEMENTS = 4  # after which a unit is solved by a decomposition
_ROUNDING = 1e-11  # of an atom that others explain may be left by rounding
_HELD = 2**22  # numbers of the matrices that are solved at once


class Metric:
    """|w|_C^2 = w^T C w, for each group of a convolution its own C.

    ``moments`` are (groups, n_visible, n_visible) float64; ValueError if not positive definite.
    ``roots`` are S with S^T S = C, so that |w|_C = |S w|.
    """

    def __init__(self, moments: Tensor) -> None:
        self.moments = moments
        self.roots, failed = torch.linalg.cholesky_ex(moments, upper=True)
        if bool(failed.any()):
            raise ValueError(
                "the second moment of the layer's inputs is not positive definite to working "
                "precision: take a larger ridge, or more and more varied inputs"
            )

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
        products = base.transform(_in_metric(rows, metric, group)).t()
        twice = bool((own.sort(dim=1).values.diff(dim=1) == 0).any())
        if metric is None and base.orthonormal and not twice:
            V[units] = products.gather(1, own)
        else:
            V[units], failed = solve_at(_gram(base, metric, group), products, own)
            for unit in failed.nonzero().flatten().tolist():
                A = _rooted(base.rows(own[unit]), metric, group).t()
                target = _rooted(rows[unit], metric, group)
                V[units][unit] = torch.linalg.lstsq(A, target, driver="gelsd").solution
        X = _spread(V[units], own, base.n_base)
        left += float(_rooted(base.synthesise(X) - rows, metric, group).square().sum())
        total += float(_rooted(rows, metric, group).square().sum())
    return V.t(), left / max(total, torch.finfo(torch.float64).tiny)


def solve_at(gram: Tensor, products: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """Solve gram x = product at each row's own places, where x alone is not zero.

    In float32, some rows at a time; what that leaves is computed in float64 and solved again,
    until it is below 1e-7 of the products.

    Args:
        gram: (n, n) float64, symmetric.
        products: (rows, n) float64.
        places: (rows, n_atoms) int64.

    Returns:
        x at the places, (rows, n_atoms), and the rows that failed, where a place comes twice or
        its equations are too dependent.
    """
    n = len(gram)
    wanted = products.gather(1, places)
    x, failed = torch.zeros_like(wanted), torch.ones(len(places), dtype=torch.bool)
    small = _ACCURACY * wanted.norm(dim=1)
    inverses = _Inverses(gram, places)
    for first in range(0, len(places), inverses.step):
        part = slice(first, first + inverses.step)
        own, inverse = places[part], inverses.of(part)
        rest = wanted[part]
        for _ in range(_REFINEMENTS):
            scale = rest.norm(dim=1, keepdim=True).clamp_min(1e-300)
            x[part] += scale * inverse((rest / scale).float())
            rest = wanted[part] - (_spread(x[part], own, n) @ gram).gather(1, own)
            failed[part] = ~(rest.norm(dim=1) <= small[part])  # NaN is no success
            if not bool(failed[part].any()):
                break
    return x, failed


class _Inverses:
    """The inverses of a matrix at each row's places, in float32.

    A row with more than half of all places is solved by the inverse of the whole matrix and that
    of this inverse at the other places (the multipliers that hold x at zero there).
    """

    def __init__(self, gram: Tensor, places: Tensor) -> None:
        self.places, self.at, self.n, self.whole = places, places, len(gram), None
        self.matrix = gram.float()
        absent = torch.ones(len(places), self.n, dtype=torch.bool).scatter_(1, places, False)
        n_others = self.n - places.shape[1]
        if n_others < places.shape[1] and bool((absent.sum(dim=1) == n_others).all()):
            root, failed = torch.linalg.cholesky_ex(self.matrix)
            if not failed:
                # Not cholesky_inverse, which takes ten times as long.
                self.matrix = self.whole = torch.cholesky_solve(
                    torch.eye(self.n, dtype=root.dtype), root
                )
                self.at = absent.nonzero()[:, 1].view(len(places), n_others)
        self.step = max(1, _HELD // max(1, self.at.shape[1]) ** 2)
        """Rows that are solved at once."""

    def of(self, part: slice) -> Callable[[Tensor], Tensor]:
        """What solves for right sides at the places of some rows, (rows, n_atoms)."""
        at, own = self.at[part], self.places[part]
        parts = [self.matrix.index_select(0, row).index_select(1, row) for row in at]
        root, _ = torch.linalg.cholesky_ex(torch.stack(parts))

        def direct(right: Tensor) -> Tensor:
            return torch.cholesky_solve(right.unsqueeze(2), root).squeeze(2)

        def by_others(right: Tensor) -> Tensor:
            free = _spread(right, own, self.n) @ self.matrix
            held = _spread(direct(free.gather(1, at)), at, self.n) @ self.matrix
            return (free - held).gather(1, own)

        return direct if self.whole is None else by_others


def _gram(base: Base, metric: Metric | None, group: int) -> Tensor:
    """B^T C B, (n_base, n_base)."""
    if metric is None:
        return base.gram(torch.arange(base.n_base))
    return base.transform(base.transform(metric.moments[group]).contiguous())


def _in_metric(rows: Tensor, metric: Metric | None, group: int) -> Tensor:
    """w^T C for rows w."""
    return rows if metric is None else rows @ metric.moments[group]


def _rooted(rows: Tensor, metric: Metric | None, group: int) -> Tensor:
    """S w for rows w."""
    return rows if metric is None else rows @ metric.roots[group].t()


def _spread(values: Tensor, places: Tensor, n: int) -> Tensor:
    """(rows, n): values at their places, added where one comes twice, and zeros."""
    return values.new_zeros(len(values), n).scatter_add_(1, places, values)


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
        total += float(_rooted(W[part], metric, group).square().sum())
    explained: list[float] = []
    _greedy(_problems(base, units, W, n_atoms, metric, {}), n_atoms, order, explained)
    lost = 1 - torch.tensor(explained, dtype=torch.float64).cumsum(0) / max(total, 1e-300)
    return lost.clamp(0, 1)


STEP = 32
"""Atoms that are chosen before all others are compared again."""


class _Problem:
    """Pivoted Cholesky of (n_base, n_base) ``gram``, <a, a'>, and what it leaves of some units.

    ``products`` are (n_base, n_units), <a, w>.
    """

    def __init__(
        self, gram: Tensor, products: Tensor, n_atoms: int, floor: Tensor | None = None
    ) -> None:
        self.gram, self.products = gram, products.clone()
        self.remaining = gram.diagonal().clone()
        self.floor = 0.5 * _ROUNDING * self.remaining if floor is None else floor
        self.factor = gram.new_zeros(len(gram), n_atoms)
        self.taken: list[int] = []

    @property
    def gain(self) -> Tensor:
        """(n_base,): what each atom would explain; -1 for what the chosen ones span already."""
        gain = self.products.square().sum(dim=1) / self.remaining
        return torch.where(self.remaining > self.floor, gain, -1.0)

    @property
    def orthogonal(self) -> bool:
        """Whether no atom takes anything from another."""
        sizes = self.gram.diagonal()
        return float((self.gram - sizes.diag()).abs().max()) <= 1e-8 * float(sizes.min())

    def take(self, point: int) -> None:
        """Choose an atom."""
        if not self.remaining[point] > self.floor[point]:
            return
        pivot, known = self.remaining[point].sqrt(), self._known
        column = (self.gram[:, point] - known @ known[point]) / pivot
        self.factor[:, len(self.taken)] = column
        self.taken.append(point)
        self.products -= torch.outer(column, self.products[point] / pivot)
        self.remaining = self.remaining - column.square()

    def among(self, points: Tensor, n_atoms: int) -> _Problem:
        """The same, of some atoms, as the chosen ones left them."""
        known = self._known[points]
        gram = self.gram[points.unsqueeze(1), points] - known @ known.t()
        return _Problem(gram, self.products[points], n_atoms, self.floor[points])

    def take_all(self, points: Tensor, small: _Problem) -> None:
        """Choose the atoms that ``small``, which is :meth:`among` these points, has taken."""
        if not small.taken:
            return
        # A square, and triangular: each atom's column is zero for those that were taken before.
        root, chosen = small.factor[small.taken, : len(small.taken)], points[small.taken]
        known, first = self._known, len(self.taken)
        columns = self.gram[:, chosen] - known @ known[chosen].t()
        columns = torch.linalg.solve_triangular(root.t(), columns, upper=True, left=False)
        right = torch.linalg.solve_triangular(root, self.products[chosen], upper=False)
        self.factor[:, first : first + len(chosen)] = columns
        self.taken += chosen.tolist()
        self.products -= columns @ right
        self.remaining = self.remaining - columns.square().sum(dim=1)

    @property
    def _known(self) -> Tensor:
        return self.factor[:, : len(self.taken)]


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
        if group not in grams:
            grams.clear()
            # A smooth kernel's atoms differ by next to nothing: so that rounding is not enlarged
            # a million million times, every atom is taken to have as much of its own.
            grams[group] = gram = _gram(base, metric, group)
            gram.diagonal().mul_(1 + _ROUNDING)
        products = base.transform(_in_metric(W[part], metric, group))
        problems.append(_Problem(grams[group], products, n_atoms))
    return problems


def _greedy(
    problems: Sequence[_Problem],
    n_atoms: int,
    order: Sequence[int] | None = None,
    explained: list[float] | None = None,
) -> list[int]:
    """Atoms for several groups' units at once, in a given order or by what they explain.

    The next :data:`STEP` atoms are chosen one by one among the eight times as many that explain
    most, so that all of a large base are compared, and what is left of the units is computed, once
    a step: products of large matrices, of which a processor does tens of times more in a second.
    Atoms that are orthogonal are compared once.
    """
    points: list[int] = []
    if all(problem.orthogonal for problem in problems):
        gain = torch.stack([problem.gain for problem in problems]).sum(dim=0)
        points = gain.topk(n_atoms).indices.tolist() if order is None else list(order[:n_atoms])
        if explained is not None:
            explained += gain[points].clamp_min(0).tolist()
        return points
    while len(points) < n_atoms:
        n_new = min(STEP, n_atoms - len(points))
        if order is None:
            gain = torch.stack([problem.gain for problem in problems]).sum(dim=0)
            gain[points] = -torch.inf
            pool = gain.topk(min(8 * STEP, len(gain) - len(points))).indices
        else:
            pool = torch.tensor(order[len(points) : len(points) + n_new])
        small = [problem.among(pool, n_new) for problem in problems]
        places = _one_by_one(small, n_new, ordered=order is not None, explained=explained)
        for problem, part in zip(problems, small, strict=True):
            problem.take_all(pool, part)
        points += pool[places].tolist()
    return points


def _one_by_one(
    problems: Sequence[_Problem], n_atoms: int, *, ordered: bool, explained: list[float] | None
) -> list[int]:
    """As :func:`_greedy`, every atom compared each time."""
    places: list[int] = []
    for k in range(n_atoms):
        gain = torch.stack([problem.gain for problem in problems]).sum(dim=0)
        gain[places] = -torch.inf
        place = k if ordered else int(gain.argmax())
        places.append(place)
        if explained is not None:
            explained.append(max(0.0, float(gain[place])))
        for problem in problems:
            problem.take(place)
    return places
