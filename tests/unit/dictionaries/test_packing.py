"""A base in a file: its factors there and back, and what no base is made of."""

from __future__ import annotations

import pytest
import torch

from weightcast import dictionaries as d
from weightcast.dictionaries.packing import pack, pack_indices, unpack, unpack_mask

F = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Own(d.Base):
    n_visible, n_base, n_static = 3, 4, 0  # pyright: ignore[reportAssignmentType]
    multiply_adds = synthesis_multiply_adds = 12

    def rows(self, indices):
        return F.t()[indices]

    def transform(self, x):
        return F.t() @ x.t()

    def synthesise(self, coefficients):
        return coefficients @ F.t()

    def entries(self, points, indices):
        return F[points, indices]


BASES = {
    "dense": (d.DenseBase(F.t()), {"atoms": (4, 3)}),
    "identity": (d.IdentityBase(5), {}),
    "kronecker": (d.KroneckerBase([2, F, F[:, :2]]), {"factor_1": (4, 3), "factor_2": (2, 3)}),
    "own": (Own(), {"atoms": (4, 3)}),
}


@pytest.mark.parametrize("name", BASES)
def test_a_base_is_its_factors(name):
    base, shapes = BASES[name]
    packed, tensors = pack(base)
    assert {key: tuple(t.shape) for key, t in tensors.items()} == packed.shapes == shapes
    again = unpack(packed, tensors.__getitem__, learned=False)
    everything = torch.arange(base.n_base)
    torch.testing.assert_close(again.rows(everything), base.rows(everything))
    assert (again.n_visible, again.multiply_adds) == (base.n_visible, base.multiply_adds)


def test_learned_atoms_are_learned_again():
    packed, tensors = pack(d.DenseBase(F.t(), learned=True))
    read = {name: tensor.detach() for name, tensor in tensors.items()}.__getitem__
    assert unpack(packed, read, learned=True).is_learned
    assert not unpack(packed, read, learned=False).is_learned


@pytest.mark.parametrize(
    ("kind", "factors"),
    [
        ("dense", (3,)),  # an identity
        ("dense", ((3, 4), (3, 4))),
        ("identity", ((3, 3),)),
        ("identity", (3, 3)),
        ("kronecker", (2, 3)),  # no matrix among them
        ("kronecker", ((3, 0),)),
        ("kronecker", ((3, 4, 5),)),
        ("kronecker", ((1, 1),) * 17),
        ("dense", ()),
    ],
)
def test_what_no_base_is_made_of_is_refused(kind, factors):
    spec = type(pack(d.IdentityBase(3))[0])
    with pytest.raises(ValueError, match=r"no (\w+ )?base is made of"):
        spec(kind, factors)


def test_an_unknown_form_is_refused():
    spec = type(pack(d.IdentityBase(3))[0])
    with pytest.raises(ValueError, match="is 'sparse', none of 'dense', 'identity', 'kronecker'"):
        spec("sparse", (3,))


def _chosen(columns: int, n_base: int, n_atoms: int) -> torch.Tensor:
    draws = torch.rand(columns, n_base, generator=torch.Generator().manual_seed(0))
    return draws.topk(n_atoms, dim=1).indices.sort(dim=1).values


@pytest.mark.parametrize(("n_base", "n_atoms"), [(9, 4), (64, 64), (300, 40), (1000, 63)])
def test_a_mask_is_taken_where_it_is_smaller_and_gives_the_indices_back(n_base, n_atoms):
    indices = _chosen(5, n_base, n_atoms)
    kind, packed = pack_indices(indices, n_base)
    assert (kind, packed.dtype) == ("mask", torch.uint8)
    assert packed.nbytes == 5 * -(-n_base // 8)
    assert torch.equal(unpack_mask(packed, n_atoms), indices)


def test_few_atoms_or_none_in_order_stay_numbers():
    few = _chosen(5, 1000, 62)  # 62 numbers of two bytes, 125 bytes of bits
    assert pack_indices(few, 1000) == ("indices", pytest.approx(few.to(torch.int16)))
    kind, packed = pack_indices(_chosen(5, 64, 30).flip(1), 64)
    assert (kind, packed.dtype) == ("indices", torch.uint8)


def test_a_mask_with_another_number_of_atoms_is_refused():
    _, packed = pack_indices(_chosen(5, 64, 30), 64)
    packed[3, 2] ^= 1
    with pytest.raises(ValueError, match=r"column 3 of a mask has (29|31) atoms, not 30"):
        unpack_mask(packed, 30)
