"""Site: what a dictionary is told of the layer that it builds atoms for."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from weightcast.dictionaries.operators import Base
from weightcast.grid import Grid

Need = Literal["covariance", "squared_covariance", "sample"]
"""Names of the statistics that a dictionary can ask for."""


@dataclass(frozen=True)
class InputStatistics:
    """Statistics of the rows x that a layer multiplies by W, in float64.

    Args:
        n_rows: number of rows used; a convolution has one per output position, thinned where they
            are very many.
        covariance: (n_visible, n_visible), cov(x).
        squared_covariance: (n_visible, n_visible), cov(x**2), elementwise square first.
        sample: (n_sample, n_visible), rows drawn uniformly from those seen.
        weight: (n_visible, n_units), W to build from; None takes the dense layer's own, if any.
    """

    n_rows: int
    covariance: Tensor | None = None
    squared_covariance: Tensor | None = None
    sample: Tensor | None = None
    weight: Tensor | None = None


class SharedBases:
    """Bases that several layers of a model have in common, each held once per dtype and device."""

    def __init__(self) -> None:
        self._originals: dict[Hashable, Base] = {}
        self._placed: dict[Hashable, Base] = {}

    def original(self, key: Hashable, make: Callable[[], Base]) -> Base:
        """The float64 base that ``key`` defines, built on first use; atoms are made from it."""
        if key not in self._originals:
            self._originals[key] = make()
        return self._originals[key]

    def place(self, original: Base, cast: Base, *where: Hashable) -> Base:
        """The one copy of a shared base in this dtype and place; ``cast`` becomes it at first."""
        if original not in self._originals.values():
            return cast
        return self._placed.setdefault((id(original), *where), cast)


@dataclass(frozen=True)
class Site:
    """One layer's inputs, and what is asked for there.

    Args:
        n_visible: number of inputs.
        n_atoms: atoms per column.
        columns: number of columns.
        grid: coordinates of the inputs, where they have any.
        statistics: of the inputs, for dictionaries made from data.
        generator: CPU generator of every random draw.
        indices: (columns, n_atoms) atoms drawn earlier, to rebuild them; None draws anew.
        bases: bases built so far, which equal layers share.
        weight: (n_visible, n_units) float64, W of the dense layer, for dictionaries made from it;
            the statistics' own comes first.
    """

    n_visible: int
    n_atoms: int
    columns: int = 1
    grid: Grid | None = None
    statistics: InputStatistics | None = None
    generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))
    indices: Tensor | None = None
    bases: SharedBases = field(default_factory=SharedBases)
    weight: Tensor | None = None

    def __post_init__(self) -> None:
        if self.statistics is not None and self.statistics.weight is not None:
            object.__setattr__(self, "weight", self.statistics.weight)

    def shared_base(self, key: Hashable, make: Callable[[], Base]) -> Base:
        """The base that ``key`` defines, built on first use."""
        return self.bases.original(key, make)

    def choose(self, draw: Callable[[], Tensor]) -> Tensor:
        """The given indices, or a new draw."""
        return draw() if self.indices is None else self.indices

    def require_grid(self, dictionary: object) -> Grid:
        """The grid, or a ValueError if the layer has none."""
        if self.grid is None:
            raise ValueError(
                f"{type(dictionary).__name__} needs the coordinates of the layer's "
                f"{self.n_visible} inputs: pass grid=(height, width), or a Grid with channels"
            )
        return self.grid

    def require(self, dictionary: object, need: Need) -> Tensor:
        """A statistic of the layer's inputs; ValueError if it is not there, or not finite."""
        value, name = getattr(self.statistics, need, None), type(dictionary).__name__
        if value is None:
            raise ValueError(
                f"{name} is made from data: pass inputs= (an iterable of example batches) to "
                "convert, or statistics= to the layer"
            )
        return self._checked(name, f"inputs have a {need}", value, value.shape[-1])

    def require_weight(self, dictionary: object) -> Tensor:
        """W of the dense layer, (n_visible, n_units); ValueError if not there, or not finite."""
        W, name = self.weight, type(dictionary).__name__
        if W is None:
            raise ValueError(
                f"{name} is made from a dense layer's weights: make the layer by compress, convert "
                "or from_dense, or pass statistics= with its weight"
            )
        return self._checked(name, "weight", W, len(W))

    def _checked(self, name: str, what: str, value: Tensor, n_inputs: int) -> Tensor:
        if n_inputs != self.n_visible:
            raise ValueError(
                f"{name}: the statistics are of {n_inputs} inputs, the layer has {self.n_visible}"
            )
        if not bool(value.isfinite().all()):
            raise ValueError(
                f"{name}: the layer's {what} with {int((~value.isfinite()).sum())} NaN or infinite "
                "values: clean them"
            )
        return value
