"""observing: what layers are given and give, dense or predicted."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import weightcast as wc
from weightcast.inputs.batches import InputsError, call
from weightcast.inputs.hooks import observing


class Routed(nn.Module):
    """A mixture: rows of one sign go to one expert, the third gets none."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(40, 3)
        self.experts = nn.ModuleList(nn.Linear(40, 40) for _ in range(3))

    def forward(self, x):
        y, choice = x.clone(), (x[:, 0] < 0).long()
        for number, expert in enumerate(self.experts):
            rows = choice == number
            if bool(rows.any()):
                y[rows] = expert(x[rows])
        return self.head(y)


@pytest.mark.parametrize("n_rows", [0, 1, 2])
def test_experts_of_too_few_rows_are_taken_as_not_run(n_rows):
    model, x = Routed(), torch.rand(90, 40) + 0.1
    batches = [x, -x[:n_rows]]
    plan = {"re:experts.*": wc.Rule(wc.dictionaries.DCT(), 0.5)}
    small = wc.compress(model, plan, batches, progress=False)
    plain = wc.compress(model, plan, progress=False)
    same = torch.equal(small.experts[1].V, plain.experts[1].V)
    assert same == (n_rows < 2)
    rows = wc.probe(model, (0.5,), inputs=batches, progress=False).rows
    known = {row.layer for row in rows if row.output_r2 is not None}
    assert known == {"experts.0", "head"} | ({"experts.1"} if n_rows > 1 else set())
    plan = wc.suggest(model, budget=0.9, inputs=batches, progress=False)
    assert set(plan.rules) <= {"*", *known}


class Mixed(nn.Module):
    """A recurrent network and an attention of self and of others, whose hook changes nothing."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lstm, self.head = nn.LSTM(8, 6, batch_first=True), nn.Linear(6, 3)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True, dropout=0.5)
        self.calls = 0
        self.lstm.register_forward_hook(self.count)

    def count(self, *_):
        self.calls += 1

    def forward(self, x):
        y = self.lstm(x)[0]
        return self.head(y + self.attention(y, y, y)[0] + self.attention(y[:, :2], y, y)[0][:, :1])


NAMES = ["lstm.ih_l0", "lstm.hh_l0", "attention.in_proj", "attention.out_proj", "head"]


@pytest.mark.parametrize("outputs", [False, True])
def test_dense_and_predicted_models_are_observed_alike(outputs):
    model, x = Mixed(), torch.randn(5, 4, 8)
    predicted = wc.convert(model, {"attention": wc.Rule(wc.dictionaries.DCT(), 1.0)})
    modules, y = dict(model.named_modules()), model.eval()(x)
    model.train()
    calls, seen = model.calls, []
    for network in (model, predicted):
        found: dict[str, list[torch.Tensor]] = {}

        def take(name, layer, what, found=found):
            assert layer.weight is not None
            found.setdefault(name, []).append(what if outputs else what[0])

        with observing(network, NAMES, take, outputs=outputs):
            torch.testing.assert_close(network(x).shape, y.shape)
        seen.append(found)
    assert {name: len(found) for name, found in seen[0].items()} == dict(
        zip(NAMES, (1, 1, 2, 2, 1), strict=True)
    )
    torch.testing.assert_close(seen[0]["lstm.ih_l0"], seen[1]["lstm.ih_l0"])
    assert [x.shape for x in seen[0]["head"]] == [x.shape for x in seen[1]["head"]]
    # The attention is what it was: no module took its place, and nobody called another twice.
    assert dict(model.named_modules()) == modules
    assert model.calls == calls
    assert model.training
    torch.testing.assert_close(model.eval()(x), y)
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_what_goes_wrong_in_taking_is_no_failure_of_the_model():
    model = nn.Sequential(nn.Linear(4, 3))

    def take(*_):
        raise ValueError("nothing to be made of it")

    with (
        pytest.raises(InputsError, match=r"^nothing to be made of it$"),
        observing(model, ["0"], take),
    ):
        call(model, torch.randn(2, 4))
    assert not model[0]._forward_pre_hooks
