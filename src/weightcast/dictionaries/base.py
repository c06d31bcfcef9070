"""Dictionary: a recipe for the static atoms of a site, one layer's inputs."""

from __future__ import annotations

import itertools
import math
import numbers
import typing
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from weightcast.dictionaries.atoms import Atoms
from weightcast.dictionaries.inputs import InputStatistics, Need
from weightcast.dictionaries.operators import Base, KroneckerBase
from weightcast.grid import Grid
from weightcast.serialization import field_types


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
    """Where atoms are wanted: one layer's inputs and all that a dictionary may know of them.

    Args:
        n_visible: number of inputs.
        n_atoms: atoms per column.
        columns: number of columns.
        grid: coordinates of the inputs, where they have any.
        statistics: of the inputs, for data-driven dictionaries.
        generator: CPU generator of every random draw.
        indices: (columns, n_atoms) atoms drawn earlier, to rebuild them; None draws anew.
        bases: bases built so far, which equal layers share.
    """

    n_visible: int
    n_atoms: int
    columns: int = 1
    grid: Grid | None = None
    statistics: InputStatistics | None = None
    generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))
    indices: Tensor | None = None
    bases: SharedBases = field(default_factory=lambda: SharedBases())

    def shared_base(self, key: Hashable, make: Callable[[], Base]) -> Base:
        """The base that ``key`` defines, built on first use."""
        return self.bases.original(key, make)

    def choose(self, draw: Callable[[], Tensor]) -> Tensor:
        """The given indices, or a new draw."""
        return draw() if self.indices is None else self.indices

    def require_grid(self, dictionary: Dictionary) -> Grid:
        """The grid.

        Raises:
            ValueError: the layer has none.
        """
        if self.grid is None:
            raise ValueError(
                f"{type(dictionary).__name__} needs the coordinates of the layer's "
                f"{self.n_visible} inputs: pass grid=(rows, columns), or a Grid with channels"
            )
        return self.grid

    def require(self, dictionary: Dictionary, need: Need) -> Tensor:
        """A statistic of the layer's inputs, checked to be finite.

        Raises:
            ValueError: no inputs were given, or they hold NaN or infinite values.
        """
        value = None if self.statistics is None else getattr(self.statistics, need)
        name = type(dictionary).__name__
        if value is None and need == "weight":
            raise ValueError(
                f"{name} is made from a dense layer's weights: make the layer by compress, convert "
                "or from_dense, or pass statistics= with its weight"
            )
        if value is None:
            raise ValueError(
                f"{name} is made from data: pass inputs= (an iterable of example batches) to "
                "convert, or statistics= to the layer"
            )
        n_inputs = value.shape[0 if need == "weight" else -1]
        if n_inputs != self.n_visible:
            raise ValueError(
                f"{name}: the statistics are of {n_inputs} inputs, the layer has {self.n_visible}"
            )
        if not bool(value.isfinite().all()):
            raise ValueError(
                f"{name}: the layer's {'' if need == 'weight' else 'inputs have a '}{need} with "
                f"{int((~value.isfinite()).sum())} NaN or infinite values: clean them"
            )
        return value


