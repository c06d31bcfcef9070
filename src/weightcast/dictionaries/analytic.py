"""Analytic orthonormal bases: DCT, Fourier and wavelet atoms; a column draws frequencies.

Each is orthonormal along every axis of the grid, and alike and apart in every channel.
"""

from __future__ import annotations

import importlib
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import scipy.fft
import torch
from torch import Tensor

from weightcast.codec import nearest
from weightcast.dictionaries.base import Atoms, Dictionary, Site, check_enough, with_channels
from weightcast.dictionaries.operators import Base
from weightcast.dictionaries.selection import (
    Positions,
    deal_leading,
    draw_on_grid,
    random_points,
)
from weightcast.grid import Grid


class _Transform(Dictionary):
    """What all analytic bases share: frequencies on a grid, drawn at random or lowest first."""

    selection: Literal["random", "leading"]
    positions: Positions
    rebuildable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.selection not in ("random", "leading"):
            raise ValueError(
                f"{type(self).__name__} has no selection {self.selection!r}: take 'random' or "
                "'leading' (lowest frequencies)"
            )

    @abstractmethod
    def _transform(self, grid: Grid) -> tuple[list[Tensor], Tensor]:
        """Factors of the spatial base, and the rank of each spatial atom, lowest first."""

    def build(self, site: Site) -> Atoms:
        """The transform on the site's grid, or on a line; see :meth:`Dictionary.build`."""
        grid = site.grid or Grid((site.n_visible,))
        factors, frequency = self._transform(grid)
        base: Base = site.shared_base((self._key(), grid), lambda: with_channels(grid, factors))
        check_enough(self, site.n_atoms, base.n_base)
        return Atoms(base, site.choose(lambda: self._draw(site, grid, frequency)))

    def _draw(self, site: Site, grid: Grid, frequency: Tensor) -> Tensor:
        if self.selection == "leading":
            order = frequency.repeat(grid.channels).argsort(stable=True)
            return deal_leading(order, site.n_atoms, site.columns)
        # The wavelet base of an odd grid has more atoms than the grid has points.
        frequencies = Grid((len(frequency),), channels=grid.channels)
        pick = random_points(len(frequency), site.generator)
        return draw_on_grid(
            frequencies, site.n_atoms, site.columns, self.positions, pick, site.generator
        )

    def _key(self) -> Any:
        return type(self)


@dataclass(frozen=True)
class DCT(_Transform):
    """Orthonormal DCT-II along every axis of the grid (a line, where the layer has no grid).

    Args:
        selection: ``random`` frequencies, or ``leading``: lowest first.
        positions: frequencies drawn ``per_channel``, or ``shared`` by all channels.

    Raises:
        ValueError: another selection.
    """

    selection: Literal["random", "leading"] = "random"
    positions: Positions = "per_channel"

    def _transform(self, grid: Grid) -> tuple[list[Tensor], Tensor]:
        factors = [
            torch.from_numpy(scipy.fft.idct(np.eye(n), axis=0, norm="ortho")) for n in grid.shape
        ]
        return factors, _radius([torch.arange(n) / n for n in grid.shape])


