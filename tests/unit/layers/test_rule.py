"""Rule: what it refuses, and the atoms that it builds for a layer."""

from __future__ import annotations

import pytest
import torch

import weightcast as wc
from weightcast import dictionaries as d
from weightcast.layers.rule import layer_seed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dictionary": "DCT"}, "dictionary is 'DCT': take an instance of one of the classes in"),
        ({"fraction": 0}, r"fraction is 0: .* must lie in \(0, 1\]"),
        ({"columns": 0}, "columns is 0: it must be a whole number, at least 1"),
        ({"columns": 1.0}, "columns is 1.0: it must be a whole number"),
        ({"path": "fast"}, "path is 'fast', none of 'auto', 'factored', 'materialised'"),
        ({"grid": (0, 3)}, r"\(0, 3\)"),
    ],
)
def test_fields_that_are_none_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        wc.Rule(**{"dictionary": d.DCT(), "fraction": 0.5, **options})


def test_a_grid_is_a_grid_however_it_is_written():
    rules = {wc.Rule(d.DCT(), 0.5, grid=grid) for grid in ((3, 4), [3, 4], wc.Grid((3, 4)))}
    assert len(rules) == 1
    assert next(iter(rules)).grid == wc.Grid((3, 4))


def test_atoms_are_of_the_layers_sizes_and_the_rules_grid_comes_first():
    rule = wc.Rule(d.DCT("leading"), 0.25, columns=2, grid=(3, 4))
    atoms = rule.build(12, 5, grid=wc.Grid((12,)))
    assert atoms.indices.shape == (2, 3)
    expected = d.DCT("leading").atoms(12, 3, columns=2, grid=(3, 4))
    torch.testing.assert_close(atoms.dictionaries(), expected.dictionaries())
    own = wc.Rule(d.DCT("leading"), 0.25).build(12, 5, grid=wc.Grid((3, 4)))
    assert own.base.n_static == 9 + 16  # one factor per axis of the layer's own grid


def test_given_indices_are_taken_in_place_of_a_draw():
    rule = wc.Rule(d.RandomConnections(), 0.5, columns=2)
    indices = torch.tensor([[3, 1], [0, 2]])
    assert torch.equal(rule.build(4, 5, indices=indices).indices, indices)
    first, again = rule.build(4, 5), rule.build(4, 5)
    assert torch.equal(first.indices, again.indices)  # seed 0 where no generator is given
    moved = rule.build(40, 5, generator=torch.Generator().manual_seed(1))
    assert not torch.equal(moved.indices, rule.build(40, 5).indices)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((0, 5), "the layer has 0 inputs and 5 units: it needs at least 1 of each"),
        ((4, 1), "columns is 2 for 1 units: .* so columns must lie between 1 and 1"),
        ((1, 5), "fraction 0.25 of 1 inputs is 0.25 atoms, below one atom"),
    ],
)
def test_layers_that_the_rule_does_not_fit_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        wc.Rule(d.DCT(), 0.25, columns=2).build(*sizes)


def test_a_layers_seed_depends_on_its_name_and_the_seed_alone():
    seeds = {layer_seed(seed, name) for seed in (0, 1) for name in ("0", "1", "0.1")}
    assert len(seeds) == 6
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert layer_seed(0, "fc1") == 5701970117395358620  # saved models were drawn from these


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "fraction is None and n_atoms None: give one of the two"),
        ({"fraction": 0.5, "n_atoms": 3}, r"fraction is 0\.5 and n_atoms 3: give one of the two"),
        ({"n_atoms": 0}, "n_atoms is 0: it must be a whole number, at least 1"),
        ({"n_atoms": 2.0}, r"n_atoms is 2\.0: it must be a whole number"),
    ],
)
def test_a_size_is_a_fraction_or_a_number_of_atoms(options, message):
    with pytest.raises(ValueError, match=message):
        wc.Rule(d.DCT(), **options)


def test_a_number_of_atoms_is_the_same_for_every_width():
    rule = wc.Rule(d.DCT(), n_atoms=3, columns=2)
    assert [rule.atoms_for(n) for n in (3, 12, 100)] == [3, 3, 3]
    assert rule.build(12, 4).indices.shape == (2, 3)
    with pytest.raises(ValueError, match="n_atoms is 3, and the layer has 2 inputs: take at most"):
        rule.build(2, 4)
    layer = wc.PredictedLinear(12, 4, dictionary=d.DCT(), n_atoms=3)
    assert layer.V.shape == (3, 4)


def test_only_what_is_given_is_written():
    for given in ({"n_atoms": 3}, {"fraction": 0.5}):
        plan = wc.Plan({"*": wc.Rule(d.DCT(), columns=2, **given)})
        written = plan.to_dict()["rules"]["*"]
        assert {"fraction", "n_atoms"} & written.keys() == given.keys()
        assert wc.Plan.from_json(plan.to_json()) == plan
