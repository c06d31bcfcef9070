"""KroneckerBase: the operator of factors equals their Kronecker product, multiplied out."""

from __future__ import annotations

from functools import reduce

import pytest
import torch

from weightcast.dictionaries import KroneckerBase


def _factor(n: int, m: int) -> torch.Tensor:
    return torch.randn(n, m, dtype=torch.float64, generator=torch.Generator().manual_seed(n + m))


FACTORS = {
    "one": [_factor(5, 4)],
    "channels": [3, _factor(4, 4), _factor(2, 3)],
    "small axes": [_factor(3, 3), _factor(3, 3), _factor(3, 3), _factor(3, 3)],
    "identity inside": [_factor(3, 2), 2, _factor(4, 4)],
}


@pytest.mark.parametrize("name", FACTORS)
def test_it_computes_with_the_product_of_its_factors(name):
    factors = FACTORS[name]
    matrices = [torch.eye(f).double() if isinstance(f, int) else f for f in factors]
    B, base = reduce(torch.kron, matrices), KroneckerBase(factors)
    assert (base.n_visible, base.n_base) == tuple(B.shape)
    assert base.n_static == sum(f.numel() for f in factors if not isinstance(f, int))
    x, c = torch.randn(3, len(B)).double(), torch.randn(2, B.shape[1]).double()
    torch.testing.assert_close(base.transform(x), (x @ B).t())
    torch.testing.assert_close(base.synthesise(c), c @ B.t())
    everything = torch.arange(base.n_base)
    torch.testing.assert_close(base.rows(everything), B.t())
    torch.testing.assert_close(base.rows(everything[:4].view(2, 2)), B.t()[:4].view(2, 2, -1))
    torch.testing.assert_close(base.gram(everything), B.t() @ B)
    torch.testing.assert_close(base.gram(everything[:2]), B.t()[:2] @ B[:, :2])
    points = torch.arange(base.n_visible).unsqueeze(1)
    torch.testing.assert_close(base.entries(points, everything), B)


def test_its_cost_is_one_small_product_per_axis():
    base = KroneckerBase([_factor(28, 28), _factor(28, 28)])
    assert base.multiply_adds == base.synthesis_multiply_adds == 784 * 56
    assert KroneckerBase([10, _factor(28, 28)]).multiply_adds == 10 * 28 * 28


def test_channels_are_blocks_whose_atoms_share_no_input():
    base = KroneckerBase([3, _factor(4, 4)])
    assert base.n_blocks == 3
    found = base.by_channel(torch.tensor([0, 5, 11]))
    assert found is not None
    channels, atoms = found
    assert channels.tolist() == [0, 1, 2]
    torch.testing.assert_close(atoms, _factor(4, 4).t()[[0, 1, 3]])
    plain = KroneckerBase([_factor(4, 4)])
    assert plain.n_blocks == 1
    assert plain.by_channel(torch.tensor([0])) is None


def test_dust_of_rounding_becomes_zero():
    factor = torch.tensor([[1.0, 1e-40], [1e-12, -1.0]], dtype=torch.float64)
    kept = KroneckerBase([factor]).rows(torch.arange(2)).t()
    assert kept.tolist() == [[1.0, 0.0], [1e-12, -1.0]]
