"""Rule: how one layer is predicted, from which dictionary and how much of it is learned."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial

import torch
from torch import Tensor

from weightcast.dictionaries import (
    Atoms,
    Dictionary,
    InputStatistics,
    SharedBases,
    Site,
    StoredAtoms,
    check_fraction,
    count_atoms,
)
from weightcast.grid import Grid
from weightcast.serialization import Plain, decode, encode
from weightcast.weight import ExecutionPath


@dataclass(frozen=True)
class Rule(Plain):
    """Predict a layer's weights from ``dictionary``, learning ``fraction`` of them, or ``n_atoms``.

    Args:
        dictionary: the recipe for the static atoms.
        fraction: share of the layer's weights that is learned, in (0, 1]:
            n_atoms = round(fraction * n_visible), whatever the number of columns.
        columns: groups of units, each with its own draw of atoms; at least 1. A dictionary that is
            ``per_unit`` has as many as units.
        grid: a ``Grid`` of the layer's inputs or a shape (``(28, 28)``); a convolution has its own,
            which relative rules leave aside: there an atom sees one channel alone.
        path: ``auto``, ``factored`` or ``materialised``: how to compute x W.
        n_atoms: atoms of each column, in place of a fraction: as many weights of each unit.
        relative: of :func:`adapt` alone: U V is a share of each of W0's entries, W0 (1 + U V), and
            not what is added to them.

    Raises:
        ValueError: a fraction outside (0, 1], neither it nor n_atoms, or both; n_atoms or columns
            below 1, no dictionary.

    References: Denil et al. 2013, section 2.
    """

    dictionary: Dictionary
    fraction: float | None = field(default=None, metadata={"brief": True})
    columns: int = 1
    grid: Grid | tuple[int, ...] | int | None = None
    path: ExecutionPath = "auto"
    n_atoms: int | None = field(default=None, metadata={"brief": True})
    relative: bool = field(default=False, metadata={"brief": True})

    def __post_init__(self) -> None:
        if not isinstance(self.dictionary, Dictionary):
            raise ValueError(
                f"dictionary is {self.dictionary!r}: take an instance of one of the classes in "
                "weightcast.dictionaries, such as Kernel()"
            )
        if (self.fraction is None) == (self.n_atoms is None):
            raise ValueError(
                f"fraction is {self.fraction} and n_atoms {self.n_atoms}: give one of the two"
            )
        if self.fraction is not None:
            check_fraction(self.fraction)
        elif self.n_atoms is not None and self.n_atoms < 1:
            raise ValueError(f"n_atoms is {self.n_atoms!r}: it must be a whole number, at least 1")
        if self.columns < 1:
            raise ValueError(f"columns is {self.columns!r}: it must be a whole number, at least 1")
        if self.grid is not None:
            object.__setattr__(self, "grid", Grid.of(self.grid))

    def check_use(self, *, adapting: bool) -> None:
        """Raise ValueError for a relative rule where there is no W0 that it could be of."""
        if self.relative and not adapting:
            raise ValueError(
                "the rule is relative to a frozen weight, as weightcast.adapt alone has one: take "
                "relative=False"
            )

    def columns_for(self, n_units: int) -> int:
        """The columns of a layer with ``n_units`` units."""
        return n_units if self.dictionary.per_unit else self.columns

    def atoms_for(self, n_visible: int) -> int:
        """The atoms of each column for ``n_visible`` inputs; ValueError if below 1 or too many."""
        if self.n_atoms is None:
            assert self.fraction is not None
            return count_atoms(self.fraction, n_visible)
        if self.n_atoms > n_visible:
            raise ValueError(
                f"n_atoms is {self.n_atoms}, and the layer has {n_visible} inputs: take at most "
                "as many, or leave the layer as it is"
            )
        return self.n_atoms

    def grid_for(self, own: Grid | None, n_visible: int) -> Grid | None:
        """The grid of a layer with an ``own`` one or none; ValueError if it is of another size."""
        own = None if self.relative else own
        chosen = own if self.grid is None else Grid.of(self.grid)
        return None if chosen is None else chosen.check(n_visible)

    def build(
        self,
        n_visible: int,
        n_units: int,
        *,
        grid: Grid | None = None,
        statistics: InputStatistics | None = None,
        generator: torch.Generator | None = None,
        bases: SharedBases | None = None,
        indices: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Atoms:
        """Build the atoms of a layer, in float64 on the CPU.

        Args:
            n_visible: the layer's number of inputs.
            n_units: the layer's number of units.
            grid: the layer's own grid.
            statistics: of the layer's inputs, for data-driven dictionaries.
            generator: a CPU generator of every draw; None takes seed 0.
            bases: bases built so far for other layers, to share with this one.
            indices: (columns, n_atoms) atoms drawn earlier, to rebuild them.
            weight: (n_visible, n_units) float64, the dense layer's, for dictionaries made from it.
        """
        if n_visible < 1 or n_units < 1:
            raise ValueError(
                f"the layer has {n_visible} inputs and {n_units} units: it needs at least 1 of each"
            )
        if self.columns_for(n_units) > n_units:
            raise ValueError(
                f"columns is {self.columns} for {n_units} units: every column needs a unit of its "
                f"own, so columns must lie between 1 and {n_units}"
            )
        site = Site(
            n_visible=n_visible,
            n_atoms=self.atoms_for(n_visible),
            columns=self.columns_for(n_units),
            grid=self.grid_for(grid, n_visible),
            statistics=statistics,
            generator=generator or torch.Generator().manual_seed(0),
            bases=bases or SharedBases(),
            indices=indices,
            weight=weight,
        )
        with torch.device("cpu"):  # whatever the default device is
            atoms = self.dictionary.build(site)
        if self.dictionary.rebuildable:
            atoms.base.follow(partial(self.build, n_visible, n_units, grid=grid))
        return atoms


def written_rule(rule: Rule) -> Rule:
    """A rule as files hold it: in a dictionary's place that no text gives back, its atoms' own."""
    try:
        return rule if _comes_back(rule) else replace(rule, dictionary=StoredAtoms())
    except TypeError:  # it holds what cannot be hashed
        return rule if _comes_back.__wrapped__(rule) else replace(rule, dictionary=StoredAtoms())


@lru_cache(256)
def _comes_back(rule: Rule) -> bool:
    """Whether a rule's text gives it back: not where it holds an estimator, or a stranger."""
    try:
        return decode(Rule, encode(rule)) == rule
    except ValueError:
        return False


def layer_seed(seed: int, name: str) -> int:
    """A seed for one layer that does not depend on which other layers are converted."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
