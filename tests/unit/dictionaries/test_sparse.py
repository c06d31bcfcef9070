"""SparseAtoms: every unit keeps the inputs that it can do without least."""

from __future__ import annotations

import pytest
import torch

import weightcast as wc
from weightcast import dictionaries as d
from weightcast.dictionaries.sparse import sparse_choices
from weightcast.least_squares import Metric

GENERATOR = torch.Generator().manual_seed(0)
W = torch.randn(8, 12, dtype=torch.float64, generator=GENERATOR)
ROOT = torch.randn(8, 8, dtype=torch.float64, generator=GENERATOR)
C = ROOT @ ROOT.t() / 8 + 0.3 * torch.eye(8).double()


def correlated(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights (n, n), and the covariance of inputs whose spectrum falls as 1 / k."""
    generator = torch.Generator().manual_seed(1)
    w = torch.randn(n, n, dtype=torch.float64, generator=generator)
    rotation = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64, generator=generator)).Q
    return w, rotation * torch.arange(1, n + 1).double() ** -1 @ rotation.t()


def loss(indices: torch.Tensor, w: torch.Tensor, K: torch.Tensor) -> float:
    """What the inputs at ``indices`` leave of the outputs, V fitted."""
    layer = wc.PredictedWeight(d.Atoms(d.IdentityBase(len(w)), indices), len(indices))
    return layer.fit(w.t(), Metric(K[None]))


def test_without_inputs_the_largest_weights_stay():
    indices = sparse_choices(W, None, [3])[0]
    assert indices.shape == (12, 3)
    for unit, own in enumerate(indices):
        assert set(own.tolist()) == set(W[:, unit].abs().topk(3).indices.tolist())
        assert own.tolist() == sorted(own.tolist())


@pytest.mark.parametrize("share", [0.2, 0.4, 0.6])
def test_with_inputs_the_choice_is_better_than_the_largest_weights(share):
    w, K = correlated(48)
    n_atoms = int(48 * share)
    largest = (w * K.diagonal().sqrt().unsqueeze(1)).abs().topk(n_atoms, dim=0).indices.t()
    assert loss(sparse_choices(w, K, [n_atoms])[0], w, K) < 0.9 * loss(largest, w, K)


def test_several_numbers_of_inputs_are_looked_at_side_by_side():
    w, K = correlated(48)
    for columns in (None, 5):
        together = sparse_choices(w, K, [5, 30, 12], columns)
        for n_atoms, chosen in zip((5, 30, 12), together, strict=True):
            assert torch.equal(chosen, sparse_choices(w, K, [n_atoms], columns)[0])


def test_inputs_that_never_vary_are_dropped():
    flat = C.clone()
    flat[5:] = flat[:, 5:] = 0
    assert bool((sparse_choices(W, flat, [5])[0] < 5).all())


def test_units_of_a_column_keep_the_same_inputs():
    chosen = d.SparseAtoms().atoms(8, 2, columns=3, statistics=d.InputStatistics(0, weight=W))
    energies = W.square().unflatten(1, (3, 4)).sum(dim=2)
    assert torch.equal(chosen.indices, energies.topk(2, dim=0).indices.t().sort(dim=1).values)


def test_every_unit_is_a_column_whatever_the_rule_says():
    rule = wc.Rule(d.SparseAtoms(), 0.5, columns=3)
    assert rule.columns_for(12) == 12
    assert wc.Rule(d.DCT(), 0.5, columns=3).columns_for(12) == 3
    dense = torch.nn.Linear(8, 12)
    layer = wc.PredictedLinear.from_dense(dense, rule)
    assert layer.atoms.columns == 12
    layer.fit(dense.weight)
    kept = layer.weight != 0
    assert torch.equal(kept.sum(dim=1), torch.full((12,), 4))
    torch.testing.assert_close(layer.weight[kept], dense.weight[kept])


def test_weights_are_asked_for_and_inputs_are_not():
    with pytest.raises(ValueError, match="SparseAtoms is made from a dense layer's weights"):
        d.SparseAtoms().atoms(8, 2, statistics=d.InputStatistics(9, covariance=C))
    d.SparseAtoms().atoms(8, 2, statistics=d.InputStatistics(0, weight=W))
    with pytest.raises(ValueError, match="8 inputs, the layer has 9"):
        d.SparseAtoms().atoms(9, 2, statistics=d.InputStatistics(0, weight=W))


def test_at_equal_bytes_the_output_is_nearer_than_by_singular_vectors():
    n, share = 96, 0.6  # of the weights' bytes, the mask counted
    w, K = correlated(n)
    sparse = loss(sparse_choices(w, K, [int((share - 1 / 32) * n)])[0], w, K)
    statistics = d.InputStatistics(0, covariance=K, weight=w)
    atoms = d.SingularVectors().atoms(n, int(share * n / 2), statistics=statistics)
    assert sparse < 0.5 * wc.PredictedWeight(atoms, n).fit(w.t(), Metric(K[None]))
