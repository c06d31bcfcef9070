"""Patches of convolutions are torch's unfold; their covariance is NumPy's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import weightcast as wc
from weightcast.inputs.gather import collect_statistics
from weightcast.inputs.replay import Replay
from weightcast.layers.patches import extract_patches

CONVOLUTIONS = [
    {},
    {"stride": (2, 1), "padding": (1, 2)},
    {"dilation": (1, 2)},
    {"padding": "same", "dilation": (2, 1)},
    {"padding": "valid"},
    {"padding": (2, 1), "padding_mode": "reflect"},
    {"padding": "same", "padding_mode": "circular"},
    {"padding": 1, "padding_mode": "replicate", "stride": 2},
]


def _unfold(x: torch.Tensor, layer: nn.Conv2d) -> torch.Tensor:
    """Patches by ``torch.nn.functional.unfold``, (batch, channels * kernel, positions)."""
    padding: tuple[int, ...] = layer.padding if isinstance(layer.padding, tuple) else (0, 0)
    if layer.padding == "same":
        (h, w) = (dil * (size - 1) for dil, size in zip(layer.dilation, layer.kernel_size))  # noqa: B905
        amounts = (w // 2, w - w // 2, h // 2, h - h // 2)
    else:
        amounts = (padding[1], padding[1], padding[0], padding[0])
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = nn.functional.pad(x, amounts, mode=mode)
    return nn.functional.unfold(x, layer.kernel_size, layer.dilation, 0, layer.stride)


@pytest.mark.parametrize("options", CONVOLUTIONS, ids=str)
def test_patches_are_torchs_unfold(options):
    layer = nn.Conv2d(4, 8, (3, 2), **options)
    x = torch.randn(2, 4, 7, 6)
    expected = _unfold(x, layer).transpose(1, 2).flatten(0, 1)
    assert torch.equal(extract_patches(x, layer), expected)
    assert torch.equal(extract_patches(x[0], layer), expected[: len(expected) // 2])


# Torch itself pads unevenly with a copy, and says so.
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")
@pytest.mark.parametrize("options", [*CONVOLUTIONS, {"groups": 2}, {"groups": 4}], ids=str)
def test_patches_times_weight_is_the_convolution(options):
    layer = nn.Conv2d(4, 8, (3, 2), bias=False, **options).double()
    x = torch.randn(2, 4, 7, 6, dtype=torch.float64)
    y = layer(x)
    patches = extract_patches(x, layer).unflatten(0, (2, layer.groups, -1))
    filters = layer.weight.flatten(1).unflatten(0, (layer.groups, -1))
    expected = torch.einsum("ngpi,gui->ngup", patches, filters).reshape(y.shape)
    torch.testing.assert_close(expected, y, rtol=0, atol=1e-10)


@pytest.mark.parametrize("groups", [1, 2])
def test_the_covariance_of_a_convolutions_inputs_is_that_of_its_patches(groups):
    layer = nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=groups)
    x = torch.randn(6, 4, 7, 7)
    rows = _unfold(x, layer).transpose(1, 2).flatten(0, 1)  # (rows, channels * kernel)
    rows = torch.cat(rows.chunk(groups, dim=1)).double().numpy()
    model = nn.Sequential(layer)
    replay, needs = Replay(x.split(2), [], {}), ("covariance", "squared_covariance")
    statistics = collect_statistics(model, "0", replay, needs, torch.Generator())
    assert statistics.n_rows == len(rows)
    np.testing.assert_allclose(statistics.covariance, np.cov(rows.T), rtol=0, atol=1e-6)
    np.testing.assert_allclose(
        statistics.squared_covariance, np.cov(np.square(rows).T), rtol=0, atol=1e-6
    )


def test_convolutions_in_1d_and_3d():
    for layer, x in (
        (nn.Conv1d(3, 2, 4, stride=2, dilation=2, padding=3), torch.randn(2, 3, 13)),
        (
            nn.Conv3d(2, 2, (2, 3, 2), stride=(1, 2, 1), padding=(0, 1, 1)),
            torch.randn(2, 2, 4, 5, 3),
        ),
    ):
        y = layer(x)
        rows = extract_patches(x, layer) @ layer.weight.flatten(1).t() + layer.bias
        expected = y.flatten(2).transpose(1, 2).flatten(0, 1)
        torch.testing.assert_close(rows, expected, rtol=0, atol=1e-5)


def test_the_layer_by_layer_covariance_reaches_convolutions():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3))
    x = torch.randn(8, 1, 9, 9)
    converted = wc.convert(model, {"2": wc.Rule(wc.dictionaries.Covariance(), 0.25)}, inputs=x)
    rows = _unfold(model[:2](x).detach(), model[2]).transpose(1, 2).flatten(0, 1)
    K = converted[2].atoms.base.atoms
    np.testing.assert_allclose(K, np.cov(rows.double().numpy().T), rtol=0, atol=1e-5)
