"""SparseAtoms: every unit keeps the inputs that it can do without least."""

from __future__ import annotations

import itertools

import pytest
import torch

import weightcast as wc
from weightcast import dictionaries as d
from weightcast.dictionaries.sparse import sparse_choice
from weightcast.least_squares import Metric

GENERATOR = torch.Generator().manual_seed(0)
W = torch.randn(8, 12, dtype=torch.float64, generator=GENERATOR)
ROOT = torch.randn(8, 8, dtype=torch.float64, generator=GENERATOR)
C = ROOT @ ROOT.t() + 0.1 * torch.eye(8).double()


def left(indices: torch.Tensor, w: torch.Tensor, metric: torch.Tensor) -> float:
    """The least of (w - v)^T metric (w - v) over v at some inputs of one unit."""
    v = torch.zeros_like(w)
    v[indices] = torch.linalg.solve(metric[indices][:, indices], (metric @ w)[indices])
    return float((w - v) @ metric @ (w - v))


def test_without_inputs_the_largest_weights_stay():
    indices = sparse_choice(W, None, 3)
    assert indices.shape == (12, 3)
    for unit, own in enumerate(indices):
        assert set(own.tolist()) == set(W[:, unit].abs().topk(3).indices.tolist())
        assert own.tolist() == sorted(own.tolist())


@pytest.mark.parametrize("n_atoms", [2, 4, 6])
def test_with_inputs_the_choice_is_near_the_best_of_all(n_atoms):
    chosen = sparse_choice(W, C, n_atoms)
    largest = sparse_choice(W, None, n_atoms)
    sets = [torch.tensor(s) for s in itertools.combinations(range(8), n_atoms)]
    found = best = plain = 0.0
    for unit in range(12):
        w = W[:, unit]
        found += left(chosen[unit], w, C)
        plain += left(largest[unit], w, C)
        best += min(left(s, w, C) for s in sets)
    assert best <= found < 0.5 * (best + plain)


def test_inputs_that_never_vary_are_dropped():
    flat = C.clone()
    flat[5:] = flat[:, 5:] = 0
    assert bool((sparse_choice(W, flat, 5) < 5).all())


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
    # A layer as wide as it is high, inputs with a falling spectrum: stored 60 %, mask counted.
    generator = torch.Generator().manual_seed(1)
    n, share = 96, 0.6
    w = torch.randn(n, n, dtype=torch.float64, generator=generator)
    rotation = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64, generator=generator)).Q
    K = rotation * torch.arange(1, n + 1).double() ** -1 @ rotation.t()
    statistics = d.InputStatistics(0, covariance=K, weight=w)
    losses = {}
    for dictionary, n_atoms, columns in (
        (d.SparseAtoms(), int((share - 1 / 32) * n), n),
        (d.SingularVectors(), int(share * n / 2), 1),
    ):
        atoms = dictionary.atoms(n, n_atoms, columns=columns, statistics=statistics)
        weight = wc.PredictedWeight(atoms, n)
        losses[type(dictionary).__name__] = weight.fit(w.t(), Metric(K[None]))
    assert losses["SparseAtoms"] < 0.5 * losses["SingularVectors"]
