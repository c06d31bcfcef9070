"""TriedDictionary: a dictionary on one grid, and all that is built of it to be checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from weightcast.dictionaries import Atoms, Dictionary, InputStatistics, Site
from weightcast.grid import Grid
from weightcast.layers import PredictedLinear
from weightcast.testing.example_layers import example_statistics

STATISTICS = ("covariance", "squared_covariance", "sample", "weight")


@dataclass(frozen=True)
class Build:
    """What one call of ``build`` returned, the generator's state after it, and whether it moved."""

    atoms: Atoms
    U: Tensor
    after: Tensor
    draws: bool

    def is_like(self, other: Build) -> bool:
        """Whether both took the same atoms, up to rounding."""
        if not torch.equal(self.atoms.indices, other.atoms.indices):
            return False
        same = self.U.shape == other.U.shape
        return same and bool((self.U - other.U).abs().max() <= 1e-9 * other.U.abs().max())


class TriedDictionary:
    """A dictionary on one grid; without statistics it takes those of correlated Gaussian rows.

    Every build gets statistics of its own, so that one which changes them spoils no other check,
    and not the caller's numbers.
    """

    def __init__(
        self, dictionary: Dictionary, grid: Grid, statistics: InputStatistics | None
    ) -> None:
        self.dictionary, self.grid, self.n_visible = dictionary, grid, grid.n_visible
        self._statistics = statistics or example_statistics(grid.n_visible)
        self.n_atoms = max(1, grid.n_visible // 4)

    @property
    def statistics(self) -> InputStatistics:
        """A copy of the statistics."""
        given = {name: getattr(self._statistics, name) for name in STATISTICS}
        copies = {name: t.detach().clone() for name, t in given.items() if t is not None}
        return replace(self._statistics, **copies)

    def site(self, n_atoms: int | None = None, columns: int = 1, seed: int = 0) -> Site:
        """A site of its own."""
        generator, count = torch.Generator().manual_seed(seed), n_atoms or self.n_atoms
        return Site(self.n_visible, count, columns, self.grid, self.statistics, generator)

    def atoms(self, n_atoms: int | None = None, columns: int = 1, seed: int = 0) -> Atoms:
        """Atoms, by the way that users take."""
        given: Any = {"grid": self.grid, "statistics": self.statistics, "seed": seed}
        count = n_atoms or self.n_atoms
        return self.dictionary.atoms(self.n_visible, count, columns=columns, **given)

    def build(self, site: Site) -> Build:
        """Call ``build``, and note what it does to the generator."""
        before = site.generator.get_state()
        with torch.device("cpu"):
            atoms = self.dictionary.build(site)
        U, after = atoms.dictionaries(), site.generator.get_state()
        return Build(atoms, U, after, draws=not torch.equal(before, after))

    @cached_property
    def first(self) -> Build:
        """The first build of all, seed 0 and one column: what a cache will keep is not there."""
        return self.build(self.site())

    def layer(self, n_units: int = 7, seed: int = 0) -> PredictedLinear:
        """A predicted layer, in double precision with 3 columns, half of it learned."""
        return PredictedLinear(
            self.n_visible,
            n_units,
            dictionary=self.dictionary,
            fraction=0.5,
            columns=3,
            grid=self.grid,
            statistics=self.statistics,
            seed=seed,
            dtype=torch.float64,
        )

    def rows(self, n_rows: int = 5) -> Tensor:
        """Inputs, the same on every call."""
        generator = torch.Generator().manual_seed(7)
        return torch.randn(n_rows, self.n_visible, dtype=torch.float64, generator=generator)


Checks = dict[str, Callable[[TriedDictionary], None]]
"""What must hold, as a sentence, to what raises AssertionError where it does not."""
