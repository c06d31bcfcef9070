"""A base in a file: its factors there and back, and what no base is made of."""

from __future__ import annotations

import pytest
import torch

from weightcast import dictionaries as d
from weightcast.dictionaries.packing import pack, unpack

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
