"""Baselines: dictionaries that know nothing of the filters (Denil et al. 2013, section 5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from weightcast.dictionaries.atoms import Atoms
from weightcast.dictionaries.base import Dictionary, check_enough
from weightcast.dictionaries.input_site import Site
from weightcast.dictionaries.operators import DenseBase, IdentityBase
from weightcast.dictionaries.selection import deal_random


@dataclass(frozen=True)
class RandomGaussian(Dictionary):
    """U_j Gaussian, fixed (the paper's RandFixU), or random orthonormal.

    Args:
        mixing: ``raw``: independent entries of variance 1 / n_visible. ``orthonormal``: atoms of
            random rotations; as many columns of the layer as fit share one rotation, with disjoint
            atoms, so that together they see as much of the input as they can.
    """

    mixing: Literal["raw", "orthonormal"] = "raw"

    def build(self, site: Site) -> Atoms:
        """Draw the atoms; see :meth:`Dictionary.build`."""
        check_enough(self, site.n_atoms, site.n_visible)
        if self.mixing == "raw":
            atoms = _scaled_gaussian(site)
        else:
            together = site.n_visible // site.n_atoms  # columns of the layer per rotation
            groups = torch.arange(site.columns).split(together)
            atoms = torch.cat([_orthonormal(site, len(group) * site.n_atoms) for group in groups])
        return Atoms(DenseBase(atoms), site.choose(lambda: _in_turn(site)))


@dataclass(frozen=True)
class RandomConnections(Dictionary):
    """One-hot atoms: each unit sees a subset of the inputs (the paper's RandCon).

    Args:
        selection: ``random``: each column sees inputs drawn at random. ``grouped``: column after
            column takes the next inputs in their order, so that units which share a column in the
            layer below are seen together; nothing is drawn, and selecting is free.
    """

    selection: Literal["random", "grouped"] = "random"
    rebuildable: ClassVar[bool] = True

    def build(self, site: Site) -> Atoms:
        """Draw the connections; see :meth:`Dictionary.build`."""
        n_visible = site.n_visible
        check_enough(self, site.n_atoms, n_visible)
        base = site.shared_base((RandomConnections, n_visible), lambda: IdentityBase(n_visible))
        return Atoms(base, site.choose(lambda: self._draw(site)))

    def _draw(self, site: Site) -> Tensor:
        if self.selection == "grouped":
            return _in_turn(site) % site.n_visible
        return deal_random(site.n_visible, site.n_atoms, site.columns, site.generator)


@dataclass(frozen=True)
class LowRank(Dictionary):
    """W_j = U_j V_j with U_j learned as well: the baseline that wastes n_atoms**2 freedoms.

    ``fraction`` sets n_atoms as everywhere, but the layer then learns
    ``columns * n_visible * n_atoms`` weights of U on top of V: the ledger counts both. To learn as
    many weights as another dictionary does, ask :meth:`matching_fraction`.
    """

    learns_base: ClassVar[bool] = True

    def build(self, site: Site) -> Atoms:
        """Draw the initial U; see :meth:`Dictionary.build`."""
        check_enough(self, site.n_atoms, site.n_visible)
        base = DenseBase(_scaled_gaussian(site), learned=True)
        return Atoms(base, site.choose(lambda: _in_turn(site)))

    @staticmethod
    def matching_fraction(fraction: float, n_visible: int, n_units: int) -> float:
        """The fraction at which U and V together hold ``fraction * n_visible * n_units`` weights.

        Rounded to a whole number of atoms, at least one.

        Args:
            fraction: the share of the layer's weights to learn.
            n_visible: number of inputs.
            n_units: number of units; one column is assumed.
        """
        n_atoms = fraction * n_visible * n_units / (n_visible + n_units)
        return max(1, round(n_atoms)) / n_visible


def _in_turn(site: Site) -> Tensor:
    """0, 1, 2, ... column after column, (columns, n_atoms)."""
    return torch.arange(site.columns * site.n_atoms).view(site.columns, site.n_atoms)


def _scaled_gaussian(site: Site) -> Tensor:
    """Every column's atoms as rows, with entries of variance 1 / n_visible."""
    rows = _gaussian(site.columns * site.n_atoms, site.n_visible, site.generator)
    return rows / site.n_visible**0.5


def _gaussian(rows: int, width: int, generator: torch.Generator) -> Tensor:
    return torch.randn(rows, width, dtype=torch.float64, generator=generator)


def _orthonormal(site: Site, n_atoms: int) -> Tensor:
    """Orthonormal rows (n_atoms, n_visible), uniform over rotations (QR with settled signs)."""
    q, r = torch.linalg.qr(_gaussian(site.n_visible, n_atoms, site.generator))
    return (q * r.diagonal().sign()).t()
