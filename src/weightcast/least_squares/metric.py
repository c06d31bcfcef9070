"""Metric: by how much an error of the weights changes the layer's output."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from weightcast.dictionaries import Base


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


def by_group(metric: Metric | None, units: slice, n_units: int) -> Iterator[tuple[int, slice]]:
    """The groups that some units belong to, each with its part of them."""
    size = n_units if metric is None else n_units // len(metric.moments)
    for group in range(units.start // size, (units.stop - 1) // size + 1):
        yield group, slice(max(units.start, group * size), min(units.stop, (group + 1) * size))


def gram_of(base: Base, metric: Metric | None, group: int) -> Tensor:
    """B^T C B, (n_base, n_base)."""
    if metric is None:
        return base.gram(torch.arange(base.n_base))
    return base.transform(base.transform(metric.moments[group]).contiguous())


def in_metric(rows: Tensor, metric: Metric | None, group: int) -> Tensor:
    """w^T C for rows w."""
    return rows if metric is None else rows @ metric.moments[group]


def rooted(rows: Tensor, metric: Metric | None, group: int) -> Tensor:
    """S w for rows w."""
    return rows if metric is None else rows @ metric.roots[group].t()
