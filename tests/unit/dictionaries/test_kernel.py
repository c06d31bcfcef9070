"""Kernel ridge regression on coordinates, against the formula written out."""

from __future__ import annotations

import pytest
import torch

from weightcast import Grid
from weightcast import dictionaries as d
from weightcast import kernels as k

GRID = Grid((3, 4), 2)
SPACE = Grid((3, 4))


def matrix(kernel: k.CoordinateKernel) -> torch.Tensor:
    """K = I_channels (x) K_space."""
    points = SPACE.coordinates()
    return torch.kron(torch.eye(2).double(), kernel(points, points))


@pytest.mark.parametrize("kernel", [k.SquaredExponential(1.5), k.Exponential(1.5)], ids=repr)
@pytest.mark.parametrize("mixing", ["ridge", "raw", "orthonormal"])
def test_atoms_are_the_formula_for_separable_kernels_and_others(kernel, mixing):
    atoms = d.Kernel(kernel, mixing=mixing, ridge=0.2).atoms(24, 6, columns=2, grid=GRID)
    K, separable = matrix(kernel), kernel.separable
    # I_channels and one factor per axis, or one for all axes.
    assert atoms.base.n_static == (9 + 16 if separable else 144)
    for column, points in enumerate(atoms.indices):
        U, raw = atoms.dictionary(column), K[:, points]
        if mixing == "raw":
            torch.testing.assert_close(U, raw)
        elif mixing == "ridge":
            regular = K[points][:, points] + 0.2 * torch.eye(6).double()
            torch.testing.assert_close(U, raw @ torch.linalg.inv(regular))
        else:
            torch.testing.assert_close(U.t() @ U, torch.eye(6).double())
            torch.testing.assert_close(U @ (U.t() @ raw), raw)  # of the same span


def test_without_ridge_known_weights_stay_as_they_are():
    atoms = d.Kernel(ridge=0.0).atoms(24, 6, grid=GRID)
    torch.testing.assert_close(atoms.dictionary(0)[atoms.indices[0]], torch.eye(6).double())


def test_leading_atoms_are_eigenvectors_of_k():
    kernel = k.SquaredExponential(1.5)
    leading = d.Kernel(kernel, selection="leading", mixing="orthonormal")
    U = leading.atoms(24, 4, grid=GRID).dictionary(0)
    K = matrix(kernel)
    values = (U * (K @ U)).sum(dim=0)
    torch.testing.assert_close(K @ U, U * values)
    torch.testing.assert_close(
        values.sort(descending=True).values, torch.linalg.eigvalsh(K).flip(0)[:4]
    )


def test_v_holds_known_weights_only_with_ridge_at_points():
    assert d.Kernel().reads_weights
    assert not d.Kernel(mixing="raw").reads_weights
    assert not d.Kernel(selection="leading").reads_weights


def test_many_atoms_are_mixed_channel_by_channel_to_the_same_u():
    grid = Grid((4, 4), 20)
    for mixing in ("ridge", "orthonormal"):
        atoms = d.Kernel(mixing=mixing, ridge=0.2).atoms(320, 260, grid=grid)
        assert atoms.mixing is not None
        assert atoms.mixing.dim() == 4
        points = grid.coordinates()
        K = torch.kron(torch.eye(20).double(), k.SquaredExponential()(points, points))
        raw, U = K[:, atoms.indices[0]], atoms.dictionary(0)
        if mixing == "ridge":
            regular = raw[atoms.indices[0]] + 0.2 * torch.eye(260).double()
            torch.testing.assert_close(U, raw @ torch.linalg.inv(regular))
        else:
            torch.testing.assert_close(U.t() @ U, torch.eye(260).double())


def test_pivots_of_one_column_start_where_variance_is_largest_and_draw_nothing():
    pivoted = d.Kernel(selection="pivoted")
    one, two = (pivoted.atoms(12, 3, grid=(3, 4), seed=s).indices for s in (0, 1))
    assert torch.equal(one, two)
    first = one[0].tolist()
    coordinates = SPACE.coordinates()[first]
    assert float(torch.pdist(coordinates).min()) > 1.5  # far from each other


def test_what_is_no_kernel_is_refused_and_scikit_learns_are_taken():
    with pytest.raises(ValueError, match="kernel"):
        d.Kernel(kernel=3)  # pyright: ignore[reportArgumentType]
    from sklearn.gaussian_process.kernels import RBF

    U = d.Kernel(RBF(1.5)).atoms(12, 3, grid=(3, 4)).dictionary(0)
    torch.testing.assert_close(
        U, d.Kernel(k.SquaredExponential(1.5)).atoms(12, 3, grid=(3, 4)).dictionary(0)
    )
