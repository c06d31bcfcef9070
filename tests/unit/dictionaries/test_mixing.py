"""mixing: the small matrices between selected atoms and V."""

from __future__ import annotations

import copy
import re

import pytest
import torch

import weightcast as wc
from weightcast import dictionaries as d
from weightcast import kernels as k
from weightcast.dictionaries.atoms import Atoms
from weightcast.dictionaries.mixing import (
    mix,
    orthonormal_mixing,
    ridge_mixing,
    spectral_mixing,
)


def _positive(columns: int = 2, n: int = 5) -> torch.Tensor:
    A = torch.randn(columns, n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return A @ A.transpose(1, 2)


def test_ridge_mixing_is_the_regularised_inverse():
    gram = _positive()
    M = ridge_mixing(gram, 0.3)
    identity = torch.eye(5).double()
    torch.testing.assert_close(M @ (gram + 0.3 * identity), identity.expand(2, -1, -1))
    assert torch.equal(gram, _positive())


def test_orthonormal_mixing_is_the_nearest_orthonormal_matrix():
    atoms = torch.randn(2, 4, 9, dtype=torch.float64)
    M = orthonormal_mixing(atoms)
    U = atoms.transpose(1, 2) @ M
    torch.testing.assert_close(U.transpose(1, 2) @ U, torch.eye(4).double().expand(2, -1, -1))
    torch.testing.assert_close(M, M.transpose(1, 2))
    for A, near in zip(atoms.transpose(1, 2), U, strict=True):
        left, _, right = torch.linalg.svd(A, full_matrices=False)
        torch.testing.assert_close(near, left @ right)


def test_spectral_mixing():
    values = torch.tensor([[3.0, 1.0]], dtype=torch.float64)
    assert spectral_mixing("orthonormal", values, 0.5) is None
    torch.testing.assert_close(spectral_mixing("raw", values, 0.5), values)
    torch.testing.assert_close(spectral_mixing("ridge", values, 0.5), values / (values + 0.5))


def test_a_diagonal_mixes_as_its_matrix_does():
    diagonal, values = torch.rand(3, 4), torch.randn(3, 4, 5)
    torch.testing.assert_close(mix(diagonal, values), mix(torch.diag_embed(diagonal), values))


def test_mixing_is_each_columns_own_product():
    M, values = torch.randn(3, 4, 4), torch.randn(3, 4, 5)  # not symmetric: the order matters
    torch.testing.assert_close(
        mix(M, values), torch.stack([A @ V for A, V in zip(M, values, strict=True)])
    )


SPREAD = wc.Grid((3, 3), channels=64)


@pytest.mark.parametrize("mixing", ["ridge", "orthonormal"])
@pytest.mark.parametrize(
    ("n_atoms", "shape"),
    [(50, (50,)), (64, (64,)), (100, (100, 100)), (256, (64, 4, 4)), (300, (64, 5, 5))],
)
def test_channels_are_mixed_apart_as_by_the_whole_matrix(mixing, n_atoms, shape):
    """At most 1 atom in each of 64 channels, 1 or 2, 4, 4 or 5."""
    kernel = d.Kernel(k.SquaredExponential(1.0), mixing=mixing)
    atoms = kernel.atoms(576, n_atoms, columns=3, grid=SPREAD)
    assert atoms.mixing is not None
    assert atoms.mixing.shape == (3, *shape)
    assert (atoms.block_atoms is None) == (n_atoms != 300)  # no place empty, none out of order
    if mixing == "ridge":
        known = [atoms.base.entries(points.unsqueeze(1), points) for points in atoms.indices]
        whole = ridge_mixing(torch.stack(known), 0.1)
    else:
        whole = orthonormal_mixing(atoms.base.rows(atoms.indices))
    for column, M in enumerate(whole):
        own = atoms.mixing_matrix(column)
        assert own is not None
        torch.testing.assert_close(own.diag() if own.dim() == 1 else own, M)
    values = torch.randn(3, n_atoms, 5).double()
    torch.testing.assert_close(atoms.mix(values), whole @ values)
    torch.testing.assert_close(atoms.mix(values[1:], slice(1, 3)), whole[1:] @ values[1:])
    torch.testing.assert_close(atoms.mix(values.mT, of_rows=True), values.mT @ whole)
    torch.testing.assert_close(atoms.dictionaries(), atoms.base.rows(atoms.indices).mT @ whole)


def test_atoms_in_any_order_find_their_blocks():
    kernel = d.Kernel(k.SquaredExponential(1.0))
    drawn = kernel.atoms(576, 300, columns=2, grid=SPREAD)
    order = torch.randperm(300, generator=torch.Generator().manual_seed(0))
    shuffled = kernel.mix_atoms(drawn.base, drawn.indices[:, order])
    torch.testing.assert_close(shuffled.dictionaries(), drawn.dictionaries()[..., order])


@pytest.mark.parametrize("path", ["factored", "materialised"])
def test_layers_with_blocks_give_the_outputs_and_gradients_of_whole_matrices(path):
    """Both ways of mixing, of V for many rows and of the rows where they are few."""
    layer = wc.PredictedLinear(
        576, 7, dictionary=d.Kernel(), fraction=300 / 576, columns=3, grid=SPREAD, path=path
    ).double()
    assert layer.atoms.mixing is not None
    assert layer.atoms.mixing.dim() == 4
    other = copy.deepcopy(layer)
    M = [layer.atoms.mixing_matrix(column) for column in range(3)]
    other.atoms = Atoms(layer.atoms.base, layer.atoms.indices, torch.stack(M))  # pyright: ignore
    for batch in (1, 64):
        x = torch.randn(batch, 576).double()
        torch.testing.assert_close(layer(x), other(x))
        for one in (layer, other):
            one(x).square().sum().backward()
        torch.testing.assert_close(layer.V.grad, other.V.grad)


def test_a_kernel_keeps_one_matrix_where_blocks_would_be_larger():
    """Half of the atoms in one channel of 64, as atoms chosen to suit trained weights may be."""
    kernel, grid = d.Kernel(k.SquaredExponential(1.0)), wc.Grid((16, 16), channels=64)
    base = kernel.atoms(grid.n_visible, 1, grid=grid).base
    indices = torch.arange(0, grid.n_visible, 64)
    indices[:130] = torch.arange(130)
    atoms = kernel.mix_atoms(base, indices[None])
    assert atoms.mixing is not None
    assert atoms.mixing.shape == (1, 256, 256)


def test_blocks_that_do_not_fit_are_refused():
    atoms = d.Kernel(k.SquaredExponential(1.0)).atoms(576, 300, columns=2, grid=SPREAD)
    assert atoms.mixing is not None
    with pytest.raises(ValueError, match="a block of mixing has 5 atoms, but its size is 4"):
        Atoms(atoms.base, atoms.indices, atoms.mixing[..., :4, :4])
    for wrong in (atoms.mixing[:1], atoms.mixing[..., :2], torch.ones(2, 5, 3, 3).double()):
        with pytest.raises(ValueError, match="blocks that divide the base"):
            Atoms(atoms.base, atoms.indices, wrong)


def test_a_singular_kernel_without_ridge_is_refused_with_the_remedy():
    with pytest.raises(
        ValueError, match=r"20 chosen atoms is singular.*ridge=0.*Set ridge to .* or more"
    ):
        d.Kernel(k.SquaredExponential(20.0), ridge=0).atoms(25, 20, grid=(5, 5))
    with pytest.raises(ValueError, match="singular"):
        ridge_mixing(torch.ones(1, 2, 2).double(), 0.0)
    with pytest.raises(ValueError, match="singular"):
        ridge_mixing(torch.zeros(1, 2, 2).double(), 0.0)


def test_the_ridge_that_the_message_names_is_enough():
    dictionary = d.Kernel(k.SquaredExponential(20.0), ridge=0)
    with pytest.raises(ValueError, match="Set ridge to") as error:
        dictionary.atoms(25, 20, grid=(5, 5))
    ridge = float(re.search(r"Set ridge to (\S+) or more", str(error.value))[1])
    atoms = d.Kernel(k.SquaredExponential(20.0), ridge=ridge).atoms(25, 20, grid=(5, 5))
    assert bool(atoms.dictionaries().isfinite().all())


def test_dependent_atoms_cannot_be_orthonormal():
    with pytest.raises(ValueError, match=r"2 orthonormal atoms.*span only 1 dimensions"):
        orthonormal_mixing(torch.ones(1, 2, 5).double())
    with pytest.raises(ValueError, match="span only"):
        orthonormal_mixing(torch.randn(1, 6, 5).double())


def test_zero_eigenvalues_make_no_atoms():
    values = torch.tensor([[2.0, 0.0, 0.0]], dtype=torch.float64)
    for mixing in ("raw", "ridge"):
        with pytest.raises(ValueError, match=r"2 of the 3 chosen eigenvectors"):
            spectral_mixing(mixing, values, 0.1)


@pytest.mark.parametrize("ridge", [-0.1, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["Kernel", "Covariance", "SquaredCovariance", "PCA"])
def test_a_ridge_below_zero_is_refused(name, ridge):
    with pytest.raises(ValueError, match=rf"ridge is {ridge}"):
        getattr(d, name)(ridge=ridge)


@pytest.mark.parametrize(
    "name", ["Kernel", "Covariance", "SquaredCovariance", "KMeans", "Autoencoder", "RandomGaussian"]
)
def test_an_unknown_mixing_is_refused(name):
    with pytest.raises(ValueError, match=r"mixing.*orthonormall"):
        getattr(d, name)(mixing="orthonormall")


def test_orthonormal_atoms_survive_single_precision():
    layer = wc.PredictedLinear(
        784,
        10,
        dictionary=d.Kernel(k.SquaredExponential(2.0), mixing="orthonormal"),
        fraction=0.05,
        columns=5,
        grid=(28, 28),
    )
    U = layer.atoms.dictionaries()
    error = U.transpose(1, 2) @ U - torch.eye(39)
    assert float(error.abs().max()) < 1e-3
