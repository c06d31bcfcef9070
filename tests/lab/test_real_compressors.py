"""Peers of compression, each against its definition on small matrices."""

import math

import pytest
import torch
from torch import nn

from weightcast_lab.studies.real import bytes_stored, compressors
from weightcast_lab.studies.real.bytes_stored import Stored
from weightcast_lab.studies.real.walk import gather

SHAPES = [(12, 20), (20, 12), (16, 16)]


def given(n_visible, n_units, n_rows=400, seed=0):
    """A matrix, rows whose inputs are large and small and go together, and their moments."""
    g = torch.Generator().manual_seed(seed)
    W = torch.randn(n_visible, n_units, generator=g)
    mix = torch.randn(n_visible, n_visible, generator=g) * torch.logspace(-1, 1, n_visible)
    X = torch.randn(n_rows, n_visible, generator=g) @ mix
    layer = nn.Linear(n_visible, n_units)
    with torch.no_grad():
        layer.weight.copy_(W.mT)
    (matrix,) = gather(nn.Sequential(layer), ["0"], X.split(100))
    return W, X, matrix.moments()


def tail(A, rank):
    """The error of the best matrix of this rank."""
    return float(torch.linalg.svdvals(A.double())[rank:].square().sum().sqrt())


@pytest.mark.parametrize("shape", SHAPES)
def test_truncated_svd_is_the_nearest_of_its_rank(shape):
    W, _, moments = given(*shape)
    rank = bytes_stored.affordable_rank(shape, 0.6)
    V, stored = compressors.truncated_svd(W, moments, 0.6)
    assert torch.linalg.matrix_rank(V.double(), rtol=1e-5) == rank
    assert float((W - V).norm()) == pytest.approx(tail(W, rank), rel=1e-4)
    assert stored.bytes() <= 0.6 * 4 * W.numel()


@pytest.mark.parametrize("shape", SHAPES)
def test_whitened_svd_gives_the_nearest_outputs_of_its_rank(shape):
    W, X, moments = given(*shape)
    rank = bytes_stored.affordable_rank(shape, 0.6)
    V, stored = compressors.whitened_svd(W, moments, 0.6)
    assert torch.linalg.matrix_rank(V.double(), rtol=1e-5) == rank
    assert float((X @ (W - V)).norm()) == pytest.approx(tail(X @ W, rank), rel=1e-3)
    assert stored.bytes() <= 0.6 * 4 * W.numel()


@pytest.mark.parametrize("shape", SHAPES)
def test_asvd_is_the_svd_of_scaled_weights(shape):
    W, X, moments = given(*shape)
    scale = X.abs().mean(0)[:, None] ** 0.5
    V, _ = compressors.asvd(W, moments, 0.6)
    rank = bytes_stored.affordable_rank(shape, 0.6)
    assert float((scale * (W - V)).norm()) == pytest.approx(tail(scale * W, rank), rel=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_sparse_atoms_are_orthonormal_in_the_metric_and_few_for_each_unit(shape, monkeypatch):
    W, X, moments = given(*shape)
    n_base, n_atoms = bytes_stored.affordable_atoms(shape, 0.6, compressors.RATIO, min(shape))
    V, stored = compressors.sparse_atoms(W, moments, 0.6)
    assert stored == Stored(n_base * shape[0] + n_atoms * shape[1], n_base * shape[1])
    assert stored.bytes() <= 0.6 * 4 * W.numel()
    A, _ = compressors.in_metric(W, moments)
    found = float((X @ (W - V)).norm()) / math.sqrt(len(X))
    errors = []
    for rounds in range(6):  # of the leading singular vectors, and their largest, on
        monkeypatch.setattr(compressors, "ROUNDS", rounds)
        errors.append(float((X @ (W - compressors.sparse_atoms(W, moments, 0.6)[0])).norm()))
    assert errors == sorted(errors, reverse=True)  # neither half of a round can lose
    assert found < errors[0] / math.sqrt(len(X))
    assert found > tail(A, n_base) * 0.99  # no base of so many atoms can do better


def test_pruning_keeps_the_largest_weights():
    W, _, moments = given(12, 20)
    V, stored = compressors.pruning(W, moments, 0.5)
    kept = V != 0
    assert stored == Stored(int(kept.sum()), 240)
    assert stored.bytes() <= 0.5 * 4 * 240
    assert torch.equal(V[kept], W[kept])
    assert W[kept].abs().min() >= W[~kept].abs().max()


@pytest.mark.parametrize("shape", SHAPES)
def test_wanda_keeps_as_many_weights_of_each_unit_by_what_they_move(shape):
    W, X, moments = given(*shape)
    V, stored = compressors.wanda(W, moments, 0.5)
    moved = (X[:, :, None] * W).square().mean(0)  # E[(x_i W_ij)²]
    kept = V != 0
    n = stored.numbers // shape[1]
    assert kept.sum(0).tolist() == [n] * shape[1]
    assert stored.bytes() <= 0.5 * 4 * W.numel()
    assert torch.equal(V[kept], W[kept])
    least = moved.masked_fill(~kept, torch.inf).amin(0)
    assert (least >= moved.masked_fill(kept, 0).amax(0)).all()


@pytest.mark.parametrize(("method", "bits", "numbers"), [
    (compressors.int8, 8, 1),
    (compressors.int4, 4, 2),
])  # fmt: skip
def test_quantised_weights_are_half_a_step_away_and_have_so_many_values(method, bits, numbers):
    W, _, moments = given(100, 7)  # groups of 64 and 36
    V, stored = method(W, moments, 1.0)
    assert stored == Stored(2 * 7 * numbers, bits * 700)
    for unit in range(7):
        for part in (slice(0, 64), slice(64, 100)):
            w, v = W[part, unit], V[part, unit]
            values = w.abs().max() * 2 if bits == 8 else w.max().clamp(min=0) - w.min().clamp(max=0)
            step = values / (254 if bits == 8 else 15)
            assert (w - v).abs().max() <= 0.51 * step if bits == 8 else 1.01 * step
            assert len(v.unique()) <= 2**bits


def test_bytes_are_counted_with_masks_as_bits():
    assert Stored(10, 9).bytes() == 42
    assert Stored(10, 9).bytes(16) == 22
    assert (Stored(1, 2) + Stored(3, 4)) == Stored(4, 6)


@pytest.mark.parametrize("shape", [(576, 1536), (1536, 576), (576, 192), (40, 1024), (8192, 128)])
@pytest.mark.parametrize("share", [0.8, 0.6, 0.4])
def test_budgets_are_used_and_kept(shape, share):
    n_visible, n_units = shape
    n_base, n_atoms = bytes_stored.affordable_atoms(shape, share, 2.0, min(shape))
    stored = Stored(n_base * n_visible + n_atoms * n_units, n_base * n_units)
    assert 0.97 * share < stored.bytes() / (4 * n_visible * n_units) <= share
    assert n_atoms <= n_base <= min(shape)
