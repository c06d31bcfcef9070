"""One view of a layer, dense or predicted: filters, rows of inputs, grid, sizes, refusals."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import weightcast as wc
from weightcast.layers import view
from weightcast.layers.view import Refusal

RULE = wc.Rule(wc.dictionaries.RandomGaussian(), 0.5)
IMAGES = torch.randn(2, 4, 7, 6).double()
LAYERS = {
    "linear": (nn.Linear(6, 4, bias=False), torch.randn(3, 5, 6).double()),
    "convolution": (nn.Conv2d(4, 8, 3, padding=1, bias=False), IMAGES),
    "groups": (nn.Conv2d(4, 8, (3, 2), groups=2, stride=2, bias=False), IMAGES),
    "one axis": (nn.Conv1d(4, 5, 3, dilation=2, bias=False), torch.randn(2, 4, 9).double()),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("predicted", [False, True], ids=["dense", "predicted"])
def test_rows_times_filters_are_what_the_layer_computes(name, predicted):
    layer, x = LAYERS[name]
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
    assert view(LAYERS["groups"][0]).grid == wc.Grid((3, 2), 2)
    assert view(LAYERS["one axis"][0]).grid == wc.Grid((3,), 4)
    assert view(LAYERS["linear"][0]).grid is None


@pytest.mark.parametrize("name", LAYERS)
def test_work_is_counted_alike_before_and_after(name):
    layer = LAYERS[name][0]
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
