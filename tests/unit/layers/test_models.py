"""A whole model: that it can be copied, and that its weights are there, before it is changed."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import weightcast as wc

RULES = {"0": wc.Rule(wc.dictionaries.DCT(), 0.5), "*": None}


def test_a_copy_shares_nothing_that_is_kept():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    converted = wc.convert(model, RULES)
    assert not {id(p) for p in model.parameters()} & {id(p) for p in converted.parameters()}
    assert torch.equal(converted[1].weight, model[1].weight)


def test_a_model_that_torch_does_not_copy_is_told_which_tensor_is_computed():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    prune.l1_unstructured(model[1], "weight", 2)
    with pytest.raises(ValueError, match=r"because 'weight' of module '1' \(Linear\) is computed"):
        wc.convert(model, RULES)
    with torch.no_grad():
        model(torch.ones(1, 4))
    wc.convert(model, RULES)  # as the message says


@pytest.mark.parametrize("part", ["weight", "running_mean"])
def test_values_that_are_not_there_are_named(part):
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    if part == "weight":
        model[1].weight = nn.Parameter(model[1].weight.to("meta"))
    else:
        model[1].running_mean = torch.zeros(4, device="meta")
    with pytest.raises(ValueError, match=rf"'1\.{part}' is on the meta device and holds no values"):
        wc.compress(model, RULES)
