"""Analytic bases: DCT, Fourier and wavelet atoms, orthonormal, the same in every channel."""

from __future__ import annotations

import importlib
import warnings
from abc import abstractmethod
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from weightcast.dictionaries.atoms import Atoms, stacking
from weightcast.dictionaries.base import Dictionary, check_enough
from weightcast.dictionaries.input_site import Site
from weightcast.dictionaries.kronecker import with_channels
from weightcast.dictionaries.selection import Positions, deal_leading, draw_on_grid, random_points
from weightcast.dictionaries.work import CUBE, NUMBER
from weightcast.grid import Grid
from weightcast.serialization import nearest


class _Transform(Dictionary):
    """What all analytic bases share: frequencies on a grid, drawn at random or lowest first."""

    selection: Literal["random", "leading"]
    positions: Positions
    rebuildable: ClassVar[bool] = True

    @abstractmethod
    def _transform(self, grid: Grid) -> tuple[list[Tensor], Tensor]:
        """Factors of the spatial base, and the rank of each spatial atom, lowest first."""

    def build(self, site: Site) -> Atoms:
        """The transform on the site's grid, or on a line; see :meth:`Dictionary.build`."""
        grid = _grid(site)
        factors, frequency = self._transform(grid)
        drawn = ("selection", "positions")  # one base serves all of these
        told = [getattr(self, f.name) for f in fields(self) if f.name not in drawn]
        key = (type(self), *told, grid)
        base = site.shared_base(key, lambda: with_channels(grid, factors))
        check_enough(self, site.n_atoms, base.n_base)
        return Atoms(base, site.choose(lambda: self._draw(site, grid, frequency)))

    def work(self, site: Site) -> int:
        """The work of a square factor for each axis, and of U; see :meth:`Dictionary.work`."""
        return _work(site, _grid(site).shape)

    def _draw(self, site: Site, grid: Grid, frequency: Tensor) -> Tensor:
        if self.selection == "leading":
            order = frequency.repeat(grid.channels).argsort(stable=True)
            return deal_leading(order, site.n_atoms, site.columns)
        pick = random_points(grid.n_points, site.generator)
        return draw_on_grid(grid, site.n_atoms, site.columns, self.positions, pick, site.generator)


@dataclass(frozen=True)
class _Frequencies(_Transform):
    selection: Literal["random", "leading"] = "random"
    positions: Positions = "per_channel"


@dataclass(frozen=True)
class DCT(_Frequencies):
    """Orthonormal DCT-II along every axis of the grid (a line, where the layer has no grid).

    Args:
        selection: ``random`` frequencies, or ``leading``: lowest first.
        positions: frequencies drawn ``per_channel``, or ``shared`` by all channels.
    """

    def _transform(self, grid: Grid) -> tuple[list[Tensor], Tensor]:
        from scipy.fft import idct

        factors = [torch.from_numpy(idct(np.eye(n), axis=0, norm="ortho")) for n in grid.shape]
        return factors, _radius([torch.arange(n).double() / n for n in grid.shape])


