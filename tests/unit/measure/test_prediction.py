"""How well one dictionary predicts one layer's hidden weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import weightcast as wc
from weightcast import dictionaries as d
from weightcast.measure.prediction import explained

W = torch.randn(5, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_r2_is_the_share_of_the_variance_about_each_filters_mean():
    assert explained(W, W) == 1
    means = W.mean(dim=1, keepdim=True)
    assert explained(W, means.expand_as(W)) == pytest.approx(0)
    assert explained(W, (W + means) / 2) == pytest.approx(0.75)
    assert explained(W, -W) < -2
    assert explained(W + 100, means.expand_as(W)) < -1000  # not about the mean of them all
    assert explained(torch.ones(3, 4), torch.zeros(3, 4)) == 0


def layer(*sizes: int) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(*sizes)).double()


def tried(model: nn.Module, **how: object) -> set[str]:
    rows = wc.probe(model, (0.5,), progress=False, **how).rows  # pyright: ignore[reportArgumentType]
    return {row.dictionary for row in rows} - {"floor", "ceiling"}


def test_what_is_tried_follows_from_what_is_known_of_the_inputs():
    model, x = layer(16, 5), torch.randn(50, 16).double()
    assert tried(model) == {"DCT"}
    assert tried(model, grids={"0": (4, 4)}) == {"DCT", "Kernel"}
    assert tried(model, inputs=x) == {"DCT", "Covariance"}


def test_no_dictionary_beats_the_ceiling_and_low_rank_meets_it():
    model, x = layer(16, 40), torch.randn(50, 16).double() * torch.linspace(0.1, 2, 16).double()
    given = {"LowRank": d.LowRank(), "SVD": d.SingularVectors(), "Random": d.RandomGaussian()}
    rows = {r.dictionary: r for r in wc.probe(model, (0.25,), given, inputs=x, progress=False).rows}
    ceiling = rows["ceiling"]
    for name in ("LowRank", "SVD", "Random"):
        assert rows[name].r2 <= ceiling.r2 + 1e-9
        assert rows[name].output_r2 <= ceiling.output_r2 + 1e-6
    assert rows["LowRank"].r2 == pytest.approx(ceiling.r2)
    assert rows["LowRank"].output_r2 == pytest.approx(ceiling.output_r2)
    assert rows["Random"].r2 < ceiling.r2 - 0.1


def test_a_dictionary_that_cannot_be_built_says_why():
    probe = wc.probe(layer(16, 5), (0.5,), {"SE": d.Kernel()}, progress=False)
    row = next(row for row in probe.rows if row.dictionary == "SE")
    assert (row.r2, row.output_r2) == (None, None)
    assert row.reason.startswith("Kernel needs the coordinates of the layer's 16 inputs")
