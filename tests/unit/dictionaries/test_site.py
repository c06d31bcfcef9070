"""site: what a dictionary may know of a layer, and what it is told where it may not."""

from __future__ import annotations

import pytest
import torch

import weightcast as wc
from weightcast import dictionaries as d

W = torch.arange(12.0, dtype=torch.float64).view(6, 2)


def test_the_weight_is_a_layers_or_the_statistics_own():
    other = d.InputStatistics(0, weight=-W)
    assert d.Site(6, 2, weight=W).require_weight(d.SingularVectors()) is W
    assert torch.equal(d.Site(6, 2, weight=W, statistics=other).require_weight(object()), -W)
    assert torch.equal(d.Site(6, 2, statistics=other).require_weight(object()), -W)


def test_no_weight_is_refused_with_the_ways_to_have_one():
    with pytest.raises(ValueError, match=r"SingularVectors is made from a dense layer's weights"):
        d.SingularVectors().atoms(6, 2)
    with pytest.raises(ValueError, match=r"statistics are of 6 inputs, the layer has 7"):
        d.SingularVectors().build(d.Site(7, 2, weight=W))
    broken = W.clone()
    broken[1, 1] = torch.inf
    with pytest.raises(ValueError, match=r"the layer's weight with 1 NaN or infinite values"):
        d.SingularVectors().build(d.Site(6, 2, weight=broken))


def test_a_rule_passes_the_weight_on():
    rule = wc.Rule(d.SingularVectors(), 1 / 3)
    built = rule.build(6, 2, weight=W).dictionary(0)
    layer = wc.PredictedLinear.from_dense(_linear(W.t()), rule)
    torch.testing.assert_close(layer.atoms.dictionary(0), built)
    torch.testing.assert_close(built @ (built.t() @ W), W)


def _linear(weight: torch.Tensor) -> torch.nn.Linear:
    linear = torch.nn.Linear(weight.shape[1], weight.shape[0], dtype=torch.float64)
    linear.weight.data.copy_(weight)
    return linear


def test_given_indices_are_not_drawn_again():
    indices = torch.tensor([[1, 0]])
    assert d.Site(6, 2, indices=indices).choose(lambda: indices + 1) is indices
    assert torch.equal(d.Site(6, 2).choose(lambda: indices + 1), indices + 1)


def test_equal_layers_share_a_base():
    bases = d.SharedBases()
    one = d.Site(6, 2, bases=bases).shared_base("key", lambda: d.IdentityBase(6))
    assert d.Site(6, 3, bases=bases).shared_base("key", lambda: d.IdentityBase(6)) is one
    assert bases.place(one, one, "cpu") is bases.place(one, d.IdentityBase(6), "cpu")
    stranger = d.IdentityBase(6)
    assert bases.place(d.IdentityBase(6), stranger, "cpu") is stranger
