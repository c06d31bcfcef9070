"""Moments: the same as NumPy's, however rows and groups come."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from weightcast.inputs.moments import Moments


def test_covariance_is_numpys():
    rows = torch.randn(40, 5, dtype=torch.float64) + 1000
    moments = Moments()
    for part in rows.split([1, 0, 22, 17]):
        moments.update(part)
    np.testing.assert_allclose(moments.covariance(), np.cov(rows.numpy().T), atol=1e-9)


@pytest.mark.parametrize(("n_rows", "ridge"), [(4, 0.1), (16, 0.05), (2_000, 0.03)])
def test_the_fewer_rows_the_larger_the_ridge(n_rows, ridge):
    moments = Moments()
    moments.update(torch.randn(n_rows, 4).double())
    assert torch.equal(moments.metric().moments, moments.metric(ridge).moments)


def test_one_group_of_a_call_stands_for_all():
    once, twice = torch.randn(9, 4).double(), torch.randn(7, 2, 4).double()
    mixed, plain = Moments(paired=True), Moments(paired=True)
    mixed.update(once, 2 * once)
    mixed.update(twice)
    both = once.unsqueeze(1).expand(-1, 2, -1)
    plain.update(torch.cat([both, twice]), torch.cat([2 * both, twice]))
    assert mixed.groups == plain.groups == 2
    torch.testing.assert_close(mixed.metric(0.1).moments, plain.metric(0.1).moments)
    W = torch.randn(6, 4).double()
    targets = [moments.target(W, moments.metric(0.1)) for moments in (mixed, plain)]
    torch.testing.assert_close(*targets)
    torch.testing.assert_close(mixed.bias_shift(W, W), plain.bias_shift(W, W))
