"""The share of a layer's weights that is learned, and the atoms that it makes."""

from __future__ import annotations

import pytest

from weightcast.dictionaries import check_fraction, count_atoms


@pytest.mark.parametrize(
    ("fraction", "n_visible", "n_atoms"),
    [(0.05, 784, 39), (1, 7, 7), (0.5, 1, None), (0.5, 3, 2), (0.001, 784, 1), (0.6, 1, 1)],
)
def test_atoms_are_the_rounded_share_of_the_inputs(fraction, n_visible, n_atoms):
    if n_atoms is None:  # half of one rounds to none
        with pytest.raises(ValueError, match=r"fraction 0\.5 of 1 inputs is 0\.5 atoms, below one"):
            count_atoms(fraction, n_visible)
    else:
        assert count_atoms(fraction, n_visible) == n_atoms


def test_too_small_a_share_is_told_the_least():
    with pytest.raises(
        ValueError, match=r"fraction 0\.0001 of 784 .* fraction of at least 0\.0013"
    ):
        count_atoms(1e-4, 784)
    assert count_atoms(0.0013, 784) == 1


@pytest.mark.parametrize("fraction", [0, -0.1, 1.01, float("nan"), float("inf")])
def test_shares_outside_their_range_are_refused(fraction):
    with pytest.raises(ValueError, match=rf"fraction is {fraction}: .* must lie in \(0, 1\]"):
        check_fraction(fraction)


@pytest.mark.parametrize("fraction", [True, "0.5", None, 1j])
def test_what_is_no_number_is_refused(fraction):
    with pytest.raises(ValueError, match=r"it must be a number in \(0, 1\]"):
        check_fraction(fraction)
