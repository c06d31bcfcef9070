"""split: modules that read their weights themselves, made to borrow them of layers."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import weightcast as wc
from weightcast.layers import split_class, split_module, split_refusal

X = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0))
MODULES = {
    "attention": (
        nn.MultiheadAttention(8, 2, batch_first=True),
        (X, X, X),
        {"in_proj", "out_proj"},
    ),
    "LSTM": (nn.LSTM(8, 4, batch_first=True), (X,), {"ih_l0", "hh_l0"}),
    "GRU": (
        nn.GRU(8, 4, num_layers=2, batch_first=True),
        (X,),
        {"ih_l0", "hh_l0", "ih_l1", "hh_l1"},
    ),
}


@pytest.mark.parametrize("name", MODULES)
def test_a_split_module_computes_the_same_with_the_same_parameters(name):
    module, inputs, layers = MODULES[name]
    before = {key: id(p) for key, p in module.named_parameters()}
    split = split_module(module)
    assert split is not None
    assert set(split.layers()) == layers
    assert {id(p) for p in split.parameters()} == set(before.values())
    assert {key: id(p) for key, p in module.named_parameters()} == before
    torch.testing.assert_close(split(*inputs)[0], module(*inputs)[0])
    joined = split.join()
    assert type(joined) is type(module)
    assert {key: id(p) for key, p in joined.named_parameters()} == before


def test_what_reads_no_weights_or_is_split_already_is_not_split():
    module = MODULES["LSTM"][0]
    split = split_module(module)
    assert split is not None
    for other in (nn.Linear(3, 4), nn.Tanh(), split):
        assert split_class(other) is None
        assert split_module(other) is None
        assert split_refusal(other) is None


def test_a_subclass_is_not_split():
    class Own(nn.LSTM):
        pass

    assert split_class(Own(3, 4)) is None
    assert split_class(nn.LSTM(3, 4)) is wc.PredictedRecurrent
    assert split_class(nn.MultiheadAttention(4, 2)) is wc.PredictedMultiheadAttention


def test_weights_that_are_computed_or_read_by_another_forward_are_refused_with_a_remedy():
    pruned = nn.MultiheadAttention(4, 2)
    prune.identity(pruned, "in_proj_weight")
    replaced = nn.GRU(3, 4)
    replaced.forward = lambda x: x  # pyright: ignore[reportAttributeAccessIssue]
    for module, message in (
        (pruned, "its in_proj_weight is no plain parameter .*: remove that first"),
        (replaced, "has a forward of its own .*: delete that attribute first, or leave the module"),
    ):
        assert split_module(module) is None
        assert re.search(message, str(split_refusal(module)))
