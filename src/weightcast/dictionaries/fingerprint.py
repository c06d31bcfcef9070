"""Fingerprint: a few numbers that tell one dictionary, or one order of its atoms, from another."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from weightcast.dictionaries.atoms import Atoms
from weightcast.dictionaries.mixing import mix
from weightcast.serialization import Configuration

_PROBES = 4
TOLERANCE = 1e-5  # how far a rebuilt dictionary's sums may lie from the stored ones, per size


@dataclass(frozen=True)
class Fingerprint(Configuration):
    """``sums``: sum_a w_a (U^T x_k)_a for a few fixed x_k and weights w over all columns' atoms.

    It takes a few rows through the base, and not U. Another base, other atoms or the same ones in
    another order move the sums by about ``size``: the norm of all (U^T x_k)_a.
    """

    sums: tuple[float, ...]
    size: float

    def agrees(self, other: Fingerprint, dtypes: tuple[torch.dtype, torch.dtype]) -> bool:
        """Whether both may be of the same dictionary, built in these two dtypes."""
        # Rounding in half precision is far larger than what rebuilding elsewhere changes.
        rounding = max(torch.finfo(dtype).eps for dtype in dtypes)
        allowed = (TOLERANCE + 8 * rounding) * max(self.size, other.size)
        if not math.isfinite(allowed):
            return False
        pairs = [*zip(self.sums, other.sums, strict=False), (self.size, other.size)]
        return len(self.sums) == len(other.sums) and all(abs(a - b) <= allowed for a, b in pairs)


@torch.no_grad()
def fingerprint(atoms: Atoms) -> Fingerprint:
    """The fingerprint of all columns' dictionaries, in any floating-point dtype, on any device."""
    base, indices = atoms.base, atoms.indices
    like = base.rows(indices[0, :1])
    if like.element_size() < 4:
        base, like = copy.deepcopy(base).float(), like.float()
    x = _scattered(_PROBES * base.n_visible).view(_PROBES, base.n_visible).to(like)
    projected = base.transform(x)  # (n_base, probes)
    values = projected[indices].double()  # (columns, n_atoms, probes)
    if atoms.mixing is not None:
        for column in range(atoms.columns):  # one at a time: in float64 they are large
            own, places = slice(column, column + 1), None
            if atoms.block_atoms is not None and atoms.atom_places is not None:
                places = atoms.block_atoms[own], atoms.atom_places[own]
            M = atoms.mixing[own].double()
            values[own] = mix(M.mT if M.dim() > 2 else M, values[own], places)
    values = values.cpu()
    weights = _scattered(indices.numel()).view(*indices.shape, 1)
    sums = (weights * values).sum(dim=(0, 1))
    return Fingerprint(tuple(sums.tolist()), float(values.norm()))


def _scattered(count: int) -> Tensor:
    """(count,) float64 in [-1, 1): a hash of each place, the same on every machine."""
    h = torch.arange(1, count + 1, device="cpu") * 0x9E3779B1 & 0xFFFFFFFF
    h = (h ^ h >> 15) * 0x85EBCA77 & 0xFFFFFFFF
    return (h ^ h >> 13).double() / 2**31 - 1
