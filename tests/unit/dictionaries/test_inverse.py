"""Rows times an inverse, by triangular solutions or by the inverse itself."""

import pytest
import torch

from weightcast.dictionaries.inverse import times_inverse


@pytest.mark.parametrize("n_rows", [5, 200])
def test_both_ways_are_the_definition(n_rows):
    draws = torch.Generator().manual_seed(0)
    A = torch.randn(30, 40, generator=draws, dtype=torch.float64)
    K, rows = A @ A.mT, torch.randn(5, 30, generator=draws, dtype=torch.float64)
    found = times_inverse(torch.linalg.cholesky(K), n_rows)(rows)
    torch.testing.assert_close(found, rows @ torch.linalg.inv(K))


def test_few_rows_leave_the_factor_and_many_take_its_place():
    root = torch.linalg.cholesky(2 * torch.eye(4))
    for n_rows, kept in [(11, True), (12, False)]:
        given = root.clone()
        times_inverse(given, n_rows)
        assert torch.equal(given, root) is kept
