"""SparseAtoms: every unit of a trained layer keeps the inputs that it can do without least."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from weightcast.dictionaries.atoms import Atoms
from weightcast.dictionaries.base import Dictionary, check_enough
from weightcast.dictionaries.input_site import Need, Site
from weightcast.dictionaries.inverse import times_inverse
from weightcast.dictionaries.operators import IdentityBase

_STEPS = 20
_PENALTY = 0.5  # with every input of variance 1; 0.3 and 2 lose more on other inputs


@dataclass(frozen=True)
class SparseAtoms(Dictionary):
    """One-hot atoms, chosen for each unit by its trained weights: W is sparse, V its entries.

    The base is the identity, so that beside V a file holds one bit for each weight. With inputs the
    choice is made for the layer's output, without for the weights, of which the largest stay.
    V fitted in the same metric makes up for the connections that are lost.
    """

    needs: ClassVar[tuple[Need, ...]] = ("covariance",)
    from_weight: ClassVar[bool] = True
    chooses: ClassVar[bool] = False
    per_unit: ClassVar[bool] = True
    rebuildable: ClassVar[bool] = True

    @override
    def build(self, site: Site) -> Atoms:
        """Choose every column's inputs for the site's weight; see :meth:`Dictionary.build`."""
        n_visible = site.n_visible
        check_enough(self, site.n_atoms, n_visible)
        base = site.shared_base((IdentityBase, n_visible), lambda: IdentityBase(n_visible))
        return Atoms(base, site.choose(lambda: self._choose(site, [site.n_atoms])[0]))

    @override
    def build_each(self, site: Site, counts: Sequence[int]) -> list[Atoms]:
        chosen = zip(counts, self._choose(site, counts), strict=True)
        return [self.build(replace(site, n_atoms=n, indices=indices)) for n, indices in chosen]

    def _choose(self, site: Site, counts: Sequence[int]) -> list[Tensor]:
        W = site.require_weight(self)
        given = site.statistics is not None and site.statistics.covariance is not None
        C = site.require(self, "covariance") if given else None
        return sparse_choices(W, C, counts, site.columns)


def sparse_choices(
    W: Tensor, C: Tensor | None, counts: Sequence[int], columns: int | None = None
) -> list[Tensor]:
    """The inputs that every column keeps, (columns, n_atoms) int64 for each n_atoms, ascending.

    It looks for the W' with n_atoms inputs for each unit, the same for all units of a column, that
    minimises E|x W - x W'|^2, by the alternating directions method of multipliers: the least
    squares of the outputs plus a penalty, and the largest entries, in turn, with every input scaled
    to variance 1. In float32, which suffices to compare entries. Several numbers of inputs are
    looked at side by side: the equations are the same.

    Args:
        W: (n_visible, n_units).
        C: (n_visible, n_visible), the second moment of x; None is the identity.
        counts: numbers of inputs to keep.
        columns: groups of neighbouring units; None makes each unit one.

    References: Boyd et al. 2011, section 9.1; Boza 2024, who prunes language models so.
    """
    rows = W.t().float().contiguous()
    n_units, columns = len(rows), columns or len(rows)
    owner = torch.arange(n_units) * columns // n_units
    parts = [rows] * len(counts)
    if C is not None:
        level = float(C.diagonal().mean()) or 1.0
        scales = (C.diagonal() + 1e-9 * level).sqrt()
        K = (C / scales / scales.unsqueeze(1)).float()
        root = torch.linalg.cholesky(K + _PENALTY * torch.eye(len(K), dtype=K.dtype))
        solve = times_inverse(root, _STEPS * len(counts) * n_units)

        def kept(near: Tensor) -> Tensor:
            each = zip(near.split(n_units), counts, strict=True)
            return torch.cat([part * _largest(part, n, columns)[owner] for part, n in each])

        rows = (rows * scales.float()).repeat(len(counts), 1)
        wanted = rows @ K
        near, sparse, debt = rows, kept(rows), torch.zeros_like(rows)
        for _ in range(_STEPS):
            near = solve(wanted + _PENALTY * (sparse - debt)) + debt
            sparse = kept(near)
            debt = near - sparse
        parts = near.split(n_units)
    return [
        _energies(part, columns).topk(n_atoms, dim=1).indices.sort(dim=1).values
        for part, n_atoms in zip(parts, counts, strict=True)
    ]


def _energies(rows: Tensor, columns: int) -> Tensor:
    """(columns, n_visible): the mean square of each entry over a column's units."""
    squares = rows.square()
    if columns == len(rows):
        return squares
    return torch.nn.functional.adaptive_avg_pool1d(squares.t(), columns).t()


def _largest(rows: Tensor, n_atoms: int, columns: int) -> Tensor:
    """(columns, n_visible): whether an entry is among a column's n_atoms largest; ties all are."""
    energies = _energies(rows, columns)
    least = energies.kthvalue(energies.shape[1] - n_atoms + 1, dim=1, keepdim=True).values
    return energies >= least
