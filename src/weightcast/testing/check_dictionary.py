"""check_dictionary: what every dictionary must do, whatever its atoms."""

from __future__ import annotations

from collections.abc import Sequence

from weightcast.dictionaries import Dictionary, InputStatistics
from weightcast.grid import Grid
from weightcast.testing.check_atoms import ATOM_CHECKS, FULL_RANK, ORTHONORMAL
from weightcast.testing.check_build import BUILD_CHECKS
from weightcast.testing.check_use import USE_CHECKS
from weightcast.testing.check_value import VALUE_CHECKS
from weightcast.testing.require import run
from weightcast.testing.tried import TriedDictionary


def check_dictionary(
    dictionary: Dictionary,
    *,
    grid: Sequence[int] = (4, 6),
    statistics: InputStatistics | None = None,
    full_rank: bool = False,
    orthonormal: bool = False,
) -> None:
    """Check that a dictionary can be used wherever ours can.

    It is a frozen value; it builds finite, distinct atoms of the documented shapes from the
    generator and the statistics that it is given and nothing else, and leaves the latter as they
    are; columns differ; what it cannot do it refuses with a ValueError; a layer that is predicted
    from it learns, copies, pickles, saves and loads.

    Args:
        dictionary: an instance.
        grid: coordinates of the inputs that it is tried on; their number is its n_visible.
        statistics: of these inputs, for data-driven dictionaries; None takes those of correlated
            Gaussian rows.
        full_rank: check that all its atoms together span every filter.
        orthonormal: check that U_j^T U_j = I.

    Raises:
        AssertionError: naming the check that fails, the numbers, and what they should have been.
        ValueError: a class, or anything else that is no instance of ``Dictionary``.
    """
    if isinstance(dictionary, type):
        name = dictionary.__name__
        raise ValueError(f"dictionary is the class {name}: pass an instance, such as {name}()")
    if not isinstance(dictionary, Dictionary):
        raise ValueError(f"dictionary is {dictionary!r}, no Dictionary: derive its class from that")
    tried = TriedDictionary(dictionary, Grid.of(tuple(grid)), statistics)
    checks = VALUE_CHECKS | ATOM_CHECKS | BUILD_CHECKS | USE_CHECKS
    checks |= FULL_RANK if full_rank else {}
    checks |= ORTHONORMAL if orthonormal else {}
    run(f"check_dictionary({dictionary!r})", checks, tried)
