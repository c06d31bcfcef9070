"""Eigenvectors that are the same on every machine, also where eigenvalues are equal."""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch

from weightcast import kernels as k

spectra = pytest.importorskip("weightcast.dictionaries.spectra")


def test_largest_first_orthonormal_and_of_the_matrix():
    root = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    K = root @ root.t()
    values, vectors = spectra.eigenvectors(K)
    assert torch.equal(values, values.sort(descending=True).values)
    assert float(values.min()) >= 0  # rounding would make some of the two zeros negative
    torch.testing.assert_close(vectors.t() @ vectors, torch.eye(6).double())
    torch.testing.assert_close(vectors @ torch.diag(values) @ vectors.t(), K)


@pytest.mark.parametrize("n", [4, 5])
def test_equal_eigenvalues_have_one_basis_whoever_computed_them(n):
    points = torch.cartesian_prod(torch.arange(n), torch.arange(n)).double()
    K = k.SquaredExponential(1.5)(points, points)
    values, vectors = spectra.eigenvectors(K)
    assert bool((values[:-1] - values[1:] < 1e-9 * values[0]).any())  # a square has such pairs
    fixed = torch.sin(12.9898 * torch.arange(1, n * n + 1, dtype=torch.float64))
    assert bool(((fixed.unsqueeze(1) * vectors).sum(dim=0) > 0).all())
    moved = K + 1e-15 * torch.randn(n * n, n * n).double()
    again = spectra.eigenvectors((moved + moved.t()) / 2)[1]
    torch.testing.assert_close(again[:, :4], vectors[:, :4], atol=1e-6, rtol=0)


def test_the_leading_ones_alone_are_those_of_all():
    rows = torch.randn(700, 600, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    K = rows.t() @ rows
    values, vectors = spectra.eigenvectors(K)
    with patch("torch.linalg.eigh", side_effect=AssertionError("all of them were computed")):
        some = spectra.eigenvectors(K, 5)
    torch.testing.assert_close(some[0][:5], values[:5])
    torch.testing.assert_close(some[1][:, :5], vectors[:, :5])


@pytest.mark.parametrize("most", [1, 2, 3])
def test_a_cut_through_equal_eigenvalues_has_the_basis_of_all_of_them(most):
    values = torch.cat([torch.tensor([3.0, 2, 2, 2, 1.5]), torch.linspace(1, 0.1, 595)]).double()
    rows = torch.randn(600, 600, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    Q = torch.linalg.qr(rows).Q
    K = Q @ torch.diag(values) @ Q.t()
    K = (K + K.t()) / 2
    whole = spectra.eigenvectors(K)[1]
    some = spectra.eigenvectors(K, most)[1]
    torch.testing.assert_close(some[:, :most], whole[:, :most], atol=1e-6, rtol=0)
