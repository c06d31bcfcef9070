"""Atoms: the dictionaries of all columns of a layer in one form, U_j = B[:, indices_j] M_j."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from typing import Any, Self

import torch
from torch import Tensor, nn

from weightcast.dictionaries.constants import Constants
from weightcast.dictionaries.mixing import block_places, block_size, dense_mixing, mix
from weightcast.dictionaries.operators import Base
from weightcast.dictionaries.work import NUMBER

DERIVED = ("stacked", "block_atoms", "atom_places")
"""Constants of atoms that follow from the others."""


class Atoms(Constants):
    """U_j = B[:, indices_j] M_j for every column j, multiplied out only where that costs less.

    Tensors that are changed in place leave ``stacked`` as it was: call :meth:`refresh` after that;
    ``load_state_dict`` does.

    Args:
        base: B, shared by all columns (and by other layers).
        indices: (columns, n_atoms), the atoms that each column selects; kept as int32.
        mixing: (columns, n_atoms, n_atoms), M; or (columns, n_atoms), its diagonals; or
            (columns, blocks, size, size), the blocks of a block-diagonal one, each of which mixes
            the atoms of one ``blocks``-th of the base in their own order; None for the identity.

    Raises:
        ValueError: an index outside the base, a mixing matrix that is not finite, or blocks that do
            not divide the base or have more atoms than their size.
    """

    indices: Tensor
    mixing: Tensor | None

    def __init__(self, base: Base, indices: Tensor, mixing: Tensor | None = None) -> None:
        super().__init__()
        assert indices.dim() == 2 and not indices.is_floating_point()
        if not (0 <= int(indices.min()) and int(indices.max()) < base.n_base):
            raise ValueError(
                f"indices run from {int(indices.min())} to {int(indices.max())}, but the base has "
                f"{base.n_base} atoms"
            )
        if mixing is not None and not bool(mixing.isfinite().all()):
            raise ValueError(
                f"the mixing matrices hold {int((~mixing.isfinite()).sum())} NaN or infinite "
                "values: give the dictionary a positive ridge, or inputs that are finite"
            )
        if mixing is not None and mixing.dim() == 4:
            _check_blocks(base, indices, mixing)
        self.base = base
        self.register_constant("indices", indices.to(torch.int32).contiguous())
        self.register_constant("mixing", None if mixing is None else mixing.contiguous())
        for name in DERIVED:
            self.register_constant(name, None, persistent=False)
        self.refresh()
        self.register_load_state_dict_post_hook(_after_loading)

    stacked: Tensor | None
    """All columns' U_j^T, (columns, n_atoms, n_visible), where x U_j costs less than x B does."""

    block_atoms: Tensor | None
    """Of block mixing: the atom at each place of the blocks, (columns, blocks * size)."""

    atom_places: Tensor | None
    """The place of each atom there, (columns, n_atoms); both None if that is 0, 1, 2, ..."""

    @property
    def n_visible(self) -> int:
        """Number of inputs."""
        return self.base.n_visible

    @property
    def columns(self) -> int:
        """Number of columns, each with atoms of its own."""
        return self.indices.shape[0]

    @property
    def n_atoms(self) -> int:
        """Number of atoms of each column."""
        return self.indices.shape[1]

    @property
    def pending_mixing(self) -> Tensor | None:
        """The mixing that :meth:`project` leaves to be done."""
        return self.mixing if self.stacked is None else None

    @property
    def gathers_nothing(self) -> bool:
        """Whether the columns' atoms are projected in their order, one after the other."""
        return self._in_order or self.stacked is not None

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of :meth:`project` per example."""
        if self.stacked is not None:
            return self.stacked.numel()
        return self.base.multiply_adds

    def project(self, x: Tensor) -> Tensor:
        """x B at the chosen atoms, or x U where U is stacked: (columns, batch, n_atoms)."""
        if self.stacked is None:
            return self.base.project(x, self.indices, in_order=self._in_order)
        values = nn.functional.linear(x, self.stacked.flatten(0, 1))
        return values.view(x.shape[0], *self.indices.shape).transpose(0, 1)

    def mix(self, values: Tensor, columns: slice = slice(None), *, of_rows: bool = False) -> Tensor:
        """M_j values_j of (columns, n_atoms, n) values: what :meth:`project` leaves to be done.

        With ``of_rows`` values_j M_j, of (columns, n, n_atoms).
        """
        M = self.pending_mixing
        if M is None:
            return values
        M, places = M[columns], None
        if self.block_atoms is not None and self.atom_places is not None:
            places = self.block_atoms[columns], self.atom_places[columns]
        if of_rows:
            return mix(M if M.dim() == 2 else M.mT, values.mT, places).mT
        return mix(M, values, places)

    def mixing_matrix(self, column: int) -> Tensor | None:
        """M_j of one column: (n_atoms, n_atoms), or its diagonal (n_atoms,), or None for I."""
        if self.mixing is None or self.mixing.dim() < 4:
            return None if self.mixing is None else self.mixing[column]
        places = None if self.atom_places is None else self.atom_places[column]
        return dense_mixing(self.mixing[column], places)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        dtype = None if self.stacked is None else self.stacked.dtype
        super()._apply(fn, recurse)
        # From what was cast, so that a loaded file gives the same to the last bit. Not otherwise:
        # to_empty leaves indices that mean nothing until a state dict is loaded.
        if self.stacked is not None and self.stacked.dtype != dtype:
            self._stack()
        return self

    def refresh(self) -> None:
        """Make anew what follows from the base's rule, and from base, indices and mixing."""
        if self.base.is_hollow and not self.indices.is_meta:
            self.base.fill(self.indices.device)
        flat = self.indices.flatten()
        order = torch.arange(len(flat), device=flat.device)
        self._in_order = not flat.is_meta and flat.equal(order)  # then nothing is gathered
        self._place()
        self._stack()
        # accelerate asks every name in this set for its device.
        self._non_persistent_buffers_set.difference_update(DERIVED)
        there = {name for name in DERIVED if getattr(self, name) is not None}
        self._non_persistent_buffers_set.update(there)

    def _place(self) -> None:
        """Find the atoms' places in the blocks of M, unless they are in order already."""
        self.block_atoms = self.atom_places = None
        if self.mixing is not None and self.mixing.dim() == 4:
            _, n_blocks, size, _ = self.mixing.shape
            blocks = self.base.block_of(self.indices, n_blocks)
            atoms, _, places = block_places(blocks, n_blocks, size)
            order = torch.arange(self.n_atoms, device=places.device)
            full = n_blocks * size == self.n_atoms
            if places.is_meta or not full or not bool((places == order).all()):
                self.block_atoms, self.atom_places = atoms, places

    def _stack(self) -> None:
        """Multiply U out once, if that makes projecting cheaper than by the whole base."""
        pays = stacking(self.base.multiply_adds, self.n_visible, self.indices) > 0
        if pays and not self.base.is_learned:
            # A tensor that is kept must not depend on the mode that the caller is in.
            kind = self.indices.device.type
            exact = torch.autocast(kind, enabled=False) if kind != "meta" else nullcontext()
            with torch.inference_mode(False), torch.no_grad(), exact:
                self.stacked = self.dictionaries().transpose(1, 2).contiguous()

    def dictionaries(self) -> Tensor:
        """U, materialised: (columns, n_visible, n_atoms)."""
        if self.mixing is not None and self.mixing.dim() == 4:
            return torch.stack([self.dictionary(column) for column in range(self.columns)])
        U = self.base.rows(self.indices).transpose(1, 2)
        if self.mixing is None:
            return U
        return U * self.mixing.unsqueeze(1) if self.mixing.dim() == 2 else U @ self.mixing

    def dictionary(self, column: int) -> Tensor:
        """U_j of one column, (n_visible, n_atoms): the others take no memory."""
        U = self.base.rows(self.indices[column]).t()
        M = self.mixing_matrix(column)
        if M is None:
            return U
        return U * M if M.dim() == 1 else U @ M

    @torch.no_grad()
    def energy(self) -> Tensor:
        """The sum of squares of every column's U_j, (columns,) float64, without U_j."""
        base = self.base
        if base.rows(self.indices[0, :1]).dtype != torch.float64:
            base = copy.deepcopy(base).double()
        if self.mixing is None:
            return base.energies(self.indices).sum(dim=1)
        energies = []
        for column, indices in enumerate(self.indices):
            gram, M = base.gram(indices), self.mixing_matrix(column)
            assert M is not None
            M = M.double()
            if M.dim() == 1:
                energies.append((gram.diagonal() * M.square()).sum())
            else:
                energies.append(((gram @ M) * M).sum())
        return torch.stack(energies)

    def extra_repr(self) -> str:
        """Shape of U, for printed models."""
        mixed = "" if self.mixing is None else ", mixed"
        return f"columns={self.columns}, n_atoms={self.n_atoms}{mixed}"


def _after_loading(atoms: Atoms, _: Any) -> None:
    atoms.refresh()


def stacking(multiply_adds: int, n_visible: int, indices: Tensor) -> int:
    """Multiply-adds of multiplying U out; 0 where x B, of ``multiply_adds``, costs no more."""
    numbers = indices.numel() * n_visible
    return numbers * (NUMBER + indices.shape[1]) if numbers < multiply_adds else 0


def _check_blocks(base: Base, indices: Tensor, mixing: Tensor) -> None:
    """Refuse block mixing that does not fit the atoms."""
    columns, n_blocks, size, other = mixing.shape
    if columns != len(indices) or size != other or base.n_base % n_blocks:
        raise ValueError(
            f"mixing is {tuple(mixing.shape)} for {len(indices)} columns of a base with "
            f"{base.n_base} atoms: (columns, blocks, size, size) must have as many columns, and "
            "blocks that divide the base"
        )
    if not indices.is_meta:
        fullest = block_size(base.block_of(indices, n_blocks), n_blocks)
        if fullest > size:
            raise ValueError(f"a block of mixing has {fullest} atoms, but its size is {size}")
