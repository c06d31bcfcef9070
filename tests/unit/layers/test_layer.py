"""Layers: arguments, refusals and torch's surroundings (the rest is the contract)."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import weightcast as wc
from weightcast import dictionaries as d
from weightcast.dictionaries.constants import named_constants
from weightcast.layers import view

LINEAR = {"in_features": 12, "out_features": 6}
CONV = {"in_channels": 2, "out_channels": 6, "kernel_size": (2, 3)}


def _layers(**options):
    options = {"dictionary": d.DCT(), "fraction": 0.5, **options}
    yield lambda: wc.PredictedLinear(**LINEAR, **options)
    yield lambda: wc.PredictedConv2d(**CONV, **options)


@pytest.mark.parametrize("fraction", [0, -0.1, 1.01, float("nan"), float("inf")])
def test_fractions_outside_the_interval_are_refused(fraction):
    for make in _layers(fraction=fraction):
        with pytest.raises(ValueError, match=rf"fraction is {fraction}: .*\(0, 1\]"):
            make()


def test_less_than_one_atom_is_refused_with_the_least_fraction():
    for make in _layers(fraction=0.01):
        message = r"0.01 of 12 inputs is 0.12 atoms, below one atom.*at least 0.0834"
        with pytest.raises(ValueError, match=message):
            make()
    wc.PredictedLinear(**LINEAR, dictionary=d.DCT(), fraction=0.0834)


def test_more_columns_than_units_are_refused():
    for make in _layers(columns=7):
        with pytest.raises(ValueError, match=r"columns is 7 for 6 units.*between 1 and 6"):
            make()
    for make in _layers(columns=0):
        with pytest.raises(ValueError, match=r"columns is 0"):
            make()


@pytest.mark.parametrize("columns", [2.5, 2.0, "2", True, None])
def test_columns_are_counted(columns):
    for make in _layers(columns=columns):
        if columns is True:
            continue
        with pytest.raises(ValueError, match="columns"):
            make()


@pytest.mark.parametrize("fraction", ["0.5", None])
def test_a_fraction_is_a_number(fraction):
    for make in _layers(fraction=fraction):
        with pytest.raises(ValueError, match="fraction"):
            make()


def test_grids_must_match():
    for make in _layers(grid=(3, 5)):
        with pytest.raises(ValueError, match=r"grid \(3, 5\).*has 15 inputs, the layer has 12"):
            make()


@pytest.mark.parametrize("dictionary", [d.DCT, "DCT", None, {"kind": "DCT"}])
def test_a_dictionary_is_an_instance(dictionary):
    for make in _layers(dictionary=dictionary):
        with pytest.raises(ValueError, match="take an instance of one of the classes"):
            make()


def test_an_unknown_path_is_refused():
    for make in _layers(path="fastest"):
        with pytest.raises(ValueError, match="path is 'fastest'"):
            make()


def test_torchs_own_arguments_come_first():
    conv = wc.PredictedConv2d(
        4, 8, 3, 2, 1, 1, 2, False, "reflect", dictionary=d.DCT(), fraction=0.5
    )
    dense = nn.Conv2d(4, 8, 3, 2, 1, 1, 2, False, "reflect")
    for name in ("stride", "padding", "dilation", "groups", "padding_mode", "kernel_size"):
        assert getattr(conv, name) == getattr(dense, name)
    assert conv.bias is None
    linear = wc.PredictedLinear(12, 6, False, dictionary=d.DCT(), fraction=0.5)
    assert linear.bias is None
    assert (linear.in_features, linear.out_features) == (12, 6)


def test_a_convolution_knows_its_grid_and_takes_another():
    conv = wc.PredictedConv2d(**CONV, dictionary=d.Kernel(), fraction=0.5)
    assert conv.atoms.base.sizes_in == [2, 2, 3]
    line = wc.PredictedConv2d(**CONV, dictionary=d.Kernel(), fraction=0.5, grid=12)
    assert line.atoms.base.sizes_in == [12]


def test_torchs_errors_stay_torchs():
    with pytest.raises(ValueError, match="divisible by groups"):
        wc.PredictedConv2d(3, 4, 3, groups=2, dictionary=d.DCT(), fraction=0.5)
    with pytest.raises(ValueError, match="padding"):
        wc.PredictedConv2d(2, 4, 3, stride=2, padding="same", dictionary=d.DCT(), fraction=0.5)


@pytest.mark.usefixtures("unmoved_randomness")
def test_constructing_leaves_the_global_random_state_alone():
    for make in _layers():
        make()


def test_the_bias_is_drawn_as_torch_draws_it_and_kept_from_a_dense_layer():
    layer = wc.PredictedLinear(100, 3000, dictionary=d.RandomConnections(), fraction=0.1)
    assert float(layer.bias.detach().abs().max()) <= 0.1
    assert float(layer.bias.detach().std()) == pytest.approx(0.1 / 3**0.5, rel=0.05)
    dense = nn.Linear(12, 6)
    predicted = wc.PredictedLinear.from_dense(dense, wc.Rule(d.DCT(), 0.5))
    assert torch.equal(predicted.bias, dense.bias)
    predicted.bias.data.zero_()
    assert float(dense.bias.detach().abs().sum()) > 0


def test_training_moves_the_network():
    torch.manual_seed(0)
    x = torch.randn(64, 12)
    y = (x @ torch.randn(12, 1)).sign()
    layer = wc.PredictedLinear(12, 16, dictionary=d.DCT(), fraction=0.5, columns=4)
    model = nn.Sequential(layer, nn.Tanh(), nn.Linear(16, 1))
    static = {name: constant.clone() for name, constant in named_constants(layer)}
    assert static
    optimiser = torch.optim.Adam(model.parameters(), 0.02)
    losses = []
    for _ in range(150):
        loss = (model(x) - y).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.2 * losses[0]
    for name, constant in named_constants(layer):
        assert torch.equal(constant, static[name])


def test_a_frozen_bias_stays_frozen_both_ways():
    dense = nn.Linear(12, 6)
    dense.bias.requires_grad_(False)
    predicted = wc.PredictedLinear.from_dense(dense, wc.Rule(d.DCT(), 0.5))
    assert not predicted.bias.requires_grad
    assert not predicted.to_dense().bias.requires_grad


def test_remaking_a_layer_is_converting_it_anew_but_for_its_bias():
    statistics = d.InputStatistics(9, covariance=torch.diag(torch.arange(1.0, 13.0).double()))
    rule = wc.Rule(d.Covariance(selection="pivoted", mixing="raw"), 0.5, columns=2)
    old = d.InputStatistics(9, covariance=torch.eye(12).double())
    dense = nn.Conv2d(2, 6, (2, 3))
    layer = wc.PredictedConv2d.from_dense(dense, rule, seed=1, statistics=old)
    expected = wc.PredictedConv2d.from_dense(dense, rule, seed=2, statistics=statistics)
    V, x = layer.V, torch.randn(3, 2, 5, 5)
    before = layer(x)
    layer.remake(seed=2, statistics=statistics)
    assert layer.V is V
    assert layer.V.requires_grad
    for name, tensor in expected.state_dict().items():
        assert torch.equal(layer.state_dict()[name], tensor), name
    assert torch.equal(layer(x), expected(x))
    assert not torch.allclose(layer(x), before)


def test_a_layer_that_cannot_be_remade_stays():
    layer = wc.PredictedLinear(12, 6, dictionary=d.DCT(), fraction=0.5)
    layer.rule = wc.Rule(d.Covariance(), 0.5)
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    with pytest.raises(ValueError, match="Covariance is made from data"):
        layer.remake()
    for name, tensor in layer.state_dict().items():
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize("groups", [1, 2])
def test_rows_of_a_predicted_convolution_are_those_of_its_dense_one(groups):
    x = torch.randn(3, 4, 5, 6, dtype=torch.float64)
    dense = nn.Conv2d(4, 6, (2, 3), stride=2, padding=1, groups=groups).double()
    predicted = wc.PredictedConv2d.from_dense(dense, wc.Rule(d.DCT(), 0.5))
    rows = view(dense).input_rows(x)
    assert torch.equal(view(predicted).input_rows(x), rows)
    side_by_side = view(predicted).input_rows(x, side_by_side=True)
    assert torch.equal(side_by_side[:9], view(predicted).input_rows(x[0], side_by_side=True))
    # Every group's part of a row, times this group's filters, is the output at one position.
    expected = dense(x).movedim(1, -1).reshape(len(side_by_side), groups, -1)
    parts = side_by_side.unflatten(1, (groups, -1))
    W = dense.weight.flatten(1).unflatten(0, (groups, -1))
    y = torch.einsum("ngi,gui->ngu", parts, W) + dense.bias.view(groups, -1)
    torch.testing.assert_close(y, expected)


@pytest.mark.parametrize("columns", [1, 2, 6])
@pytest.mark.parametrize("shape", [(12,), (1, 12), (5, 12), (2, 5, 12)])
def test_the_output_is_no_view_so_that_activations_may_work_in_place(shape, columns):
    layer = wc.PredictedLinear(
        12, 6, dictionary=d.DCT(), fraction=0.5, columns=columns, path="factored"
    )
    y = layer(torch.randn(shape))
    assert not y._is_view()  # fully_shard warns of one, and would lose its hook
    torch.relu_(y).sum().backward()
    assert layer.V.grad is not None


def resized(layer, weight, bias=None):
    """A layer with other weights, and its attributes as they were."""
    layer.weight = nn.Parameter(weight)
    if bias is not None:
        layer.bias = nn.Parameter(bias)
    return layer


@pytest.mark.parametrize(
    ("dense", "x"),
    [
        (resized(nn.Linear(20, 10), torch.randn(10, 12)), torch.randn(3, 12)),
        (resized(nn.Linear(12, 20), torch.randn(8, 12), torch.randn(8)), torch.randn(3, 12)),
        (resized(nn.Embedding(30, 16), torch.randn(40, 12)), torch.tensor([3, 39])),
        (resized(nn.EmbeddingBag(30, 16), torch.randn(40, 12)), torch.tensor([[3, 39]])),
    ],
)
def test_sizes_are_those_of_the_weight(dense, x):
    rule = wc.Rule(d.DCT(), 1.0)
    layer = wc.convert(nn.Sequential(dense), {"*": rule})[0]
    layer.fit(dense.weight)
    torch.testing.assert_close(layer(x), dense(x), rtol=1e-4, atol=1e-5)
    merged = layer.to_dense()
    assert merged.weight.shape == dense.weight.shape
    torch.testing.assert_close(merged(x), dense(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "dictionary",
    [
        *(d.Kernel(wc.kernels.SquaredExponential(2.0), mixing=m) for m in ("ridge", "raw")),
        *(d.Kernel(selection="leading"), d.DCT(), d.RandomGaussian(), d.LowRank()),
    ],
    ids=repr,
)
def test_a_layer_in_half_precision_is_merged_with_one_rounding(dictionary, dtype):
    layer = wc.PredictedLinear(784, 40, dictionary=dictionary, fraction=0.1, grid=(28, 28))
    layer = layer.to(dtype)
    exact = copy.deepcopy(layer).double().multiply_out().detach()
    limit = (exact.to(dtype).double() - exact).norm()
    merged = layer.to_dense().weight.detach()
    assert merged.dtype == dtype
    assert (merged.double() - exact).norm() <= 1.01 * limit
