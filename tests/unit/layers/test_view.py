"""Views: one object that says what a layer is, and the one table that leads to it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import weightcast as wc
from weightcast import dictionaries as d
from weightcast.layers import PREDICTED, Refusal, View, find_view, view
from weightcast.testing.example_layers import example_layer

LAYERS = [kind for kind in PREDICTED if example_layer(kind) is not None]
RULE = wc.Rule(d.DCT(), 0.5)


def seen(kind):
    found = example_layer(kind)
    assert found is not None
    return view(found[0])


@pytest.mark.parametrize("kind", LAYERS)
def test_filters_lead_back_to_the_weight(kind):
    one = seen(kind)
    filters = one.filters()
    assert tuple(filters.shape) == one.sizes[::-1]
    assert torch.equal(one.to_weight(filters), one.weight)


@pytest.mark.parametrize("kind", LAYERS)
def test_a_predicted_layer_has_the_view_of_its_dense_one(kind):
    dense = seen(kind)
    predicted = view(dense.predict(RULE))
    assert type(predicted) is type(dense)
    assert predicted.counterpart is dense.counterpart is PREDICTED[kind]
    for name in ("sizes", "grid", "blindness", "dense_multiply_adds"):
        assert getattr(predicted, name) == getattr(dense, name), name
    assert predicted.arguments() == dense.arguments()


@pytest.mark.parametrize("kind", LAYERS)
def test_a_new_dense_layer_takes_the_state_of_the_old(kind):
    one = seen(kind)
    new = one.new_dense(torch.device("cpu"), torch.float64)
    assert type(new) is kind
    new.load_state_dict(one.layer.state_dict())
    assert {p.dtype for p in new.parameters()} == {torch.float64}


def test_a_layer_without_a_view():
    assert find_view(nn.ReLU()) is None
    with pytest.raises(ValueError, match="ReLU is no layer that can be predicted"):
        view(nn.ReLU())


def test_an_entry_of_the_table_counts_from_then_on(monkeypatch):
    class Doubling(nn.Linear):
        def forward(self, input):
            return 2 * super().forward(input)

    class DoublingView(View[Doubling]):
        size_arguments = ("in_features", "out_features")

    class PredictedDoubling(wc.PredictedLinear):
        dense_class, view_class = Doubling, DoublingView

        def forward(self, input):
            return 2 * super().forward(input)

    assert find_view(Doubling(6, 4)) is None
    monkeypatch.setitem(PREDICTED, Doubling, PredictedDoubling)
    model = wc.convert(nn.Sequential(Doubling(6, 4)), wc.Plan({"*": RULE}))
    assert type(model[0]) is PredictedDoubling
    x = torch.randn(3, 6)
    merged = wc.merge(model)
    assert type(merged[0]) is Doubling
    torch.testing.assert_close(merged(x), model(x))


def test_refusals_are_values_with_a_remedy():
    table = view(nn.Embedding(5, 4, sparse=True))
    assert table.refusal == Refusal(
        "Embedding has sparse=True, and V's gradient is dense", "set sparse=False first"
    )
    assert str(table.refusal).endswith("is dense: set sparse=False first")
    frozen = Refusal("is frozen", "thaw it", predicate=True)
    assert frozen.about("layer '0'") == "layer '0' is frozen: thaw it"
    assert Refusal("no").about("layer '0'") == "layer '0': no"


def test_a_rule_goes_in_the_place_of_its_parts():
    one = wc.PredictedLinear(12, 6, rule=RULE, seed=3)
    two = wc.PredictedLinear(12, 6, dictionary=d.DCT(), fraction=0.5, seed=3)
    assert one.rule is RULE
    assert torch.equal(one.weight, two.weight)
    with pytest.raises(ValueError, match="rule= is given, and fraction, columns beside it"):
        wc.PredictedLinear(12, 6, rule=RULE, fraction=0.5, columns=2)
    with pytest.raises(TypeError, match="fracton"):
        wc.PredictedLinear(12, 6, dictionary=d.DCT(), fracton=0.5)
