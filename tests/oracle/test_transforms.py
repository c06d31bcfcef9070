"""Analytic bases against scipy, NumPy and PyWavelets."""

from __future__ import annotations

import numpy as np
import pytest
import pywt
import scipy.fft
import torch

from weightcast import dictionaries as d
from weightcast.grid import Grid


def _base(dictionary: d.Dictionary, shape: tuple[int, ...]) -> np.ndarray:
    """B on a grid, (n_visible, n_base)."""
    grid = Grid(shape)
    base = dictionary.atoms(grid.n_visible, 1, grid=grid).base
    return base.rows(torch.arange(base.n_base)).t().numpy()


@pytest.mark.parametrize("shape", [(1,), (7,), (8,), (4, 6), (5, 3), (2, 3, 4)])
def test_dct_is_scipys(shape):
    B = _base(d.DCT(), shape)
    for column, unit in enumerate(np.ndindex(*shape)):
        coefficients = np.zeros(shape)
        coefficients[unit] = 1
        expected = scipy.fft.idctn(coefficients, norm="ortho").ravel()
        np.testing.assert_allclose(B[:, column], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(1,), (2,), (7,), (8,), (4, 6), (5, 3), (2, 3, 4)])
def test_fourier_is_orthonormal(shape):
    B = _base(d.Fourier(), shape)
    np.testing.assert_allclose(B.T @ B, np.eye(B.shape[1]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("n", [1, 2, 7, 8])
def test_fourier_atoms_span_what_rfft_measures(n):
    B = _base(d.Fourier(), (n,))
    spectrum = np.abs(np.fft.rfft(B.T, axis=1))
    for index in range(n):
        others = np.delete(spectrum[index], (index + 1) // 2)
        np.testing.assert_allclose(others, 0, atol=1e-12)
        assert spectrum[index, (index + 1) // 2] > 0.5


WAVELETS = [
    ("haar", None, (8,)),
    ("haar", None, (8, 4)),
    ("db2", 1, (8, 8)),
    ("db2", None, (16, 16)),
    ("sym4", 1, (16,)),
    ("coif1", 1, (16, 12)),
    ("haar", 1, (28, 28)),
    ("db2", 2, (28, 28)),
]


@pytest.mark.parametrize(("wavelet", "level", "shape"), WAVELETS)
def test_wavelet_atoms_are_waverecn_of_unit_coefficients(wavelet, level, shape):
    B = _base(d.Wavelet(wavelet, level=level), shape)
    family = pywt.Wavelet(wavelet)
    level = level or pywt.dwtn_max_level(shape, family)
    zeros = pywt.wavedecn(np.zeros(shape), family, mode="periodization", level=level)
    arrays = [zeros[0], *(part[key] for part in zeros[1:] for key in sorted(part))]
    atoms = []
    for array in arrays:
        for place in np.ndindex(*array.shape):
            array[place] = 1
            atoms.append(pywt.waverecn(zeros, family, mode="periodization").ravel())
            array[place] = 0
    atoms = np.array(atoms)  # in another order than ours
    overlap = np.abs(atoms @ B)
    assert B.shape == (np.prod(shape), np.prod(shape))
    np.testing.assert_allclose(np.sort(overlap.max(axis=0)), 1, atol=1e-8)
    matched = atoms[overlap.argmax(axis=0)]
    assert len(set(overlap.argmax(axis=0))) == len(atoms)
    np.testing.assert_allclose(B.T, matched, rtol=0, atol=1e-8)


@pytest.mark.parametrize(("wavelet", "level", "shape"), WAVELETS)
def test_wavelets_are_orthonormal_where_every_axis_halves_evenly(wavelet, level, shape):
    B = _base(d.Wavelet(wavelet, level=level), shape)
    np.testing.assert_allclose(B.T @ B, np.eye(B.shape[1]), rtol=0, atol=1e-8)


ODD = [("haar", None, (7,)), ("haar", 1, (5, 6)), ("db2", None, (28, 28)), ("haar", 2, (6, 6))]


@pytest.mark.parametrize(("wavelet", "level", "shape"), ODD)
def test_no_wavelet_atom_is_zero(wavelet, level, shape):
    norms = np.linalg.norm(_base(d.Wavelet(wavelet, level=level), shape), axis=0)
    assert (norms < 1e-9).sum() == 0, f"{(norms < 1e-9).sum()} of {len(norms)} atoms are zero"


@pytest.mark.parametrize(("wavelet", "level", "shape"), ODD)
def test_wavelets_reconstruct_every_filter(wavelet, level, shape):
    B = _base(d.Wavelet(wavelet, level=level), shape)
    np.testing.assert_allclose(B @ B.T, np.eye(len(B)), rtol=0, atol=1e-8)


@pytest.mark.parametrize(("wavelet", "level", "shape"), ODD[:2])
def test_all_wavelet_atoms_of_an_odd_grid_represent_every_filter(wavelet, level, shape):
    n_visible = int(np.prod(shape))
    for seed in range(5):
        atoms = d.Wavelet(wavelet, level=level).atoms(n_visible, n_visible, grid=shape, seed=seed)
        rank = int(torch.linalg.matrix_rank(atoms.dictionaries()[0]))
        assert rank == n_visible, f"fraction 1 spans only {rank} of {n_visible} dimensions"


def _orders(dictionary: d.Dictionary, shape: tuple[int, ...], count: int) -> list[float]:
    """Total variation of the leading atoms: how fast each oscillates."""
    grid = Grid(shape)
    U = dictionary.atoms(grid.n_visible, count, grid=grid).dictionaries()[0].t()
    images = U.reshape(count, *shape)
    return [float(sum(i.diff(dim=a).square().sum() for a in range(i.dim()))) for i in images]


@pytest.mark.parametrize("name", ["DCT", "Fourier"])
def test_leading_frequencies_come_lowest_first(name):
    energy = _orders(getattr(d, name)(selection="leading"), (8, 8), 64)
    assert energy[0] < 1e-12
    assert max(energy[:6]) < min(energy[-6:])


def test_leading_wavelets_come_coarsest_first():
    U = d.Wavelet("haar", selection="leading").atoms(16, 4, grid=(16,)).dictionaries()[0]
    support = (U.abs() > 1e-9).sum(dim=0)
    assert support.tolist() == sorted(support.tolist(), reverse=True)
    assert support[0] == 16


@pytest.mark.parametrize("shape", [(3, 3), (5, 5), (4, 6), (1,)])
def test_small_grids_need_no_warning(shape):
    U = d.Wavelet().atoms(int(np.prod(shape)), 1, grid=shape).dictionaries()
    assert bool(U.isfinite().all())
