"""Kernel ridge regression against scikit-learn, and the exact anchors of the method."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from sklearn import decomposition
from sklearn.gaussian_process import kernels as sk
from sklearn.kernel_ridge import KernelRidge

import weightcast as wc
from tests.contract.table import (
    DICTIONARIES,
    example_rows,
    example_statistics,
    make_atoms,
    make_dictionary,
)
from tests.oracle import loops
from weightcast import dictionaries as d
from weightcast import kernels as k

GRID = (6, 5)
COORDINATES = np.array(list(np.ndindex(*GRID)), dtype=float)

PAIRS = [
    (k.SquaredExponential(1.5), sk.RBF(1.5)),
    (k.Exponential(1.5), sk.Matern(1.5, nu=0.5)),
    (k.Matern(1.5, 2.0), sk.Matern(2.0, nu=1.5)),
    (k.Matern(2.5, 2.0), sk.Matern(2.0, nu=2.5)),
    (2.0 * sk.RBF([1.0, 2.0]) + sk.RationalQuadratic(), 2.0 * sk.RBF([1.0, 2.0])
     + sk.RationalQuadratic()),
]  # fmt: skip


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_kernels_are_scikit_learns(ours, theirs):
    rng = np.random.default_rng(0)
    a, b = rng.uniform(0, 9, (7, 2)), rng.uniform(0, 9, (4, 2))
    value = k.as_kernel(ours)(torch.from_numpy(a), torch.from_numpy(b))
    np.testing.assert_allclose(value.numpy(), theirs(a, b), rtol=0, atol=1e-12)


@pytest.mark.parametrize("ridge", [1e-6, 0.1, 2.0])
@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_ridge_atoms_predict_what_kernel_ridge_predicts(ours, theirs, ridge):
    layer = wc.PredictedLinear(
        30,
        6,
        dictionary=d.Kernel(ours, ridge=ridge),
        fraction=0.4,
        columns=2,
        grid=GRID,
        dtype=torch.float64,
    )
    for unit, column in enumerate(layer.unit_columns.tolist()):
        known = COORDINATES[layer.atoms.indices[column]]
        values = layer.V.detach().numpy()[:, unit]
        model = KernelRidge(alpha=ridge, kernel="precomputed").fit(theirs(known, known), values)
        filter_ = model.predict(theirs(COORDINATES, known))
        np.testing.assert_allclose(layer.weight[unit].detach().numpy(), filter_, rtol=0, atol=1e-8)


def test_squared_exponential_is_kernel_ridge_with_the_matching_gamma():
    atoms = d.Kernel(k.SquaredExponential(2.0), ridge=0.1).atoms(30, 8, grid=GRID, seed=5)
    known = COORDINATES[atoms.indices[0]]
    values = np.random.default_rng(1).standard_normal((8, 3))
    model = KernelRidge(alpha=0.1, kernel="rbf", gamma=1 / (2 * 2.0**2)).fit(known, values)
    predicted = atoms.dictionaries()[0].numpy() @ values
    np.testing.assert_allclose(predicted, model.predict(COORDINATES), rtol=0, atol=1e-8)


def test_without_ridge_the_known_weights_are_kept_exactly():
    atoms = d.Kernel(k.Matern(1.5, 1.5), ridge=1e-10).atoms(30, 8, grid=GRID, columns=3)
    for column in range(3):
        U = atoms.dictionaries()[column]
        torch.testing.assert_close(
            U[atoms.indices[column]], torch.eye(8).double(), rtol=0, atol=1e-7
        )


@pytest.mark.parametrize("columns", [1, 3])
@pytest.mark.parametrize("name", [n for n, row in DICTIONARIES.items() if row.full_rank])
def test_all_atoms_reproduce_every_weight_through_fit(name, columns):
    layer = wc.PredictedLinear(
        24,
        7,
        dictionary=make_dictionary(name, 24),
        fraction=1,
        columns=columns,
        grid=(4, 6),
        statistics=example_statistics(24),
        dtype=torch.float64,
    )
    W = torch.randn(7, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert layer.fit(W) < 1e-12
    torch.testing.assert_close(layer.weight, W, rtol=0, atol=1e-7)


@pytest.mark.parametrize("kernel", [k.SquaredExponential(0.6), k.Exponential(1), k.Matern(1.5, 1)])
def test_all_weights_known_without_ridge_are_the_weights(kernel):
    layer = wc.PredictedConv2d(
        2,
        4,
        (3, 4),
        dictionary=d.Kernel(kernel, ridge=1e-10),
        fraction=1,
        columns=2,
        dtype=torch.float64,
    )
    W = torch.randn(layer.weight.shape, dtype=torch.float64)
    layer.fit(W)
    torch.testing.assert_close(layer.weight, W, rtol=0, atol=1e-8)
    for unit, column in enumerate(layer.unit_columns.tolist()):
        known = W.flatten(1)[unit, layer.atoms.indices[column]]
        torch.testing.assert_close(layer.V[:, unit], known, rtol=0, atol=1e-6)


@pytest.mark.parametrize("selection", ["random", "leading"])
def test_the_three_mixings_span_one_space(selection):
    spans = []
    for mixing in ("ridge", "raw", "orthonormal"):
        dictionary = d.Kernel(k.Matern(1.5, 1.5), mixing=mixing, selection=selection)
        U = dictionary.atoms(30, 9, grid=GRID, seed=2).dictionaries()[0].numpy()
        spans.append(U @ np.linalg.pinv(U))
    np.testing.assert_allclose(spans[1], spans[0], rtol=0, atol=1e-8)
    np.testing.assert_allclose(spans[2], spans[0], rtol=0, atol=1e-8)


@pytest.mark.parametrize("mixing", ["raw", "ridge", "orthonormal"])
def test_leading_atoms_are_scaled_eigenvectors(mixing):
    rows = example_rows(24)
    K = np.cov(rows.T)
    values, vectors = np.linalg.eigh(K)
    U = make_atoms("Covariance-leading", 5).dictionaries()[0].numpy()
    dictionary = d.Covariance(selection="leading", mixing=mixing, ridge=0.3)
    U = dictionary.atoms(24, 5, statistics=example_statistics(24)).dictionaries()[0].numpy()
    scale = {"raw": values, "ridge": values / (values + 0.3), "orthonormal": np.ones(24)}[mixing]
    expected = (vectors * scale)[:, ::-1][:, :5]
    signs = np.sign((U * expected).sum(axis=0))
    np.testing.assert_allclose(U, expected * signs, rtol=0, atol=1e-8)


def test_pca_is_scikit_learns_up_to_sign():
    U = make_atoms("PCA", 6).dictionaries()[0].numpy()
    components = decomposition.PCA(6, svd_solver="full").fit(example_rows(24)).components_.T
    signs = np.sign((U * components).sum(axis=0))
    np.testing.assert_allclose(U, components * signs, rtol=0, atol=1e-8)


def test_whitened_pca_gives_projections_of_unit_variance():
    dictionary = d.PCA(whiten=True, ridge=0.0)
    U = dictionary.atoms(24, 6, statistics=example_statistics(24)).dictionaries()[0].numpy()
    np.testing.assert_allclose(np.cov((example_rows(24) @ U).T), np.eye(6), rtol=0, atol=1e-8)


@pytest.mark.parametrize("count", [1, 5, 12])
def test_pivoted_selection_is_pivoted_cholesky(count):
    K = np.cov(example_rows(24).T)
    chosen = make_atoms("Covariance-pivoted", count).indices[0].tolist()
    assert chosen == loops.pivoted_cholesky(K, count)
    _, pivots, _, info = scipy.linalg.lapack.dpstrf(K, lower=1)
    assert info == 0
    assert chosen == (pivots[:count] - 1).tolist()


def test_pivoted_selection_on_a_grid_takes_the_largest_remaining_variance():
    K = loops.kernel_matrix(lambda r: loops.squared_exponential(r, 1.5), GRID)
    chosen = d.Kernel(k.SquaredExponential(1.5), selection="pivoted").atoms(30, 6, grid=GRID)
    remaining = K.copy()
    for point in chosen.indices[0].tolist():  # a square grid has ties, so values are compared
        assert remaining[point, point] == pytest.approx(remaining.diagonal().max(), abs=1e-9)
        column = remaining[:, point].copy()
        remaining -= np.outer(column, column) / column[point]


def test_covariances_from_a_network_are_numpys():
    model = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Tanh(), torch.nn.Linear(8, 7))
    x = torch.randn(50, 5)
    hidden = model[:2](x).detach().double().numpy()
    for dictionary, values in ((d.Covariance(), hidden), (d.SquaredCovariance(), hidden**2)):
        converted = wc.convert(model, {"2": wc.Rule(dictionary, 0.5)}, inputs=x.split(17))
        K = converted[2].double().atoms.base.atoms.numpy()
        np.testing.assert_allclose(K, np.cov(values.T), rtol=1e-5, atol=1e-7)
