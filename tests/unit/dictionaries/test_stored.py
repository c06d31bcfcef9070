"""StoredAtoms: stands for a dictionary without a text form, and cannot build."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import weightcast as wc
from weightcast import dictionaries as d
from weightcast.testing import example_rows


def test_it_refuses_to_build_and_says_where_atoms_come_from():
    with pytest.raises(ValueError, match=r"this layer \(6 inputs\) came from a saved model whose"):
        d.StoredAtoms().atoms(6, 2)


def test_a_saved_layer_has_its_atoms_in_place_of_an_estimator(tmp_path):
    from sklearn.decomposition import PCA

    estimator = d.FromEstimator(PCA(4).fit(example_rows(6)))
    dense = nn.Sequential(nn.Linear(6, 5))
    model = wc.convert(dense, {"0": wc.Rule(estimator, 0.5)})
    wc.save(model, tmp_path / "model")
    loaded = wc.load(tmp_path / "model", dense)
    assert loaded[0].rule.dictionary == d.StoredAtoms()
    x = torch.randn(3, 6)
    torch.testing.assert_close(loaded(x), model(x))