@dataclass(frozen=True)
class Dictionary(ABC):
    """A recipe for static atoms. A new dictionary is one class with one method, :meth:`build`."""

    needs: ClassVar[tuple[Need, ...]] = ()
    """Statistics of the layer's inputs it is built from; none for analytic and random ones."""

    chooses: ClassVar[bool] = True
    """Whether a column may take any atoms of the base, those that suit trained weights best."""

    rebuildable: ClassVar[bool] = False
    """Whether base and mixing follow from grid and indices, so that no file need hold them."""

    @property
    def reads_weights(self) -> bool:
        """Whether V holds weights of the filters themselves, those at the chosen positions."""
        return False

    def __post_init__(self) -> None:
        """Refuse a field whose value is none of its choices."""
        check_choices(self)

    @abstractmethod
    def build(self, site: Site) -> Atoms:
        """Build the atoms in float64 on the CPU.

        Args:
            site: the layer's inputs, counts, statistics and generator.

        Raises:
            ValueError: the site lacks what this dictionary needs, or has too few atoms to give.
        """

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
            statistics: of the inputs, for data-driven dictionaries.
            seed: of every random draw; the same seed gives the same atoms anywhere.

        Raises:
            ValueError: counts below 1, a grid of another size, or what :meth:`build` raises.
        """
        if n_atoms < 1 or n_visible < 1 or columns < 1:
            raise ValueError(
                f"n_visible={n_visible}, n_atoms={n_atoms}, columns={columns}: each must be at "
                "least 1"
            )
        site = Site(
            n_visible=n_visible,
            n_atoms=n_atoms,
            columns=columns,
            grid=None if grid is None else Grid.of(grid).check(n_visible),
            statistics=statistics,
            generator=torch.Generator().manual_seed(seed),
        )
        with torch.device("cpu"):  # whatever the default device is
            return self.build(site)


def check_choices(configuration: object) -> None:
    """Refuse values that are none of the choices which a dataclass's ``Literal`` fields allow.

    Args:
        configuration: an instance of a dataclass.

    Raises:
        ValueError: naming the field, the value and the choices.
    """
    for name, hint in field_types(type(configuration)).items():
        choices = typing.get_args(hint)
        if typing.get_origin(hint) is not typing.Literal:
            continue
        value = getattr(configuration, name)
        if value not in choices:
            raise ValueError(
                f"{type(configuration).__name__}: {name} is {value!r}, none of "
                f"{', '.join(map(repr, choices))}"
            )


def check_fraction(fraction: float) -> None:
    """Refuse what is no share of the weights.

    Args:
        fraction: share of the weights that is learned.

    Raises:
        ValueError: it is no number in (0, 1].
    """
    if isinstance(fraction, bool) or not isinstance(fraction, numbers.Real):
        raise ValueError(f"fraction is {fraction!r}: it must be a number in (0, 1]")
    if not 0 < fraction <= 1:  # also refuses NaN
        raise ValueError(
            f"fraction is {fraction}: it is the share of the weights that is learned and must lie "
            "in (0, 1]"
        )


def count_atoms(fraction: float, n_visible: int) -> int:
    """n_atoms = round(fraction * n_visible).

    Args:
        fraction: share of the weights that is learned, in (0, 1].
        n_visible: number of inputs.

    Raises:
        ValueError: a fraction outside (0, 1], or so small that it leaves no atom.
    """
    check_fraction(fraction)
    n_atoms = round(fraction * n_visible)
    if n_atoms < 1:
        raise ValueError(
            f"fraction {fraction} of {n_visible} inputs is {fraction * n_visible:.2g} atoms, below "
            f"one atom: use a fraction of at least {math.ceil(1e4 / n_visible) / 1e4:g}, or leave "
            "the layer dense"
        )
    return n_atoms


def check_enough(dictionary: Dictionary, n_atoms: int, n_base: int) -> None:
    """Refuse more atoms than a base has.

    Raises:
        ValueError: n_atoms > n_base.
    """
    if n_atoms > n_base:
        raise ValueError(
            f"{type(dictionary).__name__} has {n_base} atoms, {n_atoms} were asked for: take a "
            "smaller fraction, or a dictionary with more features"
        )


def eigenvectors(K: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues and eigenvectors of a symmetric matrix, largest first, the same everywhere.

    Eigenvectors are determined up to sign, and within the space of equal eigenvalues (which a
    square grid always has) up to rotation; what ``eigh`` returns there depends on the number of
    threads. Here such a space's basis is the one that diagonalises a fixed matrix, and each vector
    has a positive product with a fixed one. (Its largest entry would not settle the sign: an
    antisymmetric vector has two, of either sign.)

    Args:
        K: (n, n) float64.

    Returns:
        (n,) eigenvalues, not below zero, and (n, n) eigenvectors as columns.
    """
    values, vectors = torch.linalg.eigh(K)
    values, vectors = values.flip(0).clamp_min(0), vectors.flip(1)
    # Equal up to rounding: relative to each other, and to what eigh resolves at all.
    closeness = 1e-8 * values[:-1] + 1e-14 * len(K) * values[0]
    starts = torch.cat([values.new_ones(1), (values[:-1] - values[1:] > closeness).double()])
    fixed = torch.sin(12.9898 * torch.arange(1, len(K) + 1, dtype=K.dtype)).unsqueeze(1)
    borders = [*starts.nonzero().flatten().tolist(), len(K)]
    for first, last in itertools.pairwise(borders):
        if last - first > 1:
            space = vectors[:, first:last]
            vectors[:, first:last] = (
                space @ torch.linalg.eigh(space.t() @ (fixed * space)).eigenvectors
            )
    return values, vectors * (fixed * vectors).sum(dim=0).sign()


def with_channels(grid: Grid, space: list[Tensor]) -> Base:
    """I_channels (x) F_1 (x) F_2 ...: every channel alike and apart."""
    return KroneckerBase([grid.channels, *space] if grid.channels > 1 else space)
