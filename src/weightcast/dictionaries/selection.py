"""Selection: which atoms of the base each column takes (the paper's alpha).

``random`` draws uniformly without replacement, as in the paper; ``leading`` takes the atoms of
largest eigenvalue or lowest frequency; ``pivoted`` is greedy, each atom the one of largest variance
that the earlier ones leave unexplained. All draws come from an explicit CPU generator.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from weightcast.grid import Grid

Strategy = Literal["random", "leading", "pivoted"]
"""How atoms are selected."""

Positions = Literal["per_channel", "shared"]
"""On a grid with channels: own known positions in each channel, or the same in all of them."""

PickPoints = Callable[[int], Tensor]
"""A count to as many distinct int64 points of one channel, most wanted first."""


def random_points(n_points: int, generator: torch.Generator) -> PickPoints:
    """A picker of points, uniformly at random without replacement."""
    return lambda count: torch.randperm(n_points, generator=generator)[:count]


def draw_on_grid(
    grid: Grid,
    n_atoms: int,
    columns: int,
    positions: Positions,
    pick: PickPoints,
    generator: torch.Generator,
) -> Tensor:
    """Atoms for every column, (columns, n_atoms) int64, spread evenly over the grid's channels.

    Each channel gets ``n_atoms // channels``; the rest go, one each, to channels drawn at random.
    """
    each, extra = divmod(n_atoms, grid.channels)
    drawn = []
    for _ in range(columns):
        counts = torch.full((grid.channels,), each)
        counts[torch.randperm(grid.channels, generator=generator)[:extra]] += 1
        common = pick(each + (extra > 0)) if positions == "shared" else None
        for channel, count in enumerate(counts.tolist()):
            if count:
                points = pick(count) if common is None else common[:count]
                drawn.append(points + channel * grid.n_points)
    return torch.cat(drawn).view(columns, n_atoms)


def deal_leading(order: Tensor, n_atoms: int, columns: int) -> Tensor:
    """Deal the leading atoms out to the columns, as one deals cards: (columns, n_atoms) int64.

    The ``columns * n_atoms`` leading ones of ``order`` (n_base,) are dealt in turn, so that columns
    differ and the layer as a whole sees more of the base. No column has an atom twice.
    """
    n_pool = min(columns * n_atoms, len(order))
    places = torch.arange(columns).unsqueeze(1) + columns * torch.arange(n_atoms)
    return order[places * n_pool // (columns * n_atoms)]


def deal_random(n_base: int, n_atoms: int, columns: int, generator: torch.Generator) -> Tensor:
    """(columns, n_atoms) int64 uniform atoms; columns dealt from one deck have none in common."""
    per_deck = n_base // n_atoms  # columns that one deck serves
    dealt = [
        torch.randperm(n_base, generator=generator)[: per_deck * n_atoms]
        for _ in range(-(-columns // per_deck))
    ]
    return torch.cat(dealt).view(-1, n_atoms)[:columns].clone()


def pivoted_points(
    variance: Tensor,
    covariance_with: Callable[[int], Tensor],
    generator: torch.Generator,
    *,
    random_start: bool,
) -> PickPoints:
    """A picker of points by pivoted Cholesky: greedy, by what remains of (n_points,) variance.

    ``covariance_with`` takes a point p to K[:, p]. With ``random_start`` the first point is drawn
    with probability proportional to its variance, so that several columns differ. The picker raises
    ValueError when fewer points than asked for have any variance.

    References: Harbrecht, Peters and Schneider 2012, *On the low-rank approximation by the pivoted
    Cholesky decomposition*.
    """

    def pick(count: int) -> Tensor:
        remaining = variance.clone()
        factor = torch.zeros(len(variance), count, dtype=variance.dtype)
        points = torch.empty(count, dtype=torch.int64)
        for k in range(count):
            if k == 0 and random_start:
                point = int(torch.multinomial(variance, 1, generator=generator))
            else:
                point = int(remaining.argmax())
            if remaining[point] <= 0:
                raise ValueError(
                    f"pivoted selection found only {k} of {count} atoms with variance left: take a "
                    "smaller fraction, a shorter length_scale, or selection='random'"
                )
            points[k] = point
            residual = covariance_with(point) - (factor[:, :k] * factor[point, :k]).sum(dim=1)
            factor[:, k] = residual / remaining[point].sqrt()
            remaining = remaining - factor[:, k].square()
            remaining[points[: k + 1]] = -torch.inf
        return points

    return pick
