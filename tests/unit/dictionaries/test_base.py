"""Dictionary: what every recipe is refused for, and how its atoms are built outside a layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pytest
import torch

from weightcast import dictionaries as d


@dataclass(frozen=True)
class Sided(d.Dictionary):
    """The first atoms of the identity, or the last; it keeps the site that it was given."""

    side: Literal["left", "right"] = "left"

    def build(self, site):
        indices = torch.arange(site.n_atoms).expand(site.columns, -1)
        object.__setattr__(self, "site", site)
        return d.Atoms(d.IdentityBase(site.n_visible), site.choose(lambda: indices))


def test_a_value_that_is_none_of_the_choices_is_refused():
    with pytest.raises(ValueError, match="Sided: side is 'top', none of 'left', 'right'"):
        Sided("top")  # pyright: ignore[reportArgumentType]


def test_atoms_are_built_for_a_site_with_what_is_given():
    dictionary, statistics = Sided(), d.InputStatistics(3)
    atoms = dictionary.atoms(6, 2, columns=3, grid=(2, 3), statistics=statistics, seed=4)
    assert atoms.indices.tolist() == [[0, 1]] * 3
    site = dictionary.site  # pyright: ignore[reportAttributeAccessIssue]
    assert (site.n_visible, site.n_atoms, site.columns) == (6, 2, 3)
    assert site.grid.shape == (2, 3)
    assert site.statistics is statistics
    assert site.generator.initial_seed() == 4


def test_atoms_are_built_on_the_cpu_whatever_the_default_device():
    with torch.device("meta"):
        assert Sided().atoms(6, 2).indices.device.type == "cpu"


@pytest.mark.parametrize("counts", [(0, 2, 1), (6, 0, 1), (6, 2, 0)])
def test_counts_below_one_are_named(counts):
    n_visible, n_atoms, columns = counts
    message = f"n_visible={n_visible}, n_atoms={n_atoms}, columns={columns}: each must be at least"
    with pytest.raises(ValueError, match=message):
        Sided().atoms(n_visible, n_atoms, columns=columns)


def test_a_recipe_says_what_it_is_by_default():
    dictionary = Sided()
    assert dictionary.needs == ()
    assert not dictionary.reads_weights
    assert not dictionary.rebuildable
    assert dictionary.chooses
