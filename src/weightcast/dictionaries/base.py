"""Dictionary: a recipe for the static atoms of a site."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from weightcast.dictionaries.atoms import Atoms
from weightcast.dictionaries.input_site import InputStatistics, Need, Site
from weightcast.grid import Grid
from weightcast.serialization import Plain


@dataclass(frozen=True)
class Dictionary(Plain, ABC):
    """A recipe for static atoms. A new dictionary is one class with one method, :meth:`build`."""

    needs: ClassVar[tuple[Need, ...]] = ()
    """Statistics of the layer's inputs it is built from; none for analytic and random ones."""

    from_weight: ClassVar[bool] = False
    """Whether it is made from the dense layer's W, so that it does without its ``needs``."""

    chooses: ClassVar[bool] = True
    """Whether a column may take any atoms of the base, those that suit trained weights best."""

    per_unit: ClassVar[bool] = False
    """Whether every unit is a column of its own, whatever the rule's ``columns``."""

    rebuildable: ClassVar[bool] = False
    """Whether base and mixing follow from grid and indices, so that no file need hold them."""

    factored: ClassVar[bool] = False
    """Whether the base is held as factors, which more atoms make no larger."""

    learns_base: ClassVar[bool] = False
    """Whether the base is trained as V is."""

    @property
    def reads_weights(self) -> bool:
        """Whether V holds weights of the filters themselves, those at the chosen positions."""
        return False

    @abstractmethod
    def build(self, site: Site) -> Atoms:
        """Build the atoms in float64 on the CPU.

        ValueError if the site lacks what this dictionary needs, or asks for too many atoms.
        """

    def build_each(self, site: Site, counts: Sequence[int]) -> list[Atoms]:
        """Build the atoms at several numbers of them, at once where that saves time."""
        return [self.build(replace(site, n_atoms=n_atoms)) for n_atoms in counts]

    def work(self, site: Site) -> int:
        """Multiply-adds of :meth:`build`, counted beforehand.

        Its unit is that of :mod:`weightcast.dictionaries.work`. A short rule in a file can ask for
        very large matrices, so what ``load`` rebuilds is counted first, for a site with the file's
        grid and indices. A dictionary that returns 0 is never refused. ValueError if a grid is
        missing, or the base does not have the indices.
        """
        return 0

    def atoms(
        self,
        n_visible: int,
        n_atoms: int,
        *,
        columns: int = 1,
        grid: Grid | tuple[int, ...] | int | None = None,
        statistics: InputStatistics | None = None,
        seed: int = 0,
    ) -> Atoms:
        """Build atoms outside any layer, to look at or to use elsewhere.

        Args:
            n_visible: number of inputs.
            n_atoms: atoms per column, 1 to n_visible.
            columns: number of columns.
            grid: coordinates of the inputs.
            statistics: of the inputs, for dictionaries made from data.
            seed: of every random draw; the same seed gives the same atoms anywhere.

        Raises:
            ValueError: counts below 1, a grid of another size, or what :meth:`build` raises.
        """
        if n_atoms < 1 or n_visible < 1 or columns < 1:
            raise ValueError(
                f"n_visible={n_visible}, n_atoms={n_atoms}, columns={columns}: each must be at "
                "least 1"
            )
        grid = None if grid is None else Grid.of(grid).check(n_visible)
        generator = torch.Generator().manual_seed(int(seed))
        site = Site(n_visible, n_atoms, columns, grid, statistics, generator)
        with torch.device("cpu"):  # whatever the default device is
            return self.build(site)


def check_enough(dictionary: Dictionary, n_atoms: int, n_base: int) -> None:
    """Refuse, by a ValueError, more atoms than a base has."""
    if n_atoms > n_base:
        raise ValueError(
            f"{type(dictionary).__name__} has {n_base} atoms, {n_atoms} were asked for: take a "
            "smaller fraction, or a dictionary with more features"
        )
