"""How atoms are kept in a file: a base by its factors, indices as numbers or as a bit mask."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from weightcast.dictionaries.kronecker import KroneckerBase
from weightcast.dictionaries.operators import Base, DenseBase, IdentityBase
from weightcast.serialization import Configuration

_SHIFTS = torch.arange(7, -1, -1, dtype=torch.uint8)


@dataclass(frozen=True)
class BaseSpec(Configuration):
    """What a base is made of."""

    KIND = "BaseFacts"  # in the files of schema 2

    kind_of_base: Literal["dense", "identity", "kronecker"]
    factors: tuple[tuple[int, ...] | int, ...]  # (n, m) of a matrix, n of an identity

    def __post_init__(self) -> None:
        matrices = [factor for factor in self.factors if not isinstance(factor, int)]
        n_matrices = {"dense": 1, "identity": 0}.get(self.kind_of_base, max(1, len(matrices)))
        whole = self.kind_of_base == "kronecker" or len(self.factors) == 1
        sizes = [n for f in self.factors for n in ((f,) if isinstance(f, int) else f)]
        if not whole or len(matrices) != n_matrices or min(sizes, default=0) < 1:
            raise ValueError(f"no {self.kind_of_base} base is made of {self.factors}")
        if any(len(matrix) != 2 for matrix in matrices) or len(self.factors) > 16:
            raise ValueError(f"no base is made of {self.factors}")

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Names of the matrices in a state dict, in their order, to their shapes there, (m, n)."""
        name = "atoms" if self.kind_of_base == "dense" else "factor_{}"
        return {
            name.format(axis): factor[::-1]
            for axis, factor in enumerate(self.factors)
            if not isinstance(factor, int)
        }


def pack(base: Base) -> tuple[BaseSpec, dict[str, Tensor]]:
    """The spec of a base, and by its name in a state dict every factor that is a matrix, (m, n).

    A base of another kind than ours is multiplied out.
    """
    if isinstance(base, IdentityBase):
        return BaseSpec("identity", (base.n_visible,)), {}
    if isinstance(base, KroneckerBase):
        factors = [base.factor(axis) for axis in range(len(base.sizes_in))]
        pairs = zip(base.sizes_in, factors, strict=True)
        sizes = tuple(n if F is None else (n, len(F)) for n, F in pairs)
        tensors = {f"factor_{axis}": F for axis, F in enumerate(factors) if F is not None}
        return BaseSpec("kronecker", sizes), tensors
    if isinstance(base, DenseBase):
        atoms = base.atoms
    else:
        like = next(base.buffers(), torch.empty(0))
        atoms = base.rows(torch.arange(base.n_base, device=like.device))
    return BaseSpec("dense", ((base.n_visible, base.n_base),)), {"atoms": atoms}


def unpack(spec: BaseSpec, read: Callable[[str], Tensor], *, learned: bool) -> Base:
    """Undo :func:`pack`: ``read`` gives factors by name; a dense base's may be ``learned``."""
    first = spec.factors[0]
    if spec.kind_of_base == "dense":
        return DenseBase(read("atoms"), learned=learned)
    if spec.kind_of_base == "identity":
        assert isinstance(first, int)
        return IdentityBase(first)
    return KroneckerBase(
        [
            factor if isinstance(factor, int) else read(f"factor_{axis}").t()
            for axis, factor in enumerate(spec.factors)
        ]
    )


def pack_indices(indices: Tensor, n_base: int) -> tuple[str, Tensor]:
    """``indices`` and (columns, n_atoms) in the smallest integers that hold them; or ``mask``.

    A mask has a bit for each atom of the base, (columns, ceil(n_base / 8)) uint8, the first atom's
    the highest. It is taken where it is smaller, if every column's indices ascend.
    """
    dtypes, largest = (torch.uint8, torch.int16, torch.int32, torch.int64), int(indices.max())
    dtype = next(dtype for dtype in dtypes if largest <= torch.iinfo(dtype).max)
    columns, width = len(indices), -(-n_base // 8)
    ascending = bool((indices[:, 1:] > indices[:, :-1]).all())
    if not ascending or columns * width >= indices.numel() * dtype.itemsize:
        return "indices", indices.to(dtype)
    bits = indices.new_zeros(columns, 8 * width, dtype=torch.uint8).scatter_(1, indices, 1)
    bits = bits.unflatten(1, (width, 8)) << _SHIFTS.to(bits.device)
    return "mask", bits.sum(dim=2, dtype=torch.uint8)


def unpack_mask(mask: Tensor, n_atoms: int) -> Tensor:
    """The (columns, n_atoms) indices of a mask; ValueError if a column has another number."""
    bits = (mask.unsqueeze(2) >> _SHIFTS) & 1
    counts = bits.sum(dim=(1, 2))
    if not bool((counts == n_atoms).all()):
        odd = int((counts != n_atoms).nonzero()[0])
        raise ValueError(f"column {odd} of a mask has {int(counts[odd])} atoms, not {n_atoms}")
    return bits.flatten(1).nonzero()[:, 1].view(len(mask), n_atoms)
