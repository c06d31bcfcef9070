"""Analytic bases: against SciPy, NumPy and PyWavelets, and their order by frequency."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.fft
import torch

from weightcast import Grid
from weightcast import dictionaries as d


def everything(dictionary: d.Dictionary, grid: Grid) -> np.ndarray:
    """All atoms in the order of the base, (n_visible, n_visible)."""
    base = dictionary.atoms(grid.n_visible, 1, grid=grid).base
    return base.rows(torch.arange(grid.n_visible)).t().numpy()


def test_dct_is_scipys():
    x = np.random.default_rng(0).standard_normal((4, 6))
    U = everything(d.DCT(), Grid((4, 6)))
    np.testing.assert_allclose(x.flatten() @ U, scipy.fft.dctn(x, norm="ortho").flatten())


@pytest.mark.parametrize("n", [7, 8])
def test_fourier_is_numpys(n):
    x = np.random.default_rng(0).standard_normal(n)
    found, expected = x @ everything(d.Fourier(), Grid((n,))), np.fft.rfft(x, norm="ortho")
    scale = np.full(len(expected), 2**0.5)  # but for those that are their own conjugates
    scale[0] = 1
    if n % 2 == 0:
        scale[-1] = 1
    np.testing.assert_allclose(found[0], expected[0].real)
    np.testing.assert_allclose(found[1::2], (scale * expected.real)[1:])
    np.testing.assert_allclose(found[2::2], -(scale * expected.imag)[1 : 1 + len(found[2::2])])


@pytest.mark.parametrize(("name", "grid"), [("haar", (8,)), ("db2", (8, 8)), ("db2", (5, 6))])
def test_wavelets_are_an_orthonormal_basis(name, grid):
    pytest.importorskip("pywt")
    U = everything(d.Wavelet(name), Grid(grid))
    np.testing.assert_allclose(U.T @ U, np.eye(len(U)), atol=1e-9)


def test_haar_atoms_are_steps_coarsest_first():
    pytest.importorskip("pywt")
    atoms = d.Wavelet("haar", level=2, selection="leading").atoms(4, 4)
    expected = np.array([[1, 1, 1, 1], [1, 1, -1, -1], [1, -1, 0, 0], [0, 0, 1, -1]]) / 2
    expected[2:] *= 2**0.5
    np.testing.assert_allclose(atoms.dictionary(0).t().numpy(), expected, atol=1e-12)


def test_leading_atoms_have_the_lowest_frequencies_in_all_channels():
    atoms = d.DCT(selection="leading").atoms(32, 6, grid=Grid((4, 4), 2))
    assert sorted(atoms.indices[0].tolist()) == [0, 1, 4, 16, 17, 20]
    line = d.DCT(selection="leading").atoms(5, 3)  # without a grid
    assert line.indices.tolist() == [[0, 1, 2]]


def test_shared_positions_are_the_same_in_every_channel():
    atoms = d.DCT(positions="shared").atoms(32, 8, grid=Grid((4, 4), 2))
    channels = [sorted(i % 16 for i in atoms.indices[0].tolist() if i // 16 == c) for c in (0, 1)]
    assert channels[0] == channels[1]


def test_wavelet_levels_are_bounded():
    for level in (0, 33):
        with pytest.raises(
            ValueError, match=rf"level is {level}: .* at least 1 level, and after 32"
        ):
            d.Wavelet(level=level)
