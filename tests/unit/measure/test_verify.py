"""verify: which layers learn, and which only seem to."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import weightcast as wc
from weightcast import dictionaries as d

DCT = wc.Rule(d.DCT(), 0.5)


@dataclass
class Output:
    logits: Tensor
    ids: Tensor


class Tokens(nn.Module):
    """Integer inputs by name, dropout, and outputs in a dataclass, a mapping or a tuple."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.table, self.drop = nn.Embedding(11, 8), nn.Dropout(0.5)
        self.lstm, self.out = nn.LSTM(8, 6, batch_first=True), nn.Linear(6, 3)
        self.norm, self.kind = nn.BatchNorm1d(3), kind

    def forward(self, tokens, *, scale=1.0):
        y = self.norm(self.out(self.drop(self.lstm(self.drop(self.table(tokens)))[0]))[:, -1])
        outputs = {"dataclass": Output(y * scale, tokens), "mapping": {"y": y}, "tuple": (y, [y])}
        return outputs[self.kind]


@pytest.mark.parametrize("kind", ["dataclass", "mapping", "tuple"])
def test_every_v_learns_and_everything_stays_as_it_was(kind, unmoved_randomness):
    state = torch.get_rng_state()
    model = wc.convert(Tokens(kind), {"*": DCT}).train()
    torch.set_rng_state(state)
    model.drop.eval()
    model.table.V.grad = torch.ones_like(model.table.V)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    rows = wc.verify(model, {"tokens": torch.arange(10).view(2, 5), "scale": 2.0})
    assert [row.layer for row in rows] == ["table", "lstm.ih_l0", "lstm.hh_l0", "out"]
    assert all(row.gradient > 1e-6 and row.change > 1e-6 for row in rows)
    assert model.training
    assert not model.drop.training
    assert torch.equal(model.table.V.grad, torch.ones_like(model.table.V))
    assert all(p.grad is None for name, p in model.named_parameters() if name != "table.V")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


class Reads(nn.Module):
    """Reads the weight of a layer inside it once, or where no gradient follows."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.good, self.bad, self.how = nn.Linear(8, 8), nn.Linear(8, 8), how

    def forward(self, x):
        x = self.good(x)
        if self.how == "detached":
            return x @ self.bad.weight.detach().t()
        if self.how == "kept":
            if not hasattr(self, "copy"):
                self.copy = self.bad.weight.detach().clone()
            return x @ self.copy.t()
        if self.how == "gradient alone":
            W = self.bad.weight
            return x + (W - W.detach()).sum()
        return x


@pytest.mark.parametrize("how", ["detached", "kept", "gradient alone", "not called"])
def test_layers_that_do_not_learn_are_named(how, refuses):
    model = wc.convert(Reads(how), {"*": DCT})
    with refuses(model, "1 of 2 predicted layers do not learn", "'bad'", "Leave those dense"):
        wc.verify(model, torch.randn(3, 8))


def test_mistakes(refuses):
    model = nn.Sequential(nn.Linear(8, 4))
    with refuses(model, "no predicted layer: convert it first"):
        wc.verify(model, torch.randn(3, 8))
    model = wc.convert(model, {"*": DCT})
    with refuses(
        model,
        r"failed on its inputs \(3, 9\), in module '0' \(PredictedLinear\).*input is \(3, 9\)",
    ):
        wc.verify(model, torch.randn(3, 9))
    with refuses(model, "inputs is empty"):
        wc.verify(model, [])


def test_all_batches_count():
    class Router(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.low, self.high = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):  # control flow that depends on data
            return self.low(x) if float(x.sum()) < 0 else self.high(x)

    model = wc.convert(Router(), {"*": DCT})
    low, high = -torch.rand(2, 4), torch.rand(2, 4)
    assert len(wc.verify(model, [low, high])) == 2
    with pytest.raises(ValueError, match="'high'"):
        wc.verify(model, [low])


def test_randomness_of_python_and_numpy_is_left_alone(unmoved_randomness):
    class Draws(nn.Linear):
        def forward(self, x):
            return x * random.random() + np.random.rand()

    state = torch.get_rng_state()
    model = wc.convert(nn.Sequential(nn.Linear(8, 8), Draws(8, 8)), {"0": DCT})
    torch.set_rng_state(state)
    wc.verify(model, torch.linspace(-1, 1, 24).view(3, 8))


class Ends(nn.Module):
    """A layer, and what is done to its input or its output."""

    def __init__(self, end) -> None:
        super().__init__()
        self.fc, self.end = nn.Linear(8, 8), end

    def forward(self, x, mask=None):
        y = self.fc(x if mask is None else x.masked_fill(mask == -torch.inf, 0))
        return self.end(y)


def test_outputs_that_are_masked_are_left_out():
    causal = torch.ones(8, 8).triu(1).bool()
    ends = [
        lambda y: y.masked_fill(causal, -torch.inf),
        lambda y: y.masked_fill(y < y.topk(3).values[:, -1:], -torch.inf),
    ]
    for end in ends:
        (row,) = wc.verify(wc.convert(Ends(end), {"*": DCT}), torch.randn(8, 8))
        assert 0 < row.change < 1e3
    model = wc.convert(Ends(lambda y: y), {"*": DCT})
    mask = torch.zeros(8, 8).masked_fill(causal, -torch.inf)
    assert wc.verify(model, {"x": torch.randn(8, 8), "mask": mask})


def test_what_is_not_finite_is_said(refuses):
    model, x = wc.convert(Ends(lambda y: y), {"*": DCT}), torch.randn(3, 8)
    x[1, 2:4] = torch.nan
    for batch in (x, (x, torch.zeros(3)), {"x": x}):
        with refuses(model, "2 of 24 input values are NaN: clean the inputs"):
            wc.verify(model, [batch])
    model.end = lambda y: y / 0
    with refuses(model, "none of the numbers that the model returns is finite"):
        wc.verify(model, torch.randn(3, 8))


def test_a_model_that_works_in_place_on_its_input():
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.good, self.idle = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            return self.good(x.mul_(2))

    model, x = wc.convert(InPlace(), {"*": DCT}), torch.randn(3, 8)
    before = x.clone()
    with pytest.raises(ValueError, match=r"'idle' \(gradient 0, change 0\)"):
        wc.verify(model, x)
    assert torch.equal(x, before)


class Squeeze(nn.Module):
    """Squeeze and excite: each channel times a gate that depends on the means of all."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.LazyConv2d(channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.f, self.g = nn.Linear(channels, 8), nn.Linear(8, channels)

    def forward(self, x):
        x = self.norm(self.conv(x)).relu()
        return x * self.g(self.f(x.mean((2, 3))).relu()).sigmoid()[..., None, None]


@pytest.mark.parametrize("called", [True, False])
def test_a_gate_that_changes_the_output_by_less_than_float32_tells_learns(called):
    torch.manual_seed(0)
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)
    dense = nn.Sequential(*(Squeeze(32) for _ in range(8)), *head).eval()
    x = torch.rand(8, 3, 16, 16)
    (dense(x) * torch.randn(8, 10)).sum().backward()
    assert 0 < dense[7].f.weight.grad.norm() < 1e-6  # of the dense layer too, there and then
    dense.zero_grad()
    model = wc.convert(dense, {"re:.*f": DCT, "*": None})
    if not called:
        model[7].f.forward = lambda x: torch.ones(len(x), 8)
        with pytest.raises(ValueError, match=r"1 of 8 .* '7.f' \(gradient 0, change 0\)"):
            wc.verify(model, x)
    else:
        assert all(0 < row.change < 1e-3 for row in wc.verify(model, x))
