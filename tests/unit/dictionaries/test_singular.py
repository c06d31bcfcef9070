"""SingularVectors: no other atoms leave as little of trained weights."""

from __future__ import annotations

import pytest
import torch

from weightcast import dictionaries as d
from weightcast.dictionaries.singular import leading_filters

GENERATOR = torch.Generator().manual_seed(0)
W = torch.randn(8, 12, dtype=torch.float64, generator=GENERATOR)
ROOT = torch.randn(8, 8, dtype=torch.float64, generator=GENERATOR)
C = ROOT @ ROOT.t()


def left(basis: torch.Tensor, n_atoms: int, metric: torch.Tensor) -> float:
    """The least trace of (W - U V)^T metric (W - U V), by normal equations."""
    U = basis[:, :n_atoms]
    V = torch.linalg.solve(U.t() @ metric @ U, U.t() @ metric @ W)
    rest = W - U @ V
    return float((rest.t() @ metric @ rest).trace())


@pytest.mark.parametrize("metric", [None, C], ids=["weights", "outputs"])
def test_the_first_vectors_are_the_best_of_any_number(metric):
    S2 = torch.eye(8).double() if metric is None else metric
    basis = leading_filters(W, len(W), metric)
    torch.testing.assert_close(basis.t() @ basis, torch.eye(8).double())
    # Eckart and Young: what is left are the squares of the other singular values of S W.
    values = torch.linalg.eigvalsh(W.t() @ S2 @ W).flip(0)
    for n_atoms in (1, 3, 7):
        assert left(basis, n_atoms, S2) == pytest.approx(float(values[n_atoms:].sum()), rel=1e-6)


def test_inputs_that_never_vary_divide_nothing_by_zero():
    flat = torch.diag(torch.tensor([1.0, 1, 1, 1, 0, 0, 0, 0])).double()
    for metric in (flat, torch.zeros_like(flat)):
        assert bool(leading_filters(W, len(W), metric).isfinite().all())


def test_inputs_of_which_one_outweighs_all_keep_no_digits_of_the_others():
    """Products in single precision: the moments of the rest are rounding, below zero perhaps."""
    rows = torch.randn(64, 24, generator=GENERATOR)
    rows = rows[:, torch.arange(24) % 8] + 1e4 * torch.randn(64, 1, generator=GENERATOR)
    moments = (rows.t() @ rows / 64).double()
    assert float(torch.linalg.eigvalsh(moments)[0]) < -1e-6 * float(moments.diagonal().mean())
    weight = torch.randn(24, 30, dtype=torch.float64, generator=GENERATOR)
    basis = leading_filters(weight, 4, moments)
    torch.testing.assert_close(basis.t() @ basis, torch.eye(4).double())


def test_columns_take_the_leading_vectors_in_turn():
    atoms = d.SingularVectors().atoms(8, 2, columns=3, statistics=d.InputStatistics(0, weight=W))
    U = atoms.dictionaries()
    basis = leading_filters(W, len(W))
    # As cards are dealt: vectors 0 to 5, each to one column.
    dealt = sorted(int((basis.t() @ u).abs().argmax()) for u in U.transpose(1, 2).flatten(0, 1))
    assert dealt == [0, 1, 2, 3, 4, 5]


def test_weights_are_asked_for_and_inputs_are_not():
    with pytest.raises(ValueError, match="SingularVectors is made from a dense layer's weights"):
        d.SingularVectors().atoms(8, 2, statistics=d.InputStatistics(9, covariance=C))
    d.SingularVectors().atoms(8, 2, statistics=d.InputStatistics(0, weight=W))
    with pytest.raises(ValueError, match="8 inputs, the layer has 9"):
        d.SingularVectors().atoms(9, 2, statistics=d.InputStatistics(0, weight=W))
