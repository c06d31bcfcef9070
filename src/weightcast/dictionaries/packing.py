"""How a base is kept in a file: its factors as tensors, and their sizes in the manifest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from weightcast.dictionaries.base import check_choices
from weightcast.dictionaries.kronecker import KroneckerBase
from weightcast.dictionaries.operators import Base, DenseBase, IdentityBase
from weightcast.serialization import Configuration


@dataclass(frozen=True)
class BaseSpec(Configuration):
    """What a base is made of."""

    KIND = "BaseFacts"  # in the files of schema 2

    kind_of_base: Literal["dense", "identity", "kronecker"]
    factors: tuple[tuple[int, ...] | int, ...]  # (n, m) of a matrix, n of an identity

    def __post_init__(self) -> None:
        check_choices(self)
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
