"""Atoms: U_j = B[:, indices_j] M_j, in whatever form is held."""

from __future__ import annotations

import pytest
import torch

from weightcast.dictionaries import Atoms, DenseBase, IdentityBase, KroneckerBase

GENERATOR = torch.Generator().manual_seed(0)
ROWS = torch.randn(9, 6, dtype=torch.float64, generator=GENERATOR)
INDICES = torch.tensor([[0, 4, 8], [3, 1, 2]])
MIXINGS = {
    "none": None,
    "diagonal": torch.rand(2, 3, dtype=torch.float64, generator=GENERATOR),
    "full": torch.randn(2, 3, 3, dtype=torch.float64, generator=GENERATOR),
    "blocks": torch.randn(2, 3, 2, 2, dtype=torch.float64, generator=GENERATOR),
}


def expected(M: torch.Tensor | None, column: int) -> torch.Tensor:
    """U_j, by the definition."""
    U = ROWS[INDICES[column]].t()
    if M is None:
        return U
    if M.dim() == 2:
        return U * M[column]
    if M.dim() == 3:
        return U @ M[column]
    full = torch.zeros(3, 3, dtype=torch.float64)
    seen: dict[int, list[int]] = {}
    for place, atom in enumerate(INDICES[column].tolist()):
        seen.setdefault(atom // 3, []).append(place)
    for block, places in seen.items():
        for i, one in enumerate(places):
            for j, other in enumerate(places):
                full[one, other] = M[column, block, i, j]
    return U @ full


# Of the base's three blocks, one holds two atoms of column 1: so blocks have size 2.
@pytest.mark.parametrize("kind", MIXINGS)
def test_every_form_of_mixing_is_the_definition(kind):
    M = MIXINGS[kind]
    atoms = Atoms(DenseBase(ROWS), INDICES, M)
    assert (atoms.columns, atoms.n_atoms, atoms.n_visible) == (2, 3, 6)
    U = torch.stack([expected(M, 0), expected(M, 1)])
    torch.testing.assert_close(atoms.dictionaries(), U)
    torch.testing.assert_close(atoms.dictionary(1), U[1])
    torch.testing.assert_close(atoms.energy(), U.square().sum(dim=(1, 2)))
    x = torch.randn(4, 6, dtype=torch.float64)
    torch.testing.assert_close(atoms.mix(atoms.project(x), of_rows=True), x @ U)


@pytest.mark.parametrize("wide", [False, True])
def test_u_is_multiplied_out_where_the_base_is_larger(wide):
    rows = torch.randn(200 if wide else 6, 6, dtype=torch.float64)
    atoms = Atoms(DenseBase(rows), torch.tensor([[0, 1, 2, 3, 4, 5]]), MIXINGS["none"])
    assert (atoms.stacked is not None) == wide
    assert atoms.multiply_adds == 36
    x = torch.randn(4, 6, dtype=torch.float64)
    torch.testing.assert_close(atoms.project(x)[0], x @ rows[:6].t())


def test_loading_other_indices_refreshes_what_follows_from_them():
    atoms = Atoms(DenseBase(torch.randn(50, 6)), torch.tensor([[0, 1]]))
    other = Atoms(DenseBase(torch.randn(50, 6)), torch.tensor([[7, 30]]))
    atoms.load_state_dict(other.state_dict())
    x = torch.randn(4, 6)
    torch.testing.assert_close(atoms.project(x), other.project(x))


def test_numbers_that_no_atoms_can_have_are_refused():
    base = IdentityBase(6)
    with pytest.raises(ValueError, match=r"indices run from -1 to 2, but the base has 6 atoms"):
        Atoms(base, torch.tensor([[-1, 2]]))
    with pytest.raises(ValueError, match=r"indices run from 0 to 6, but the base has 6 atoms"):
        Atoms(base, torch.tensor([[0, 6]]))
    with pytest.raises(ValueError, match=r"hold 1 NaN or infinite values: give .* positive ridge"):
        Atoms(base, torch.tensor([[0, 1]]), torch.tensor([[1.0, float("nan")]]))
    with pytest.raises(ValueError, match=r"\(1, 4, 1, 1\) for 1 columns of a base with 6 atoms"):
        Atoms(base, torch.tensor([[0, 1]]), torch.ones(1, 4, 1, 1))
    with pytest.raises(ValueError, match="a block of mixing has 2 atoms, but its size is 1"):
        Atoms(base, torch.tensor([[0, 1]]), torch.ones(1, 2, 1, 1))


def test_casting_keeps_u_the_rounded_one():
    base = KroneckerBase([torch.randn(30, 30).double(), torch.randn(2, 2).double()])
    atoms = Atoms(base, torch.tensor([[5, 17]])).float()
    assert atoms.stacked is not None
    assert atoms.stacked.dtype == torch.float32
    assert torch.equal(atoms.stacked[0].t(), atoms.dictionary(0))
