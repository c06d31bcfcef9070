"""Factored path = materialised path = explicit loops, for every dictionary, layer and columns."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from tests.contract.table import (
    DICTIONARIES,
    LAYERS,
    example_rows,
    make_atoms,
    make_dictionary,
)
from tests.oracle import loops
from weightcast import Grid
from weightcast import dictionaries as d
from weightcast import kernels as k

TOLERANCE = {"rtol": 0, "atol": 1e-8}
CONVOLUTIONS = ("Conv2d", "Conv2d-groups", "Conv2d-stride", "Conv2d-dilation", "Conv2d-all")


def _numpy(tensor: torch.Tensor | None) -> np.ndarray | None:
    return None if tensor is None else tensor.detach().numpy()


def _weight_by_loops(layer) -> np.ndarray:
    atoms = layer.atoms
    B = atoms.base.rows(torch.arange(atoms.base.n_base)).detach().t().numpy()
    M = atoms.mixing
    if M is not None and M.dim() == 2:  # diagonals
        M = torch.diag_embed(M)
    elif M is not None and M.dim() == 4:  # blocks
        M = torch.stack([atoms.mixing_matrix(column) for column in range(atoms.columns)])
    return loops.predicted_weight(B, atoms.indices.numpy(), _numpy(M), layer.V.detach().numpy())


def _both_paths(layer, x: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    layer.path = "factored"
    factored = layer(x).detach().numpy()
    layer.path = "materialised"
    return factored, layer(x).detach().numpy()


@pytest.mark.parametrize("columns", [1, 3])
@pytest.mark.parametrize("name", DICTIONARIES)
def test_linear(name, columns):
    row = LAYERS["Linear"]
    layer, x = row.build(name, columns=columns), row.example()
    W = _weight_by_loops(layer)
    expected = loops.linear(x.numpy(), W, _numpy(layer.bias))
    factored, materialised = _both_paths(layer, x)
    np.testing.assert_allclose(layer.weight.detach().numpy(), W.T, **TOLERANCE)
    np.testing.assert_allclose(factored, expected, **TOLERANCE)
    np.testing.assert_allclose(materialised, expected, **TOLERANCE)


@pytest.mark.parametrize("columns", [1, 3])
@pytest.mark.parametrize("convolution", CONVOLUTIONS)
@pytest.mark.parametrize("name", DICTIONARIES)
def test_conv2d(name, convolution, columns):
    row = LAYERS[convolution]
    layer, x = row.build(name, columns=columns), row.example()
    W = _weight_by_loops(layer)
    factored, materialised = _both_paths(layer, x)
    np.testing.assert_allclose(layer.weight.detach().flatten(1).numpy(), W.T, **TOLERANCE)
    np.testing.assert_allclose(factored, materialised, **TOLERANCE)
    if name in ("Kernel-orthonormal", "Covariance", "DCT", "RandomConnections", "LowRank"):
        # The loops are slow, and by now only the convolution itself is in question.
        expected = loops.conv2d(
            x.numpy(),
            W,
            _numpy(layer.bias),
            kernel_size=layer.kernel_size,
            stride=layer.stride,
            padding=layer.padding,
            dilation=layer.dilation,
            groups=layer.groups,
        )
        np.testing.assert_allclose(factored, expected, **TOLERANCE)


@pytest.mark.parametrize("name", [n for n in LAYERS if re.match(r"Conv\dd", n)])
@pytest.mark.parametrize("columns", [1, 3])
def test_every_convolution_is_torchs_own_with_the_predicted_weight(name, columns):
    row = LAYERS[name]
    layer, x = row.build("Kernel-orthonormal", columns=columns), row.example()
    dense = row.build_dense(dtype=torch.float64)
    with torch.no_grad():
        dense.weight.copy_(layer.weight)
        if layer.bias is not None:
            dense.bias.copy_(layer.bias)
    expected = dense(x).detach().numpy()
    for y in _both_paths(layer, x):
        np.testing.assert_allclose(y, expected, **TOLERANCE)
    one = layer(x[0]).detach().numpy()
    np.testing.assert_allclose(one, expected[0], **TOLERANCE)


def _kernel_base(distance_kernel):
    return lambda rows: loops.kernel_matrix(distance_kernel, (4, 6))


INDEPENDENT_BASES = {
    "Kernel": _kernel_base(lambda r: loops.squared_exponential(r, 1.0)),
    "Kernel-raw": _kernel_base(lambda r: loops.squared_exponential(r, 1.0)),
    "Kernel-orthonormal": _kernel_base(lambda r: loops.squared_exponential(r, 1.0)),
    "Kernel-shared": _kernel_base(lambda r: loops.squared_exponential(r, 1.0)),
    "Kernel-pivoted": _kernel_base(lambda r: loops.squared_exponential(r, 1.0)),
    "Kernel-exponential": _kernel_base(lambda r: loops.exponential(r, 1.5)),
    "Kernel-matern-3/2": _kernel_base(lambda r: loops.matern(r, 1.5, 1.5)),
    "Kernel-matern-5/2": _kernel_base(lambda r: loops.matern(r, 1.5, 2.5)),
    "Covariance": loops.covariance,
    "Covariance-raw": loops.covariance,
    "Covariance-orthonormal": loops.covariance,
    "Covariance-pivoted": loops.covariance,
    "SquaredCovariance": lambda rows: loops.covariance(rows**2),
    "DCT": lambda rows: loops.transform_base(loops.dct_atom, (4, 6)),
    "DCT-leading": lambda rows: loops.transform_base(loops.dct_atom, (4, 6)),
    "Fourier": lambda rows: loops.transform_base(loops.fourier_atom, (4, 6)),
    "Fourier-leading": lambda rows: loops.transform_base(loops.fourier_atom, (4, 6)),
    "RandomConnections": lambda rows: np.eye(rows.shape[1]),
}
"""B from the formulas alone, for the dictionaries whose B has one."""


@pytest.mark.parametrize("columns", [1, 3])
@pytest.mark.parametrize("name", INDEPENDENT_BASES)
def test_atoms_are_base_times_mixing_from_the_formulas(name, columns):
    dictionary = make_dictionary(name, 24)
    atoms = make_atoms(name, columns=columns)
    B = INDEPENDENT_BASES[name](example_rows(24))
    for column, indices in enumerate(atoms.indices.numpy()):
        mixing = getattr(dictionary, "mixing", "raw")
        if mixing == "ridge":
            M = loops.ridge_mixing(B, indices, dictionary.ridge)
        elif mixing == "orthonormal":
            M = loops.orthonormal_mixing(B, indices)
        else:
            M = np.eye(len(indices))
        U = atoms.dictionaries()[column].numpy()
        np.testing.assert_allclose(U, B[:, indices] @ M, **TOLERANCE)


@pytest.mark.parametrize(
    "dictionary",
    [d.Kernel(k.SquaredExponential(1.2)), d.Kernel(k.Exponential(1.2)), d.DCT(), d.Fourier()],
)
def test_channels_are_alike_and_apart(dictionary):
    grid = Grid((3, 4), channels=2)
    base = dictionary.atoms(24, 5, grid=grid).base
    B = base.rows(torch.arange(base.n_base)).t().numpy()
    expected = {
        "Kernel": lambda: loops.kernel_matrix(
            lambda r: float(dictionary.kernel(torch.zeros(1, 1).double(),
                                              torch.tensor([[r]], dtype=torch.float64))),
            (3, 4), 2,
        ),
        "DCT": lambda: loops.transform_base(loops.dct_atom, (3, 4), 2),
        "Fourier": lambda: loops.transform_base(loops.fourier_atom, (3, 4), 2),
    }[type(dictionary).__name__]()  # fmt: skip
    np.testing.assert_allclose(B, expected, **TOLERANCE)