@dataclass(frozen=True)
class Fourier(_Transform):
    """Orthonormal real Fourier basis along every axis: constant, cosines and sines.

    Args:
        selection: ``random`` frequencies, or ``leading``: lowest first.
        positions: frequencies drawn ``per_channel``, or ``shared`` by all channels.

    Raises:
        ValueError: another selection.
    """

    selection: Literal["random", "leading"] = "random"
    positions: Positions = "per_channel"

    def _transform(self, grid: Grid) -> tuple[list[Tensor], Tensor]:
        factors = [_real_fourier(n) for n in grid.shape]
        return factors, _radius([(torch.arange(n) + 1) // 2 / n for n in grid.shape])


@dataclass(frozen=True)
class Wavelet(_Transform):
    """Discrete wavelet basis on a 1-d or 2-d grid (PyWavelets, extra ``wavelets``).

    Atoms are what ``pywt.waverecn`` makes of unit coefficients, periodised. Where every axis halves
    evenly down to the last level they are orthonormal; otherwise the grid is padded and cropped,
    and they are a tight frame with a few more atoms than points.

    Args:
        wavelet: an orthogonal family of PyWavelets, such as ``haar``, ``db2``, ``sym4``, ``coif1``.
        level: number of levels; None takes the most that PyWavelets advises, at least 1.
        selection: ``random`` atoms, or ``leading``: coarsest first.
        positions: atoms drawn ``per_channel``, or ``shared`` by all channels.

    Raises:
        ValueError: an unknown or non-orthogonal wavelet, a level below 1, or
            another selection.
    """

    wavelet: str = "db2"
    level: int | None = None
    selection: Literal["random", "leading"] = "random"
    positions: Positions = "per_channel"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.level is not None and self.level < 1:
            raise ValueError(f"level is {self.level}: a wavelet transform has at least 1 level")

    def _key(self) -> Any:
        return (type(self), self.wavelet, self.level)

    def _transform(self, grid: Grid) -> tuple[list[Tensor], Tensor]:
        if len(grid.shape) > 2:
            raise ValueError(f"Wavelet is for 1-d and 2-d grids, got {grid.shape}: use DCT")
        pywt = _pywavelets()
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


def _wavelet_atoms(pywt: Any, wavelet: Any, level: int, grid: Grid) -> tuple[list[Tensor], Tensor]:
    """All atoms of a periodised wavelet transform and their scale, coarsest 0."""
    options: dict[str, Any] = {"mode": "periodization"}
    zeros = pywt.wavedecn(np.zeros(grid.shape), wavelet, level=level, **options)
    array, slices = pywt.coeffs_to_array(zeros)
    scale = np.zeros(array.shape)
    for rank, part in enumerate(slices):
        for place in part.values() if isinstance(part, dict) else [part]:
            scale[place] = rank
    # One unit coefficient per row, all synthesised at once.
    units = np.eye(array.size).reshape(array.size, *array.shape)
    everything = slice(None)
    batched = [
        {key: (everything, *place) for key, place in part.items()}
        if isinstance(part, dict)
        else (everything, *part)
        for part in slices
    ]
    coefficients = pywt.array_to_coeffs(units, batched, output_format="wavedecn")
    axes = tuple(range(1, len(grid.shape) + 1))
    atoms = pywt.waverecn(coefficients, wavelet, axes=axes, **options)
    cropped = atoms[(everything, *(slice(extent) for extent in grid.shape))]
    base = torch.from_numpy(np.ascontiguousarray(cropped.reshape(array.size, -1).T))
    return [base], torch.from_numpy(scale.ravel())


def _real_fourier(n: int) -> Tensor:
    """Orthonormal real Fourier basis, (n, n): 1, cos 1, sin 1, cos 2, ... as columns."""
    t = torch.arange(n, dtype=torch.float64).unsqueeze(1)
    k = (torch.arange(n) + 1) // 2
    phase = 2 * torch.pi * t * k / n
    sine = (torch.arange(n) % 2 == 0) & (k > 0)
    basis = torch.where(sine, phase.sin(), phase.cos())
    return basis / basis.norm(dim=0)


def _radius(frequencies: list[Tensor]) -> Tensor:
    """Squared distance of every grid point from frequency zero, (n_points,)."""
    return sum_outer([f.double().square() for f in frequencies])


def sum_outer(terms: list[Tensor]) -> Tensor:
    """Sums over all combinations of one entry of each term, row-major, (prod of lengths,)."""
    total = torch.zeros(1, dtype=torch.float64)
    for term in terms:
        total = (total.unsqueeze(1) + term).flatten()
    return total


def _pywavelets() -> Any:
    try:
        return importlib.import_module("pywt")
    except ImportError as error:
        raise ImportError(
            "Wavelet dictionaries need PyWavelets: pip install 'weightcast[wavelets]'"
        ) from error
