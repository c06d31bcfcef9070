"""Recipes: dictionaries by a short name, and the plan that they make of a case."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from weightcast.dictionaries import (
    DCT,
    Covariance,
    Dictionary,
    Kernel,
    LocalKernel,
    RandomConnections,
    RandomGaussian,
    count_atoms,
)
from weightcast.grid import Grid
from weightcast.kernels import SquaredExponential
from weightcast.layers.rule import Rule
from weightcast.plan.plan import Plan
from weightcast.serialization import nearest
from weightcast.weight import ExecutionPath
from weightcast_lab.bench.cases import Case


@dataclass(frozen=True)
class Recipe:
    """Dictionaries for the layers of one network.

    Args:
        on_grid: of layers whose inputs have coordinates.
        elsewhere: of the others.
        needs_grid: whether at least one layer's inputs must have coordinates.
        folded: lay inputs without coordinates out on the squarest grid.
    """

    on_grid: Dictionary
    elsewhere: Dictionary
    needs_grid: bool = False
    folded: bool = False


@cache
def recipes() -> Mapping[str, Recipe]:
    """All recipes by name.

    ``se`` is the separable squared exponential kernel, ``local`` the same through a window of each
    column's own; inputs without coordinates then get grouped connections. ``dct-folded`` gives them
    coordinates on the squarest grid, which makes the transform separable. ``covariance`` is the
    paper's pair, the kernel below and the covariance above; a single layer gets the covariance.
    """
    kernel = Kernel(SquaredExponential(2.0))
    local = LocalKernel(SquaredExponential(3.0), window=1.5)
    grouped = RandomConnections("grouped")
    return {
        "se": Recipe(kernel, grouped, needs_grid=True),
        "local": Recipe(local, grouped, needs_grid=True),
        "dct": Recipe(DCT(), DCT()),
        "dct-folded": Recipe(DCT(), DCT(), folded=True),
        "grouped": Recipe(grouped, grouped),
        "gaussian": Recipe(RandomGaussian(), RandomGaussian()),
        "covariance": Recipe(kernel, Covariance()),
    }


def find_recipe(name: str) -> Recipe:
    """The recipe of this name.

    Raises:
        ValueError: there is none; the message has the nearest one.
    """
    known = recipes()
    if name not in known:
        raise ValueError(
            f"there is no dictionary {name!r}{nearest(name, known)}; known: {', '.join(known)}"
        )
    return known[name]


def make_plan(
    case: Case, recipe: str, fraction: float, columns: int, path: ExecutionPath = "auto"
) -> Plan:
    """The plan that predicts a case's layers.

    Args:
        case: the network.
        recipe: name of the dictionaries.
        fraction: share of each layer's weights that is learned.
        columns: groups of units with atoms of their own.
        path: how to compute x W.

    Raises:
        ValueError: what :func:`check` refuses.
    """
    check(case, recipe, fraction, columns)
    found, single, shapes = find_recipe(recipe), len(case.grids) == 1, case.shapes()

    def make_rule(name: str, grid: Grid | None) -> Rule:
        data_driven = single and bool(found.elsewhere.needs)
        dictionary = found.elsewhere if grid is None or data_driven else found.on_grid
        if grid is None and found.folded:
            grid = Grid.squarest(shapes[name][0])
        return Rule(dictionary, fraction, columns, grid, path)

    return Plan({name: make_rule(name, grid) for name, grid in case.grids.items()})


def check(case: Case, recipe: str, fraction: float, columns: int) -> None:
    """Refuse what cannot be built, before anything is measured.

    Raises:
        ValueError: an unknown recipe, one that needs coordinates which the inputs lack, a fraction
            of less than one atom, more columns than units.
    """
    found = find_recipe(recipe)
    if found.needs_grid and not any(case.grids.values()):
        offered = ", ".join(name for name, other in recipes().items() if not other.needs_grid)
        raise ValueError(
            f"{recipe} needs inputs with coordinates, and those of {case.name} have none: take "
            f"one of {offered}"
        )
    for n_visible, n_units in case.shapes().values():
        count_atoms(fraction, n_visible)
        if not 1 <= columns <= n_units:
            raise ValueError(
                f"columns is {columns} for the {n_units} units of {case.name}: it must lie between "
                f"1 and {n_units}"
            )
