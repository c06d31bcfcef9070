"""Fraction: the share of a layer's weights that is learned, and the atoms that it makes."""

from __future__ import annotations

import math
import numbers

from weightcast.serialization import plain


def check_fraction(fraction: float) -> None:
    """Refuse, by a ValueError, what is no number in (0, 1].

    Args:
        fraction: share of the weights that is learned.
    """
    fraction = plain(fraction)
    if isinstance(fraction, bool) or not isinstance(fraction, numbers.Real):
        raise ValueError(f"fraction is {fraction!r}: it must be a number in (0, 1]")
    if not 0 < fraction <= 1:  # also refuses NaN
        raise ValueError(
            f"fraction is {fraction}: it is the share of the weights that is learned and must lie "
            "in (0, 1]"
        )


def count_atoms(fraction: float, n_visible: int) -> int:
    """n_atoms = round(fraction * n_visible), or a ValueError where that is less than one atom.

    Args:
        fraction: share of the weights that is learned, in (0, 1].
        n_visible: number of inputs.
    """
    check_fraction(fraction)
    fraction = float(fraction)
    n_atoms = round(fraction * n_visible)
    if n_atoms < 1:
        raise ValueError(
            f"fraction {fraction} of {n_visible} inputs is {fraction * n_visible:.2g} atoms, below "
            f"one atom: use a fraction of at least {math.ceil(1e4 / n_visible) / 1e4:g}, or leave "
            "the layer dense"
        )
    return n_atoms
