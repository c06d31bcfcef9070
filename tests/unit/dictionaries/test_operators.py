"""Base operators: what each form of B says of its numbers, and where it computes on its own."""

from __future__ import annotations

import pytest
import torch

import weightcast as wc
from weightcast.dictionaries import Base, DenseBase, IdentityBase

ROWS = torch.arange(12.0, dtype=torch.float64).view(4, 3)


class Shifted(Base):
    """The least that a base must say, by the definition: B = ROWS^T."""

    n_visible, n_base, n_static = 3, 4, 0  # pyright: ignore[reportAssignmentType]
    multiply_adds = synthesis_multiply_adds = 12

    def rows(self, indices):
        return ROWS[indices]

    def transform(self, x):
        return ROWS @ x.t()

    def synthesise(self, coefficients):
        return coefficients @ ROWS

    def entries(self, points, indices):
        return ROWS[indices, points]


def test_what_is_not_said_follows_from_what_is():
    base, x, indices = Shifted(), torch.randn(5, 3).double(), torch.tensor([[3, 0], [1, 1]])
    values = base.project(x, indices, in_order=False)
    torch.testing.assert_close(values, torch.stack([x @ ROWS[i].t() for i in indices]))
    in_order = torch.arange(4).view(2, 2)
    torch.testing.assert_close(
        base.project(x, in_order, in_order=True), base.project(x, in_order, in_order=False)
    )
    torch.testing.assert_close(base.gram(indices[0]), ROWS[[3, 0]] @ ROWS[[3, 0]].t())
    assert base.block_of(torch.tensor([0, 1, 2, 3]), 2).tolist() == [0, 0, 1, 1]
    assert (base.n_blocks, base.by_channel(indices[0]), base.is_learned) == (1, None, False)
    assert repr(base) == "Shifted(n_visible=3, n_base=4)"


def test_a_dense_base_counts_its_numbers_unless_they_are_learned():
    fixed, learned = DenseBase(ROWS), DenseBase(ROWS, learned=True)
    assert (fixed.n_static, fixed.multiply_adds, fixed.is_learned) == (12, 12, False)
    assert (learned.n_static, learned.is_learned) == (0, True)
    assert [name for name, _ in learned.named_parameters()] == ["atoms"]
    assert list(fixed.parameters()) == []
    c, points = torch.randn(2, 4).double(), torch.tensor([0, 2])
    for base in (fixed, learned):
        torch.testing.assert_close(base.synthesise(c), c @ ROWS)
        torch.testing.assert_close(base.transform(c[:, :3]), ROWS @ c[:, :3].t())
        assert torch.equal(base.entries(points, torch.tensor([3, 1])), ROWS[[3, 1], [0, 2]])
    assert fixed.state_dict().keys() == learned.state_dict().keys() == {"atoms"}


@pytest.mark.parametrize("in_order", [False, True])
def test_the_identity_takes_inputs_as_they_are_and_passes_gradients_back(in_order):
    base = IdentityBase(5)
    assert (base.n_static, base.multiply_adds, base.state_dict()) == (0, 0, {})
    indices = torch.tensor([[0, 1], [2, 3]]) if in_order else torch.tensor([[4, 0], [0, 2]])
    x = torch.randn(3, 5, requires_grad=True)
    values = base.project(x, indices, in_order=in_order)
    assert torch.equal(values, torch.stack([x[:, i] for i in indices]))
    values.sum().backward()
    assert x.grad is not None
    assert x.grad[0].tolist() == indices.flatten().bincount(minlength=5).tolist()
    assert torch.equal(base.rows(indices[0]), torch.eye(5)[indices[0]].double())
    assert base.rows(indices).shape == (2, 2, 5)


def test_the_identity_tells_its_dtype_though_it_holds_no_number():
    base = IdentityBase(3).half()
    assert base.rows(torch.tensor([1])).dtype == torch.float16
    assert base.entries(torch.tensor([0, 1]), torch.tensor([1, 1])).tolist() == [0, 1]


def dct(n=6, dtype=torch.float32):
    return wc.PredictedLinear(n, 4, rule=wc.Rule(wc.dictionaries.DCT(), 0.5), dtype=dtype)


def test_a_base_that_follows_from_a_rule_is_in_no_state_dict_and_comes_back():
    layer, x = dct(), torch.randn(3, 6)
    assert set(layer.state_dict()) == {"V", "bias", "atoms.indices"}
    y, state = layer(x), layer.state_dict()
    with torch.device("meta"):
        empty = dct()
    assert empty.atoms.base.is_hollow
    empty = empty.to_empty(device="cpu")
    assert empty.atoms.base.is_hollow
    empty.load_state_dict(state)
    assert not empty.atoms.base.is_hollow
    assert torch.equal(empty(x), y)
    with torch.device("meta"):
        assigned = dct()
    assigned.load_state_dict(state, assign=True)
    assert torch.equal(assigned(x), y)


def test_to_empty_of_real_memory_keeps_what_no_file_would_bring():
    layer = dct()
    before = layer.atoms.base.factor(0).clone()
    assert torch.equal(layer.to_empty(device="cpu").atoms.base.factor(0), before)


def test_half_precision_comes_back_bit_equal_after_meta():
    layer = dct(dtype=torch.bfloat16)
    with torch.device("meta"):
        other = dct(dtype=torch.bfloat16)
    other = other.to_empty(device="cpu")
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other.atoms.base.factor(0), layer.atoms.base.factor(0))
    assert torch.equal(dct().bfloat16().atoms.base.factor(0), layer.atoms.base.factor(0))


def test_state_dicts_of_earlier_versions_load_and_those_of_other_rules_do_not():
    layer = dct()
    base = "atoms.base.factor_0"
    old = layer.state_dict() | {base: layer.atoms.base.factor(0).clone()}
    other = dct()
    other.load_state_dict(old)
    other.load_state_dict(old | {base: old[base].bfloat16()})
    assert torch.equal(other.atoms.base.factor(0), layer.atoms.base.factor(0))
    with pytest.raises(RuntimeError, match=r"atoms\.base\.factor_0 is of another rule"):
        other.load_state_dict(old | {base: old[base].flip(0)})
    with pytest.raises(RuntimeError, match="is of another rule"):
        other.load_state_dict(old | {base: torch.zeros(2, 2)})


def test_accelerate_asks_constants_by_name():
    atoms = dct().atoms
    assert "indices" in atoms._buffers
    assert list(atoms._buffers) == []
    atoms._buffers["indices"] = atoms.indices.clone()
    assert "indices" in atoms.state_dict()
    assert all(getattr(atoms, name) is not None for name in atoms._non_persistent_buffers_set)
