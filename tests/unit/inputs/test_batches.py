"""Example inputs in the forms that people have, and a model called with one of them."""

from __future__ import annotations

from collections import UserDict

import pytest
import torch
from torch import nn

from weightcast.inputs.batches import as_batches, call, check_finite

X, Y = torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])


def test_one_tensor_or_mapping_is_one_batch_and_anything_else_is_many():
    assert as_batches(X)[0] is X
    assert len(as_batches(X)) == 1
    assert as_batches({"x": X}) == [{"x": X}]
    assert as_batches(UserDict(x=X)) == [UserDict(x=X)]  # as a tokenizer's BatchEncoding is
    assert len(as_batches([X, X])) == len(as_batches(iter((X, X)))) == 2
    assert len(as_batches([(X, Y)])) == 1
    assert len(as_batches(torch.utils.data.DataLoader(torch.zeros(6, 2), batch_size=2))) == 3


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((X, Y), r"one pair of shapes \(6, 4\) and \(6,\), which looks like one \(input, target\)"),
        (3, "inputs is 3: pass a batch of example inputs, a tensor, or a list of batches"),
        ([], "inputs is empty: pass at least one batch"),
    ],
)
def test_what_is_no_list_of_batches_is_refused(inputs, message):
    with pytest.raises(ValueError, match=message):
        as_batches(inputs)


def test_two_batches_in_a_tuple_are_no_pair():
    assert len(as_batches((X, X[:3]))) == 2


class Keyed(nn.Module):
    def forward(self, x, scale=1.0):
        return x.mul_(scale)


@pytest.mark.parametrize("batch", [X, (X, Y), [X, Y, "name"], {"x": X, "scale": 3.0}])
def test_a_model_gets_its_inputs_and_may_change_its_copy(batch):
    before = X.clone()
    expected = 3 * X if isinstance(batch, dict) else X
    torch.testing.assert_close(call(Keyed(), batch), expected)
    assert torch.equal(X, before)


def test_a_tensor_that_is_given_twice_stays_one():
    class Same(nn.Module):
        def forward(self, inputs):
            return inputs["a"] is inputs["b"][0]

    assert call(Same(), ({"a": X, "b": [X]}, Y))


def test_a_failure_names_the_innermost_module_and_the_shapes():
    model = nn.Sequential(nn.Linear(4, 3), nn.Sequential(nn.Linear(5, 2)))
    with pytest.raises(
        ValueError, match=r"failed on its inputs \(6, 4\), in module '1.0' \(Linear\)"
    ):
        call(model, X)
    with pytest.raises(
        ValueError, match=r"inputs x \(6, 4\), y of type int, in Keyed.forward: Type"
    ):
        call(Keyed(), {"x": X, "y": 3})


def test_numbers_that_are_not_finite_are_counted():
    assert check_finite(X) is X
    bad = X.clone()
    bad[0, :2] = torch.tensor([float("nan"), float("inf")])
    with pytest.raises(ValueError, match="2 of 24 input values are NaN or infinite: clean the inp"):
        check_finite(bad)
