"""Layers as probing and budgets weigh them: weights of a model, or of a state dict."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import weightcast as wc
from weightcast.inputs.gather import MOMENTS
from weightcast.inputs.walk import Walk
from weightcast.plan.sites import find_sites, observe


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 2), nn.Flatten(), nn.Linear(72, 5), nn.BatchNorm1d(5))


def test_a_site_has_the_layers_filters_and_its_grid():
    network = model()
    sites = find_sites(network, None, {"2": (8, 9)})
    assert list(sites) == ["0", "2"]
    first, last = sites.values()
    assert (first.n_units, first.n_visible, first.grid) == (8, 12, wc.Grid((2, 2), 3))
    assert (last.n_units, last.n_visible, last.grid) == (5, 72, wc.Grid((8, 9)))
    assert first.W.dtype == torch.float64
    torch.testing.assert_close(first.W.float(), network[0].weight.detach().flatten(1))


def test_a_state_dict_gives_the_same_weights_without_a_model():
    network = model()
    found = find_sites(network.state_dict(), None, {})
    expected = find_sites(network, None, {})
    assert found.keys() == expected.keys()
    for name, site in found.items():
        assert torch.equal(site.W, expected[name].W)
        assert site.grid == expected[name].grid


def test_only_the_named_layers_are_taken_in_their_order():
    assert list(find_sites(model(), ["2", "0"], {})) == ["2", "0"]


def test_frozen_weights_can_be_read():
    assert list(find_sites(model().requires_grad_(False), None, {})) == ["0", "2"]


@pytest.mark.parametrize(
    ("network", "layers", "grids", "message"),
    [
        (nn.Tanh(), None, {}, "nothing to probe: no weights of linear layers or convolutions"),
        ({"scale": torch.ones(3)}, None, {}, "nothing to probe"),
        (model(), ["3"], {}, "no layer '3' can be probed"),
        (model(), None, {"2.": (8, 9)}, r"no layer '2\.' can be probed.*did you mean '2'"),
        (model(), None, {"2": (8, 8)}, "layer '2': .*64 inputs, the layer has 72"),
        (model().to("meta"), None, {}, "on the meta device and holds no values"),
    ],
)
def test_what_cannot_be_weighed_is_refused(network, layers, grids, message):
    with pytest.raises(ValueError, match=message):
        find_sites(network, layers, grids)


def test_weights_that_are_not_finite_are_counted():
    network = model()
    with torch.no_grad():
        network[2].weight[0, :3] = float("nan")
    with pytest.raises(ValueError, match="layer '2': 3 of its 360 weights are NaN or infinite"):
        find_sites(network, None, {})


def test_observing_adds_the_statistics_of_the_inputs():
    network = model().eval()
    x = torch.randn(40, 3, 4, 4)
    needs = {"2": (MOMENTS, "covariance")}
    with Walk(network, ["2"], [x], needs, 0, refresh="never") as walk:
        site = observe(network, find_sites(network, None, {})["2"], walk)
    assert site.statistics is not None
    assert site.metric is not None
    rows = network[:2](x).detach().double()
    assert site.statistics.covariance is not None
    torch.testing.assert_close(
        site.statistics.covariance, torch.cov(rows.t()), rtol=1e-4, atol=1e-6
    )