@dataclass(frozen=True)
class Fourier(_Frequencies):
    """Orthonormal real Fourier basis along every axis: constant, cosines and sines.

    Arguments as for :class:`DCT`.
    """

    def _transform(self, grid: Grid) -> tuple[list[Tensor], Tensor]:
        factors = [_real_fourier(n) for n in grid.shape]
        return factors, _radius([((torch.arange(n) + 1) // 2).double() / n for n in grid.shape])


@dataclass(frozen=True)
class Wavelet(_Transform):
    """Discrete wavelet basis on a 1-d or 2-d grid (PyWavelets, extra ``wavelets``).

    Atoms are what ``pywt.waverecn`` makes of unit coefficients, periodised. Where every axis halves
    evenly down to the last level these are orthonormal; elsewhere they are made so, coarsest
    first, and those that add nothing are left out.

    Args:
        wavelet: an orthogonal family of PyWavelets, such as ``haar``, ``db2``, ``sym4``, ``coif1``.
        level: number of levels; None takes the most that PyWavelets advises, at least 1.
        selection: ``random`` atoms, or ``leading``: coarsest first.
        positions: atoms drawn ``per_channel``, or ``shared`` by all channels.

    Raises:
        ValueError: an unknown or non-orthogonal wavelet, a level below 1, another selection.
    """

    wavelet: str = "db2"
    level: int | None = None
    selection: Literal["random", "leading"] = "random"
    positions: Positions = "per_channel"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.level is not None and not 1 <= self.level <= 32:
            raise ValueError(
                f"level is {self.level}: a wavelet transform has at least 1 level, and after 32 "
                "nothing is left to halve"
            )

    def work(self, site: Site) -> int:
        """The work of all points' atoms, made orthonormal one after the other, and of U."""
        n = _grid(site).n_points
        return _work(site, (n,)) + 7 * n**2 * NUMBER + CUBE * n**3

    def _transform(self, grid: Grid) -> tuple[list[Tensor], Tensor]:
        if len(grid.shape) > 2:
            raise ValueError(f"Wavelet is for 1-d and 2-d grids, got {grid.shape}: use DCT")
        try:
            pywt: Any = importlib.import_module("pywt")
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "Wavelet dictionaries need PyWavelets: pip install 'weightcast[wavelets]'"
            ) from error
        known = pywt.wavelist(kind="discrete")
        if self.wavelet not in known:
            raise ValueError(
                f"PyWavelets has no wavelet {self.wavelet!r}{nearest(self.wavelet, known)}"
            )
        wavelet = pywt.Wavelet(self.wavelet)
        if not wavelet.orthogonal:
            raise ValueError(
                f"wavelet {self.wavelet!r} is not orthogonal: take one of the families haar, db, "
                "sym, coif"
            )
        level = self.level or max(1, pywt.dwtn_max_level(grid.shape, wavelet))
        return _wavelet_atoms(pywt, wavelet, level, grid)


def _grid(site: Site) -> Grid:
    return site.grid or Grid((site.n_visible,))


def _work(site: Site, sizes: tuple[int, ...]) -> int:
    """Multiply-adds of square factors of these sizes, and of U where it is multiplied out."""
    assert site.indices is not None
    dear = stacking(site.n_visible * sum(sizes), site.n_visible, site.indices)
    return sum(n**2 for n in sizes) * NUMBER + dear


def _wavelet_atoms(pywt: Any, wavelet: Any, level: int, grid: Grid) -> tuple[list[Tensor], Tensor]:
    """All atoms of a periodised wavelet transform, and their scale: coarsest 0."""
    with warnings.catch_warnings():
        # Filters longer than a small grid wrap around it, which is what periodised means.
        warnings.filterwarnings("ignore", "Level value of .* is too high", UserWarning)
        zeros = pywt.wavedecn(np.zeros(grid.shape), wavelet, "periodization", level)
    axes = tuple(range(1, len(grid.shape) + 1))
    crop = (slice(None), *(slice(extent) for extent in grid.shape))
    atoms, scales = [], []
    for rank, part in enumerate(zeros):
        for key, places in part.items() if isinstance(part, dict) else [(None, part)]:
            # One unit coefficient per row, all of this part synthesised at once.
            n = places.size
            coefficients = [_batched(other, n) for other in zeros]
            units = np.eye(n).reshape(n, *places.shape)
            if key is None:
                coefficients[rank] = units
            else:
                coefficients[rank][key] = units
            made = pywt.waverecn(coefficients, wavelet, "periodization", axes=axes)
            atoms.append(made[crop].reshape(n, -1))
            scales.append(np.full(n, rank))
    return _orthonormal_atoms(np.concatenate(atoms), np.concatenate(scales))


def _batched(part: Any, n: int) -> Any:
    """Zero coefficients for n signals."""
    if isinstance(part, dict):
        return {key: np.zeros((n, *value.shape)) for key, value in part.items()}
    return np.zeros((n, *part.shape))


def _orthonormal_atoms(atoms: np.ndarray, scales: np.ndarray) -> tuple[list[Tensor], Tensor]:
    """Atoms as rows, in order, made orthonormal by Gram and Schmidt unless they are already."""
    n_points = atoms.shape[1]
    if len(atoms) == n_points and np.allclose(atoms @ atoms.T, np.eye(n_points), atol=1e-9):
        return [torch.from_numpy(np.ascontiguousarray(atoms.T))], torch.from_numpy(scales)
    basis, kept = np.empty((n_points, n_points)), []
    for place, atom in enumerate(atoms):
        found = basis[: len(kept)]
        for _ in range(2):  # twice is enough (Kahan, in Parlett 1980, section 6.9)
            atom = atom - found.T @ (found @ atom)
        if len(kept) < n_points and np.linalg.norm(atom) > 1e-6:
            basis[len(kept)] = atom / np.linalg.norm(atom)
            kept.append(place)
    assert len(kept) == n_points, "the transform is invertible, so its atoms span the grid"
    return [torch.from_numpy(np.ascontiguousarray(basis.T))], torch.from_numpy(scales[kept])


def _real_fourier(n: int) -> Tensor:
    """Orthonormal real Fourier basis, (n, n): [:, i] is one of 1, cos 1, sin 1, cos 2, ...."""
    t = torch.arange(n, dtype=torch.float64).unsqueeze(1)
    k = (torch.arange(n) + 1) // 2
    phase = 2 * torch.pi * t * k / n
    sine = (torch.arange(n) % 2 == 0) & (k > 0)
    basis = torch.where(sine, phase.sin(), phase.cos())
    return basis / basis.norm(dim=0)


def _radius(frequencies: list[Tensor]) -> Tensor:
    """Squared distance of every grid point from frequency zero, row-major, (n_points,)."""
    total = torch.zeros(1, dtype=torch.float64)
    for frequency in frequencies:
        total = (total.unsqueeze(1) + frequency.double().square()).flatten()
    return total
