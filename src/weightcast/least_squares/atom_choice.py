"""The atoms of a base that explain most of some units, one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from weightcast.dictionaries import Base
from weightcast.least_squares.metric import Metric, by_group, gram_of, in_metric, rooted

_ROUNDING = 1e-11  # of an atom that others explain may be left by rounding


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


def loss_curve(
    base: Base,
    W: Tensor,
    n_atoms: int,
    metric: Metric | None = None,
    order: Sequence[int] | None = None,
    most: Tensor | None = None,
) -> Tensor:
    """What 1, 2, ... n_atoms atoms leave of all units' |w|_C^2, as a share: (n_atoms,), falling.

    Base and W (n_units, n_visible) are float64 on the CPU. Atoms come in the given order; None
    takes the one that explains most each time. The curve ends, some atoms later, where it leaves
    more than ``most`` (n_atoms,).
    """
    units, total = slice(0, len(W)), 0.0
    for group, part in by_group(metric, units, len(W)):
        total += float(rooted(W[part], metric, group).square().sum())
    explained: list[float] = []
    least = None if most is None else (1 - most) * total
    _greedy(_problems(base, units, W, n_atoms, metric, {}), n_atoms, order, explained, least)
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
        # Of few rows, where a product of many with few columns takes three times as long.
        known, first = self._known, len(self.taken)
        rows = self.gram[chosen] - known[chosen] @ known.t()
        rows = torch.linalg.solve_triangular(root, rows, upper=False)
        right = torch.linalg.solve_triangular(root, self.products[chosen], upper=False)
        self.factor[:, first : first + len(chosen)] = rows.t()
        self.taken += chosen.tolist()
        self.products -= rows.t() @ right
        self.remaining = self.remaining - rows.square().sum(dim=0)

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
            grams[group] = gram = gram_of(base, metric, group)
            gram.diagonal().mul_(1 + _ROUNDING)
        products = base.transform(in_metric(W[part], metric, group))
        problems.append(_Problem(grams[group], products, n_atoms))
    return problems


def _greedy(
    problems: Sequence[_Problem],
    n_atoms: int,
    order: Sequence[int] | None = None,
    explained: list[float] | None = None,
    least: Tensor | None = None,
) -> list[int]:
    """Atoms for several groups' units at once, in a given order or by what they explain.

    The next :data:`STEP` atoms are chosen one by one among the eight times as many that explain
    most, so that all of a large base are compared, and what is left of the units is computed, once
    a step: products of large matrices, of which a processor does tens of times more in a second.
    Atoms that are orthogonal are compared once. No step follows where less than ``least``
    (n_atoms,) is ``explained``.
    """
    points: list[int] = []
    if all(problem.orthogonal for problem in problems):
        gain = torch.stack([problem.gain for problem in problems]).sum(dim=0)
        points = gain.topk(n_atoms).indices.tolist() if order is None else list(order[:n_atoms])
        if explained is not None:
            explained += gain[points].clamp_min(0).tolist()
        return points
    while len(points) < n_atoms:
        if explained and least is not None and sum(explained) < least[len(points) - 1]:
            break
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
