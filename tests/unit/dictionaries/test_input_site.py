"""Site: what a dictionary may ask of a layer's inputs, and the bases that layers share."""

from __future__ import annotations

import pytest
import torch

import weightcast as wc
from weightcast import dictionaries as d

DICTIONARY = d.Covariance()


def test_given_indices_are_chosen_and_nothing_is_drawn():
    given = torch.tensor([[3, 1]])
    site = d.Site(6, 2, indices=given)
    assert site.choose(lambda: pytest.fail("it draws")) is given
    assert d.Site(6, 2).choose(lambda: given) is given


def test_every_site_has_a_generator_and_bases_of_its_own():
    one, two = d.Site(6, 2), d.Site(6, 2)
    assert one.generator is not two.generator
    assert one.generator.initial_seed() == two.generator.initial_seed() == 0
    assert one.bases is not two.bases


def test_a_statistic_is_given_as_it_is_or_asked_for():
    C = torch.eye(6).double()
    site = d.Site(6, 2, statistics=d.InputStatistics(9, covariance=C))
    assert site.require(DICTIONARY, "covariance") is C
    for lacking in (site, d.Site(6, 2)):
        with pytest.raises(ValueError, match="Covariance is made from data: pass inputs="):
            lacking.require(DICTIONARY, "sample")


def test_a_statistic_of_other_inputs_or_of_none_is_refused():
    C = torch.eye(6).double()
    with pytest.raises(ValueError, match="the statistics are of 6 inputs, the layer has 7"):
        d.Site(7, 2, statistics=d.InputStatistics(9, covariance=C)).require(
            DICTIONARY, "covariance"
        )
    C[0, 1] = C[1, 0] = float("inf")
    with pytest.raises(ValueError, match="inputs have a covariance with 2 NaN or infinite values"):
        d.Site(6, 2, statistics=d.InputStatistics(9, covariance=C)).require(
            DICTIONARY, "covariance"
        )


def test_a_grid_is_asked_for():
    with pytest.raises(
        ValueError, match="Covariance needs the coordinates of the layer's 6 inputs"
    ):
        d.Site(6, 2).require_grid(DICTIONARY)


def test_a_shared_base_is_built_once_and_held_once_for_each_dtype():
    bases, made = d.SharedBases(), []

    def make() -> d.Base:
        made.append(d.DenseBase(torch.eye(3).double()))
        return made[-1]

    base = bases.original("key", make)
    assert bases.original("key", make) is base
    assert bases.original("other", make) is not base
    assert len(made) == 2
    single, again, double = (d.DenseBase(torch.eye(3)) for _ in range(3))
    assert bases.place(base, single, torch.float32) is single
    assert bases.place(base, again, torch.float32) is single
    assert bases.place(base, double, torch.float64) is double
    stranger = d.DenseBase(torch.eye(3))
    assert bases.place(stranger, again, torch.float32) is again
    assert bases.place(stranger, double, torch.float32) is double  # it is not shared


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
