"""Covariances of a layer's inputs as K."""

from __future__ import annotations

import pytest
import torch

from weightcast import Grid
from weightcast import dictionaries as d
from weightcast import kernels as k

ROWS = torch.randn(60, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
ROWS = ROWS @ torch.randn(12, 12, generator=torch.Generator().manual_seed(1)).double()
C, SQUARED = torch.cov(ROWS.t()), torch.cov(ROWS.square().t())
STATISTICS = d.InputStatistics(60, covariance=C, squared_covariance=SQUARED)
GRID = Grid((2, 2), 3)


@pytest.mark.parametrize(("kind", "K"), [(d.Covariance, C), (d.SquaredCovariance, SQUARED)])
def test_known_weights_predict_the_others_by_kernel_ridge_regression(kind, K):
    atoms = kind(ridge=0.1).atoms(12, 4, statistics=STATISTICS)
    points = atoms.indices[0]
    regular = K[points][:, points] + 0.1 * torch.eye(4).double()
    torch.testing.assert_close(atoms.dictionary(0), K[:, points] @ torch.linalg.inv(regular))
    exact = kind(ridge=0.0).atoms(12, 4, statistics=STATISTICS).dictionary(0)
    torch.testing.assert_close(exact[points], torch.eye(4).double())


def test_leading_atoms_are_eigenvectors_and_only_these_are_kept():
    leading = d.Covariance(mixing="orthonormal", selection="leading")
    atoms = leading.atoms(12, 2, columns=2, statistics=STATISTICS)
    assert atoms.base.n_base == 4
    vectors = torch.linalg.eigh(C).eigenvectors.flip(1)[:, :4]
    products = (vectors.t() @ atoms.base.rows(torch.arange(4)).t()).abs()
    torch.testing.assert_close(products, torch.eye(4).double(), atol=1e-7, rtol=0)


def test_channels_correlate_as_the_inputs_do_and_space_as_the_kernel_says():
    kernel = k.SquaredExponential(1.0)
    dictionary = d.ChannelCovariance(kernel, selection="random", mixing="raw")
    atoms = dictionary.atoms(12, 12, grid=GRID, statistics=STATISTICS)
    channels = torch.zeros(3, 3).double()
    for a in range(3):
        for b in range(3):  # at the same place, the mean over places
            channels[a, b] = torch.stack([C[4 * a + p, 4 * b + p] for p in range(4)]).mean()
    points = GRID.coordinates()
    K = torch.kron(channels, kernel(points, points))
    torch.testing.assert_close(atoms.dictionary(0), K[:, atoms.indices[0]])
    assert atoms.base.n_static == 9 + 4 + 4


@pytest.mark.parametrize(
    "options",
    [{"kernel": k.Exponential()}, {"selection": "pivoted"}],
)
def test_channels_take_separable_kernels_and_no_pivots(options):
    with pytest.raises(ValueError, match="ChannelCovariance takes a separable kernel, such as Squ"):
        d.ChannelCovariance(**options)


def test_channels_need_a_grid():
    with pytest.raises(
        ValueError, match="ChannelCovariance needs the coordinates of the layer's 12"
    ):
        d.ChannelCovariance().atoms(12, 4, statistics=STATISTICS)


@pytest.mark.parametrize("ridge", [-0.1, float("inf"), float("nan")])
def test_ridges_that_are_none_are_refused(ridge):
    with pytest.raises(ValueError, match=rf"ridge is {ridge}: it is added to K's diagonal"):
        d.Covariance(ridge=ridge)
