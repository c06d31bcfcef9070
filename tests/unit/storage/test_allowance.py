"""What a folder's dictionaries may take to build again."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import weightcast as wc
from weightcast.dictionaries.work import NUMBER
from weightcast.storage.allowance import (
    ALLOWED,
    ALLOWED_PER_WEIGHT,
    Allowance,
    building,
    check_width,
)


def test_a_model_may_take_more_the_more_weights_it_has():
    allowance = Allowance(nn.Linear(3, 2), trusted=False)
    assert allowance.most == ALLOWED + ALLOWED_PER_WEIGHT * (3 * 2 + 2)


def test_all_layers_share_one_allowance():
    allowance = Allowance(nn.Linear(3, 2), trusted=False)
    half = int(allowance.most) // 2
    allowance.spend(half, "0")
    allowance.spend(half, "2")
    with pytest.raises(wc.FormatError, match=r"layer '4' takes about 1\.0e\+00.*trusted=True"):
        allowance.spend(1, "4")


def test_a_trusted_folder_may_take_anything():
    Allowance(nn.Linear(3, 2), trusted=True).spend(2**80, "0")


def test_building_counts_the_dictionary_and_its_fingerprint():
    indices = torch.arange(6).view(2, 3)
    grid = wc.Grid((3, 4))
    dct = wc.dictionaries.DCT()
    work = dct.work(wc.dictionaries.Site(12, 3, 2, grid, indices=indices))
    assert work > 0
    assert building(wc.Rule(dct, 0.25), grid, 12, indices) == work + 4 * (6 + 12) * NUMBER


def test_building_refuses_a_grid_of_another_size():
    indices = torch.arange(6).view(2, 3)
    with pytest.raises(ValueError, match=r"grid \(3, 3\).*has 9 inputs, the layer has 12"):
        building(wc.Rule(wc.dictionaries.DCT(), 0.25), wc.Grid((3, 3)), 12, indices)


def test_a_base_has_at_most_the_atoms_that_its_columns_can_use():
    base = wc.dictionaries.KroneckerBase([torch.eye(2, 8).double(), torch.eye(3, 9).double()])
    check_width(base, 6, "0")  # 72 atoms of 6 inputs, 2 * 6 * 6 allowed
    with pytest.raises(wc.FormatError, match=r"layer '0' has 7\.2e\+01 atoms.*need 60 at most"):
        check_width(base, 5, "0")
