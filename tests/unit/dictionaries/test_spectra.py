"""Eigenvectors that are the same on every machine, also where eigenvalues are equal."""

from __future__ import annotations

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
