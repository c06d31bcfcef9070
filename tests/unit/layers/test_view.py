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


def test_atoms_that_see_nothing_have_a_gain_of_nothing():
    """A variance that rounding has put below zero is no reason for a rate of NaN."""
    atoms = d.DCT().atoms(4, 2, grid=4)
    rounding = -1e-9 * torch.eye(4, dtype=torch.float64)
    assert view(nn.Linear(4, 3)).gain(atoms, rounding) == 0


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
    with pytest.raises(TypeError, match="PredictedLinear needs dictionary= and fraction="):
        wc.PredictedLinear(12, 6)


IMAGES = torch.randn(2, 4, 7, 6).double()
SHAPES = {
    "linear": (nn.Linear(6, 4, bias=False), torch.randn(3, 5, 6).double()),
    "convolution": (nn.Conv2d(4, 8, 3, padding=1, bias=False), IMAGES),
    "groups": (nn.Conv2d(4, 8, (3, 2), groups=2, stride=2, bias=False), IMAGES),
    "one axis": (nn.Conv1d(4, 5, 3, dilation=2, bias=False), torch.randn(2, 4, 9).double()),
}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("predicted", [False, True], ids=["dense", "predicted"])
def test_rows_times_filters_are_what_the_layer_computes(name, predicted):
    layer, x = SHAPES[name]
    layer = layer.double()
    if predicted:
        layer = view(layer).predict(RULE)
    seen, y = view(layer), layer(x)
    filters = seen.filters()
    n_visible, n_units = seen.sizes
    assert filters.shape == (n_units, n_visible)
    assert seen.input_rows(x).shape[1] == n_visible
    expected = y.movedim(-1 if name == "linear" else 1, -1).reshape(-1, n_units)
    groups = getattr(layer, "groups", 1)
    rows = seen.input_rows(x, side_by_side=True).unflatten(1, (groups, n_visible))
    found = torch.cat(
        [rows[:, g] @ part.t() for g, part in enumerate(filters.chunk(groups))], dim=1
    )
    torch.testing.assert_close(found, expected)


def test_a_convolution_knows_its_grid_and_a_linear_layer_none():
    assert view(SHAPES["groups"][0]).grid == wc.Grid((3, 2), 2)
    assert view(SHAPES["one axis"][0]).grid == wc.Grid((3,), 4)
    assert view(SHAPES["linear"][0]).grid is None


@pytest.mark.parametrize("name", SHAPES)
def test_work_is_counted_alike_before_and_after(name):
    layer = SHAPES[name][0]
    expected = layer.weight.numel()
    assert view(layer).dense_multiply_adds == expected
    assert view(view(layer).predict(RULE)).dense_multiply_adds == expected


def test_weights_laid_out_alike_are_read_alike():
    layer = nn.Conv2d(2, 3, 2)
    other = torch.arange(24.0).view(3, 2, 2, 2)
    assert torch.equal(view(layer).filters(other), other.flatten(1))


def test_a_table_is_blind_and_layers_that_multiply_are_not():
    assert view(nn.Embedding(9, 4)).blindness is not None
    assert view(nn.Linear(6, 4)).blindness is None
    with pytest.raises(ValueError, match="multiplies no inputs"):
        view(nn.Embedding(9, 4)).input_rows(torch.tensor([1]))


def test_a_refusal_is_a_value_that_can_be_said_of_a_layer():
    frozen = Refusal("is frozen", "call requires_grad_(True)", predicate=True)
    assert str(frozen) == "is frozen: call requires_grad_(True)"
    assert frozen.about("layer '0'") == "layer '0' is frozen: call requires_grad_(True)"
    assert Refusal("its weight is int8").about("layer '0'") == "layer '0': its weight is int8"
    assert frozen == Refusal("is frozen", "call requires_grad_(True)", predicate=True)
