"""Which predicted layer stands in for which dense one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import weightcast as wc
from weightcast.layers import (
    PREDICTED,
    PredictedTransposedLinear,
    find_view,
    predicted_layers,
    view,
)

RULE = wc.Rule(wc.dictionaries.DCT(), 0.5)


@pytest.mark.parametrize("dense_class", PREDICTED, ids=lambda kind: kind.__name__)
def test_every_predicted_class_names_its_dense_one(dense_class):
    assert PREDICTED[dense_class].dense_class is dense_class
    assert issubclass(PREDICTED[dense_class], wc.PredictedLayer)


def test_a_layer_dense_or_predicted_has_the_view_of_its_counterpart():
    dense = nn.Linear(6, 4)
    predicted = wc.PredictedLinear.from_dense(dense, RULE)
    for layer in (dense, predicted):
        assert view(layer).counterpart is wc.PredictedLinear


def test_a_subclass_computes_what_is_not_known():
    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    for layer in (Doubled(6, 4), nn.Tanh()):
        assert find_view(layer) is None
        with pytest.raises(ValueError, match=r"(Doubled|Tanh) is no layer that can be predicted"):
            view(layer)


def test_gpt2s_layer_that_holds_its_weight_the_other_way_round_has_one():
    conv1d = pytest.importorskip("transformers.pytorch_utils").Conv1D
    layer = conv1d(4, 6)
    assert view(layer).counterpart is PredictedTransposedLinear
    assert view(layer).sizes == (6, 4)
    torch.testing.assert_close(view(layer).filters(), layer.weight.t())


def test_predicted_layers_are_listed_once_by_their_first_name():
    shared = nn.Linear(6, 6)
    model = nn.ModuleDict({"a": shared, "b": nn.Sequential(shared, nn.Linear(6, 2))})
    assert predicted_layers(model) == {}
    found = predicted_layers(wc.convert(model, {"a": RULE, "b.1": RULE}))
    assert list(found) == ["a", "b.1"]
