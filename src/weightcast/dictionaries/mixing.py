"""Mixing: the small matrices M_j of U_j = B[:, indices_j] M_j, one per column.

Ridge, raw and orthonormal atoms span the same space; they differ in conditioning, hence in how
gradient descent on V moves W.

Where atoms see one channel each and K links no two channels, M_j is block-diagonal. It is kept and
applied as its blocks, (columns, blocks, size, size), where it is large: with 64 channels about a
64th of the numbers and of the multiply-adds. Blocks with fewer atoms than ``size`` end in zero rows
and columns.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

Mixing = Literal["ridge", "raw", "orthonormal"]
"""``ridge``: V holds known weights (the paper). ``raw``: M = I. ``orthonormal``: U_j^T U_j = I."""


class Places(NamedTuple):
    """How the atoms of a column and the places of its blocks match."""

    atoms: Tensor
    """(columns, blocks * size) int64: the atom at each place, any where there is none."""
    filled: Tensor
    """(columns, blocks * size): whether the place holds an atom."""
    of_atoms: Tensor
    """(columns, n_atoms) int64: the place of each atom."""


def block_places(blocks: Tensor, n_blocks: int, size: int) -> Places:
    """Places for (columns, n_atoms) atoms in their ``blocks`` of ``size``, in the atoms' order."""
    blocks, (columns, n_atoms) = blocks.long(), blocks.shape
    order = blocks.argsort(dim=1, stable=True)
    sorted_blocks = blocks.gather(1, order)
    counts = blocks.new_zeros(columns, n_blocks).scatter_add(1, blocks, torch.ones_like(blocks))
    starts = (counts.cumsum(1) - counts).gather(1, sorted_blocks)
    rank = torch.arange(n_atoms, device=blocks.device) - starts
    places = sorted_blocks * size + rank
    empty = blocks.new_zeros(columns, n_blocks * size)
    return Places(
        atoms=empty.scatter(1, places, order),
        filled=empty.scatter(1, places, 1).bool(),
        of_atoms=torch.empty_like(blocks).scatter(1, order, places),
    )


def block_size(blocks: Tensor, n_blocks: int) -> int:
    """Atoms in the fullest block of (columns, n_atoms) blocks."""
    columns = torch.arange(len(blocks)).unsqueeze(1) * n_blocks
    return int(torch.bincount((blocks + columns).flatten()).max())


def mix(M: Tensor, values: Tensor, places: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """M_j values_j for every column, (columns, n_atoms, n), M as ``Atoms`` holds it.

    ``places``: the atoms at the blocks' places, and the atoms' places there; None if these are
    0, 1, 2, ... in every column.
    """
    if M.dim() == 2:
        return values * M.unsqueeze(2)
    if M.dim() == 4:
        columns, n_blocks, size, _ = M.shape
        if places is not None:
            values = _gather(values, places[0])
        blocks = values.reshape(columns * n_blocks, size, -1)
        mixed = torch.bmm(M.flatten(0, 1), blocks).view(columns, n_blocks * size, -1)
        return mixed if places is None else _gather(mixed, places[1])
    # M on the right: a product with few columns on that side, as layers of few units per column
    # have them, takes up to seven times longer.
    return torch.bmm(values.mT, M.mT).mT


def _gather(values: Tensor, places: Tensor) -> Tensor:
    """(columns, n, k) at (columns, m) places: (columns, m, k)."""
    return values.gather(1, places.unsqueeze(2).expand(-1, -1, values.shape[2]))


def dense_mixing(blocks: Tensor, places: Tensor | None = None) -> Tensor:
    """M_j, (n_atoms, n_atoms), from its blocks and the atoms' places there (None: 0, 1, ...)."""
    n_blocks, size, _ = blocks.shape
    if places is None:
        places = torch.arange(n_blocks * size, device=blocks.device)
    block, place = places // size, places % size
    M = blocks[block.unsqueeze(1), place.unsqueeze(1), place]
    return M * (block.unsqueeze(1) == block)


def ridge_mixing(gram: Tensor, ridge: float) -> Tensor:
    """M_j = (K_j + ridge I)^-1 of (..., n_atoms, n_atoms) K_j = K[indices_j, indices_j].

    ValueError if that is singular to working precision. References: Denil et al. 2013, equation 2.
    """
    n_atoms = gram.shape[-1]
    identity = torch.eye(n_atoms, dtype=gram.dtype)
    regularised = gram + ridge * identity
    spectrum = torch.linalg.eigvalsh(regularised)  # (..., n_atoms), ascending
    smallest, largest = float(spectrum[..., 0].min()), float(spectrum[..., -1].max())
    if smallest <= n_atoms * torch.finfo(gram.dtype).eps * largest:
        raise ValueError(
            f"K at the {n_atoms} chosen atoms is singular to working precision with ridge={ridge}: "
            f"its eigenvalues run from {smallest:.1e} to {largest:.1e}. Set ridge to "
            f"{1e-6 * max(largest, 1e-300):.0e} or more, choose fewer atoms, or a shorter "
            "length_scale"
        )
    return torch.cholesky_solve(
        identity.expand_as(gram).contiguous(), torch.linalg.cholesky(regularised)
    )


def orthonormal_mixing(atoms: Tensor) -> Tensor:
    """M_j = (A_j^T A_j)^(-1/2), so that U_j = A_j M_j is the orthonormal matrix nearest to A_j.

    Of (columns, n_atoms, n_visible) atoms A_j^T; ValueError if they are linearly dependent.
    """
    _, singular, right = torch.linalg.svd(atoms.transpose(1, 2), full_matrices=False)
    n_atoms = atoms.shape[1]
    floor = max(atoms.shape[1:]) * torch.finfo(atoms.dtype).eps * singular[:, :1]
    rank = int((singular > floor).sum(dim=1).min()) if singular.shape[1] == n_atoms else 0
    if rank < n_atoms:
        raise ValueError(
            f"{n_atoms} orthonormal atoms were asked for, but the chosen atoms span only {rank} "
            "dimensions to working precision: take a smaller fraction, a shorter length_scale, "
            "or mixing='ridge'"
        )
    return right.transpose(1, 2) @ (right / singular.unsqueeze(2))


def spectral_mixing(mixing: Mixing, eigenvalues: Tensor, ridge: float) -> Tensor | None:
    """M_j's diagonals, (columns, n_atoms), where the atoms are eigenvectors of K; None for I.

    Raw atoms are lambda e, ridge atoms lambda / (lambda + ridge) e, orthonormal atoms e.
    ValueError if one of the (columns, n_atoms) eigenvalues is zero, which makes a zero atom.
    """
    if mixing == "orthonormal":
        return None
    largest = float(eigenvalues.max())
    n_zero = int((eigenvalues <= torch.finfo(eigenvalues.dtype).eps * max(largest, 0.0)).sum())
    if n_zero:
        raise ValueError(
            f"{n_zero} of the {eigenvalues.numel()} chosen eigenvectors have eigenvalue zero to "
            "working precision: take a smaller fraction, a shorter length_scale, or "
            "mixing='orthonormal'"
        )
    return eigenvalues if mixing == "raw" else eigenvalues / (eigenvalues + ridge)
