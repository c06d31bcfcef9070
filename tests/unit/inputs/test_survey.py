"""survey: the order of layers, how often each is called, and which of them have one input."""

from __future__ import annotations

import torch
from torch import nn

from tests.unit.inputs.test_hooks import Routed
from weightcast.inputs.survey import survey


class Backwards(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.second, self.first, self.unused = nn.Linear(3, 2), nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x):
        return self.second(self.first(x))


def test_the_order_is_that_of_the_calls():
    model, x = Backwards(), torch.randn(5, 4)
    found = survey(model, dict(model.named_children()), [x])
    assert found.order == ["first", "second"]
    assert found.calls == {"first": 1, "second": 1}
    torch.testing.assert_close(found.sizes["first"], float(x.abs().sum()))
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_layers_are_those_of_all_batches_in_the_models_order():
    model = Routed()
    layers = [n for n, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    x = torch.rand(10, 40) + 0.1

    def order(*batches):
        return survey(model, layers, batches).order

    assert order(x) == ["experts.0", "head"]
    assert order(x, -x) == ["experts.1", "experts.0", "head"]
    assert order(x, -x[:1]) == ["experts.0", "head"]
    assert order(x, -x[:1], -x[:1]) == ["experts.1", "experts.0", "head"]
    assert order(x[:1]) == ["experts.0", "head"]


def test_a_layer_that_some_batches_call_has_no_number_of_calls():
    x = torch.rand(10, 40) + 0.1
    found = survey(Routed(), ["experts.0", "experts.1", "head"], [x, -x])
    assert found.calls == {"head": 1}


class Shared(nn.Module):
    """Two layers of one input, one of the same input changed in place, one that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.late, self.twice = (nn.Linear(4, 4) for _ in range(4))
        self.wide, self.narrow, self.alike = (
            nn.Conv1d(1, 2, size, bias=bias) for size, bias in ((3, True), (2, True), (3, False))
        )

    def forward(self, x):
        y = self.q(x) + self.k(x)
        x = x.view(len(x), 1, 4)
        y = y + sum(c(x).sum() for c in (self.wide, self.narrow, self.alike))
        x = x[:, 0].clone()
        self.late(x)
        x += 1
        return self.twice(self.twice(x)) + self.k(y)


def test_layers_of_one_input_that_make_the_same_rows_share_them():
    model = Shared()
    found = survey(model, dict(model.named_children()), [torch.randn(3, 4), torch.randn(2, 4)])
    assert found.calls["twice"] == found.calls["k"] == 2
    # k is called with another input too, and the filters of narrow are smaller.
    expected = {name: name for name in found.order} | {"alike": "wide"}
    assert found.same_rows == expected


def test_inputs_changed_in_place_are_others():
    class Changing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = (nn.Linear(4, 4) for _ in range(3))

        def forward(self, x):
            y = self.a(x) + self.b(x)
            x.add_(1)
            return y + self.c(x)

    found = survey(Changing(), "abc", [torch.randn(3, 4)])
    assert found.same_rows == {"a": "a", "b": "a", "c": "c"}
