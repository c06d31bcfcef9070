"""What holds of the atoms that a dictionary builds, however they were drawn."""

from __future__ import annotations

import torch

from weightcast.dictionaries import Atoms
from weightcast.testing.require import require, require_close
from weightcast.testing.tried import Checks, TriedDictionary


def _has_shapes(tried: TriedDictionary) -> None:
    n = tried.n_atoms
    for columns in (1, 3):
        atoms = tried.first.atoms if columns == 1 else tried.atoms(columns=columns)
        require(isinstance(atoms, Atoms), f"build returns a {type(atoms).__name__}, not Atoms")
        shape = tuple(atoms.indices.shape)
        require(shape == (columns, n), f"indices are {shape}, expected {(columns, n)}")
        require(atoms.indices.dtype == torch.int32, f"indices are {atoms.indices.dtype}")
        shape = None if atoms.mixing is None else tuple(atoms.mixing.shape)
        expected = (None, (columns, n, n), (columns, n))
        blocks = shape is not None and len(shape) == 4 and shape[0] == columns
        require(blocks or shape in expected, f"mixing is {shape}, expected one of {expected}")
        U = atoms.dictionaries()
        shape, wanted = tuple(U.shape), (columns, tried.n_visible, n)
        require(shape == wanted, f"U is {shape}, expected {wanted}")
        require(U.dtype == torch.float64, f"U is {U.dtype}: build in float64")
        require(U.device.type == "cpu", f"U is on {U.device}: build on the CPU")
        bad = int((~U.isfinite()).sum())
        require(bad == 0, f"{bad} of {U.numel()} entries of U are NaN or infinite")


def _holds_no_atom_twice(tried: TriedDictionary) -> None:
    for n_atoms in (1, tried.n_atoms, tried.n_visible):
        for column, indices in enumerate(tried.atoms(n_atoms, columns=4).indices.tolist()):
            n = len(set(indices))
            require(n == n_atoms, f"of {n_atoms} atoms of column {column} only {n} differ")


def _has_no_zero_atom(tried: TriedDictionary) -> None:
    for columns in (1, 3):
        norms = tried.atoms(tried.n_visible, columns).dictionaries().norm(dim=1)
        zero = int((norms < 1e-12).sum())
        require(zero == 0, f"{zero} of {norms.numel()} atoms are zero, which no V can use")


def _columns_differ(tried: TriedDictionary) -> None:
    chosen = tried.atoms(columns=3).indices.sort(dim=1).values.tolist()
    same = sum(column == chosen[0] for column in chosen[1:])
    require(
        same == 0,
        f"{same} of 2 columns take the atoms of the first: columns are there to see more of "
        "the input, so draw or deal out atoms for each",
    )


def _projects(tried: TriedDictionary) -> None:
    for columns in (1, 3):
        atoms, x = tried.atoms(columns=columns), tried.rows()
        U, values = atoms.dictionaries(), atoms.mix(atoms.project(x), of_rows=True)
        require_close(values, x @ U, 1e-9, "the projection")
        energy = U.square().sum(dim=(1, 2))
        require_close(atoms.energy(), energy, 1e-9, "the atoms' energy")
        for column in range(columns):
            require_close(atoms.dictionary(column), U[column], 1e-9, f"U of column {column}")


def _spans(tried: TriedDictionary) -> None:
    U = tried.atoms(tried.n_visible).dictionary(0)
    rank = int(torch.linalg.matrix_rank(U))
    require(rank == tried.n_visible, f"they span {rank} of {tried.n_visible} directions")


def _is_orthonormal(tried: TriedDictionary) -> None:
    U = tried.atoms(max(1, tried.n_visible // 2), columns=3).dictionaries()
    for column, gram in enumerate(U.mT @ U):
        require_close(gram, torch.eye(len(gram)).double(), 1e-8, f"U^T U of column {column}")


ATOM_CHECKS: Checks = {
    "atoms have the documented shapes, in float64 on the CPU": _has_shapes,
    "a column holds no atom twice": _holds_no_atom_twice,
    "no atom is zero": _has_no_zero_atom,
    "columns differ": _columns_differ,
    "projecting is the product with U": _projects,
}
"""What must hold of all atoms."""

FULL_RANK: Checks = {"all atoms together span every filter": _spans}
"""Promised by ``full_rank``."""

ORTHONORMAL: Checks = {"atoms are orthonormal": _is_orthonormal}
"""Promised by ``orthonormal``."""
