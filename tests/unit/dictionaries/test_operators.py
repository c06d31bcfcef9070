"""Base operators: what each form of B says of its numbers, and where it computes on its own."""

from __future__ import annotations

import pytest
import torch

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
